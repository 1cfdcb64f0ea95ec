"""Exactly once from the log to an MQTT session at QoS 2: each rule by itself, then all of them in a model by chance."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, replace

import pytest

from streams.connectors.mqtt.outbox import Outbox, OutboxBatch, Say

SEEDS = 100
WINDOW = 4
IDS = 6  # that are given out in a circle, so that they come round


def committed(outbox: Outbox, log: list[bytes] | None = None) -> Say:
    batch = outbox.take()
    if batch is None:
        return Say()
    if log is not None:
        log.append(batch.delta)
    return outbox.committed(batch)


def connected(log: list[bytes]) -> Outbox:
    outbox = Outbox(log)
    assert resumed(outbox, True, log) == Say()
    committed(outbox, log)
    return outbox


def resumed(outbox: Outbox, present: bool, log: list[bytes] | None = None) -> Say:
    outbox.connecting()
    assert committed(outbox, log).publish == []
    return outbox.connected(present)


def test_a_message_goes_out_when_its_identifier_is_durable() -> None:
    outbox = connected([])
    assert outbox.assign(10, 2) == 1
    outbox.passed(11)
    assert outbox.assign(12, 1) == 2
    batch = outbox.take()
    assert batch is not None
    assert outbox.committed(batch) == Say([], [(10, 1, False), (12, 2, False)])
    assert (outbox.position, outbox.next_sequence, outbox.under_way()) == (10, 13, [10, 12])


def test_pubrel_goes_out_when_pubrec_is_durable() -> None:
    outbox = connected([])
    outbox.assign(0, 2)
    committed(outbox)
    assert outbox.pubrec(1) is None
    batch = outbox.take()
    assert batch is not None
    assert outbox.committed(batch) == Say([1], [])
    assert outbox.pubcomp(1) == 0
    assert outbox.position == 1


def test_after_a_crash_each_handshake_goes_on_where_it_stood() -> None:
    log: list[bytes] = []
    outbox = connected(log)
    for sequence in range(4):
        outbox.assign(sequence, 2)
    committed(outbox, log)
    outbox.pubrec(1)
    outbox.pubrec(2)
    committed(outbox, log)
    outbox.pubcomp(1)
    committed(outbox, log)
    outbox.pubrec(3)  # and it dies before that is durable
    outbox = Outbox(log)
    assert (outbox.position, outbox.next_sequence) == (1, 4)
    assert resumed(outbox, True) == Say([2], [(2, 3, True), (3, 4, True)])
    assert outbox.doubtful == 0
    assert outbox.assign(4, 2) == 5


def test_what_became_durable_without_a_connection_goes_out_with_the_next_one() -> None:
    outbox = connected([])
    outbox.assign(0, 2)
    committed(outbox)
    outbox.pubrec(1)
    outbox.assign(1, 2)
    outbox.disconnected()
    assert committed(outbox) == Say()
    assert outbox.connected(True) == Say([1], [(1, 2, False)])


def test_pubrec_that_isn_t_durable_when_the_connection_comes_back_is_neither_published_nor_released_yet() -> None:
    outbox = connected([])
    outbox.assign(0, 2)
    committed(outbox)
    outbox.pubrec(1)
    batch = outbox.take()
    assert batch is not None
    outbox.disconnected()
    assert outbox.connected(True) == Say()
    assert outbox.committed(batch) == Say([1], [])


def test_a_message_that_is_refused_is_done() -> None:
    outbox = connected([])
    outbox.assign(5, 2)
    outbox.assign(6, 1)
    committed(outbox)
    assert outbox.pubrec(1, 0x87) == 5
    assert outbox.puback(2) == 6
    assert len(outbox) == 0


def test_answers_to_what_is_not_under_way_say_nothing() -> None:
    outbox = connected([])
    outbox.assign(0, 2)
    committed(outbox)
    assert outbox.puback(1) is None
    assert outbox.pubrec(9) is None
    assert outbox.pubcomp(9) is None
    outbox.pubrec(1)
    committed(outbox)
    assert outbox.pubrec(1, 0x91) is None
    assert len(outbox) == 1


def test_a_lost_session_is_counted_and_its_messages_go_out_again() -> None:
    log: list[bytes] = []
    outbox = connected(log)
    outbox.assign(0, 2)
    outbox.assign(1, 2)
    committed(outbox, log)
    outbox.pubrec(1)
    committed(outbox, log)
    outbox = Outbox(log)
    assert resumed(outbox, False, log) == Say([], [(0, 1, False), (1, 2, False)])
    assert outbox.doubtful == 2
    committed(outbox, log)
    assert resumed(Outbox(log), True) == Say([], [(0, 1, True), (1, 2, True)])


def test_after_a_crash_behind_connect_what_was_received_is_released_and_counted() -> None:
    log: list[bytes] = []
    outbox = connected(log)
    outbox.assign(0, 2)
    outbox.assign(1, 2)
    committed(outbox, log)
    outbox.pubrec(1)
    committed(outbox, log)
    outbox = Outbox(log)
    outbox.connecting()
    committed(outbox, log)  # and it dies: whether a session was there, nobody knows
    outbox = Outbox(log)
    assert resumed(outbox, True, log) == Say([1], [(1, 2, True)])
    assert outbox.doubtful == 1


def test_an_attempt_that_didn_t_get_as_far_as_connect_leaves_no_doubt() -> None:
    outbox = connected([])
    outbox.assign(0, 2)
    committed(outbox)
    outbox.pubrec(1)
    outbox.disconnected()
    outbox.connecting()
    outbox.unsent()
    assert resumed(outbox, True) == Say([1], [])
    assert outbox.doubtful == 0


def test_identifiers_come_round_and_pass_over_those_under_way() -> None:
    outbox = connected([])
    first = outbox.assign(0, 2)
    committed(outbox)
    for sequence in range(1, 65_535):
        packet_id = outbox.assign(sequence, 1)
        assert outbox.puback(packet_id) == sequence
    assert packet_id == 65_535
    assert outbox.assign(65_535, 2) == 2
    assert first == 1


def test_a_snapshot_stands_for_all_deltas_before_it() -> None:
    log: list[bytes] = []
    outbox = connected(log)
    for sequence in range(5):
        outbox.assign(sequence, 2)
    outbox.passed(9)
    outbox.pubrec(1)
    outbox.pubrec(2)
    outbox.pubcomp(1)
    committed(outbox, log)
    snapshot = outbox.snapshot()
    for state in (log, [snapshot]):
        again = Outbox(state)
        assert (again.position, again.next_sequence) == (1, 10)
        assert again.snapshot() == snapshot
        assert resumed(again, True) == Say([2], [(2, 3, True), (3, 4, True), (4, 5, True)])


def test_a_delta_that_can_t_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="byte 0"):
        Outbox([b"?"])


@dataclass(slots=True, kw_only=True)
class Cell:
    qos: int
    on_pubrel: bool = False  # the broker hands a message on at PUBREL, not at PUBLISH
    loses_sessions: bool = False  # but never while a crash would leave open which session it is
    sabotage: str = ""


class Sabotaged(Outbox):
    sabotage = ""

    def assign(self, sequence: int, qos: int) -> int:
        packet_id = super().assign(sequence, qos)
        if packet_id > IDS and self.sabotage != "other identifiers":
            # A small circle of identifiers, so that each is used again soon.
            wanted = next(each for each in range(1, IDS + 1) if each not in self._under_way)
            handshake = self._under_way.pop(packet_id)
            handshake.packet_id = self._last_id = wanted
            self._under_way[wanted] = handshake
            at = max(at for at, each in enumerate(self._delta) if each[:1] in b"12")
            self._delta[at] = self._delta[at][:-2] + wanted.to_bytes(2, "big")
            return wanted
        return packet_id

    def connected(self, session_present: bool) -> Say:
        if self.sabotage == "published again after PUBREC":
            for each in self._under_way.values():
                each.received = each.released = False
        if self.sabotage == "other identifiers":
            self._last_id += 100
            for each in list(self._under_way.values()):
                if not each.received:
                    del self._under_way[each.packet_id]
                    self._last_id = each.packet_id = self._last_id % 0xFFFF + 1
                    self._under_way[each.packet_id] = each
            self._delta.append(self.snapshot_of())
        say = super().connected(session_present)
        if self.sabotage == "new before old":
            say.publish.reverse()
        return say

    def snapshot_of(self) -> bytes:
        kept, self._delta = self._delta, []
        try:
            return self.snapshot()
        finally:
            self._delta = kept

    def committed(self, batch: OutboxBatch) -> Say:
        say = super().committed(batch)
        if self.sabotage == "PUBREL before the commit":
            say.pubrel.clear()
        return say


class World:
    """A log with a growing outbox, a delivery task that dies, a network that is cut, and a broker that conforms."""

    def __init__(self, cell: Cell, seed: int) -> None:
        self.cell, self.chance = cell, random.Random(seed)
        self.deltas: list[bytes] = []
        self.end = 0
        self.exists = False
        self.held: dict[int, int] = {}  # at the broker: identifiers at QoS 2 before PUBREL
        self.delivered: list[int] = []
        self.start()

    def start(self) -> None:
        self.outbox = Sabotaged(self.deltas)
        self.outbox.sabotage = self.cell.sabotage
        self.sequences: dict[int, int] = {}
        self.commits: deque[OutboxBatch] = deque()
        self.drop_connection()

    def drop_connection(self) -> None:
        self.phase = "down"
        self.open_question: OutboxBatch | None = None
        self.outbox.disconnected()
        self.to_broker: deque[tuple[str, int, int]] = deque()
        self.to_client: deque[tuple[str, int]] = deque()

    def cut(self) -> None:
        for _ in range(self.chance.randint(0, len(self.to_broker))):
            self.hear(*self.to_broker.popleft())
        self.drop_connection()

    def say(self, say: Say) -> None:
        self.to_broker += [("pubrel", each, 0) for each in say.pubrel]
        self.to_broker += [("publish", packet_id, sequence) for sequence, packet_id, _ in say.publish]

    def hear(self, what: str, packet_id: int, sequence: int) -> None:
        if what == "publish" and self.cell.qos == 1:
            self.delivered.append(sequence)
            self.to_client.append(("puback", packet_id))
        elif what == "publish":
            if packet_id not in self.held:
                self.held[packet_id] = sequence
                if not self.cell.on_pubrel:
                    self.delivered.append(sequence)
            self.to_client.append(("pubrec", packet_id))
        else:
            held = self.held.pop(packet_id, None)
            if held is not None and self.cell.on_pubrel:
                self.delivered.append(held)
            self.to_client.append(("pubcomp", packet_id))

    def act(self, what: str) -> None:
        in_question = self.phase == "waiting" or self.open_question is not None
        if self.cell.loses_sessions and in_question and what in ("cut", "die", "lose"):
            return
        match what:
            case "grow":
                self.end += 1
            case "connect" if self.phase == "down":
                self.outbox.connecting()
                self.act("take")
                self.phase = "marking"
            case "connect" if self.phase == "marking" and not self.commits:
                self.phase = "waiting"
                self.to_client.append(("connack", int(self.exists)))
                self.exists = True
            case "assign" if self.outbox.next_sequence < self.end and len(self.outbox) < WINDOW:
                sequence = self.outbox.next_sequence
                packet_id = self.outbox.assign(sequence, self.cell.qos)
                if self.cell.sabotage == "PUBLISH before the commit" and self.phase == "up":
                    self.to_broker.append(("publish", packet_id, sequence))
            case "take":
                batch = self.outbox.take()
                if batch is not None:
                    self.commits.append(batch)
            case "commit" if self.commits:
                batch = self.commits.popleft()
                if batch is self.open_question:
                    self.open_question = None
                self.deltas.append(batch.delta)
                say = self.outbox.committed(batch)
                if self.cell.sabotage == "PUBLISH before the commit":
                    say.publish.clear()
                self.say(say)
            case "to broker" if self.to_broker:
                self.hear(*self.to_broker.popleft())
            case "to client" if self.to_client:
                kind, packet_id = self.to_client.popleft()
                if kind == "connack":
                    self.phase = "up"
                    self.say(self.outbox.connected(bool(packet_id)))
                    self.act("take")
                    self.open_question = None if packet_id else self.commits[-1]
                    return
                getattr(self.outbox, kind)(packet_id)
                if kind == "pubrec" and self.cell.sabotage == "PUBREL before the commit":
                    self.to_broker.append(("pubrel", packet_id, 0))
            case "cut" if self.phase != "down":
                self.cut()
            case "die":
                for _ in range(self.chance.randint(0, len(self.commits))):
                    self.deltas.append(self.commits.popleft().delta)
                self.cut()
                self.start()
            case "compact":
                self.act("take")
                if not self.commits:
                    self.deltas[:] = [self.outbox.snapshot()]
            case "lose":
                self.cut()
                self.held.clear()
                self.exists = False


def fault_of(cell: Cell, seed: int) -> str:
    world = World(cell, seed)
    world.exists = True  # so that its first connection finds a session, unless sessions get lost
    weights = {
        "grow": 20,
        "connect": 10,
        "assign": 25,
        "take": 15,
        "commit": 15,
        "to broker": 30,
        "to client": 30,
        "cut": world.chance.choice([0, 1, 2]),
        "die": world.chance.choice([1, 2, 4]),
        "compact": 2,
        "lose": 1 if cell.loses_sessions else 0,
    }
    actions, likely = list(weights), list(weights.values())
    for _ in range(400):
        world.act(world.chance.choices(actions, likely)[0])
    for _ in range(200):
        for what in ("connect", "assign", "take", "commit", "to broker", "to client") * 4:
            world.act(what)
    wanted, seen = list(range(world.end)), world.delivered
    if set(seen) != set(wanted):
        return f"lost: {sorted(set(wanted) - set(seen))}"
    if cell.qos == 2 and not cell.loses_sessions and len(seen) > len(wanted):
        return "twice"
    if list(dict.fromkeys(seen)) != wanted:
        return "out of order"
    return "" if world.outbox.position == world.end > 20 else "nothing happens"


CELLS = {
    "QoS 1": Cell(qos=1),
    "QoS 2": Cell(qos=2),
    "QoS 2, handed on at PUBREL": Cell(qos=2, on_pubrel=True),
    "QoS 2, sessions get lost": Cell(qos=2, loses_sessions=True),
    "QoS 2, sessions get lost, handed on at PUBREL": Cell(qos=2, loses_sessions=True, on_pubrel=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_message_is_handed_on_once_and_in_order(cell: Cell) -> None:
    assert {seed: fault for seed in range(SEEDS) if (fault := fault_of(cell, seed))} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "sabotage",
    [
        "PUBLISH before the commit",
        "PUBREL before the commit",
        "published again after PUBREC",
        "other identifiers",
        "new before old",
    ],
)
def test_without_any_one_rule_a_message_comes_twice_or_out_of_order(sabotage: str) -> None:
    cell = replace(CELLS["QoS 2"], sabotage=sabotage)
    assert any(fault_of(cell, seed) for seed in range(1000)), "nothing depends on it"
