"""A broker, a network and a client with a log, all by chance from a seed: does every message reach the journal once?

What must live here: the model and its sabotages.  What must not: the tests (``test_inflight``).

The broker keeps to the specification: it repeats what isn't acknowledged, in order and with DUP=1, when a session is
resumed, gives out identifiers in a circle or the lowest that is free, and may lose its session.  The network keeps the
order and may be cut anywhere.  The client commits in a pipeline, and may die at any moment: then a part of what it was
committing is durable, and nothing of it was said.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from streams.connectors.mqtt.inflight import Acks, Batch, Inflight
from streams.connectors.mqtt.packets import Publish
from streams.connectors.mqtt.properties import Properties

WINDOW = 4
WANTED = {"a/#": 2}


@dataclass(slots=True, kw_only=True)
class Cell:
    """What a trial is like."""

    qos: int
    lowest_free: bool = False
    identical: bool = False  # all payloads are equal
    loses_sessions: bool = False
    calm: bool = False  # nothing is cut and nobody dies
    late: bool = False  # what is repeated comes one by one, behind answers to pings: MQTT gives these no order
    spares_connects: bool = False  # nothing happens between CONNECT and what follows from CONNACK
    ids: int = 40  # so few packet identifiers that they come round
    age: int = 24
    sabotage: str = ""


@dataclass(slots=True)
class Flight:
    uid: int
    released: bool = False


@dataclass(slots=True)
class Broker:
    cell: Cell
    exists: bool = False
    subscribed: bool = False
    queue: deque[int] = field(default_factory=deque)
    flights: dict[int, Flight] = field(default_factory=dict)
    last_id: int = 0
    published: int = 0
    expected: list[int] = field(default_factory=list)
    perhaps: set[int] = field(default_factory=set)  # lost with a session: at most once
    connected: bool = False
    out: deque[tuple[str, int, int]] = field(default_factory=deque)  # (what, identifier, uid or flag)
    again: deque[tuple[str, int, int]] = field(default_factory=deque)  # repeated later

    def publish(self) -> None:
        self.published += 1
        if self.exists and self.subscribed:
            self.queue.append(self.published)
            self.expected.append(self.published)
            self.pump()

    def pump(self) -> None:
        if self.connected and self.again:
            self.out.append(self.again.popleft())
        while self.connected and self.queue and len(self.flights) < WINDOW:
            candidates = [(self.last_id + step) % self.cell.ids + 1 for step in range(self.cell.ids)]
            if self.cell.lowest_free:
                candidates = list(range(1, self.cell.ids + 1))
            packet_id = next(each for each in candidates if each not in self.flights)
            self.last_id = packet_id
            uid = self.queue.popleft()
            self.flights[packet_id] = Flight(uid)
            self.out.append(("publish", packet_id, uid))

    def lose_session(self) -> None:
        self.perhaps |= {flight.uid for flight in self.flights.values()} | set(self.queue)
        self.exists = self.subscribed = self.connected = False
        for each in (self.queue, self.flights, self.out, self.again):
            each.clear()
        self.last_id = 0

    def hear(self, what: str, packet_id: int) -> None:
        flight = self.flights.get(packet_id)
        if what == "connect":
            self.out.clear()
            self.out.append(("connack", 0, int(self.exists)))
            self.exists = self.connected = True
            self.again.clear()
            for each, old in self.flights.items():
                where = self.again if self.cell.late else self.out
                where.append(("pubrel", each, 0) if old.released else ("again", each, old.uid))
        elif what == "subscribe":
            self.subscribed = True
            self.out.append(("suback", 0, 0))
        elif what == "ping":
            self.out.append(("pong", packet_id, 0))
        elif (what == "puback" and flight is not None) or (what == "pubcomp" and flight is not None):
            del self.flights[packet_id]
        elif what == "pubrec" and flight is not None:
            flight.released = True
            self.out.append(("pubrel", packet_id, 0))
        self.pump()


class Sabotaged(Inflight):
    """Rules left out, each by its name."""

    sabotage = ""
    first, repeated = 0, frozenset[int]()  # of this connection: the number of its first message, what came again

    def connecting(self) -> None:
        super().connecting()
        if self.sabotage == "no connecting":
            self._delta = [each for each in self._delta if each != b"K"]
            self._in_doubt = False

    def message(self, packet: Publish) -> bool:
        self.repeated |= {packet.packet_id}
        return super().message(packet)

    def connected(self, session_present: bool) -> None:
        self.first, self.repeated = self._number, frozenset()
        if self.sabotage == "not cleared" and not session_present:
            self._subscriptions = {}
            self._sent = self._connecting = False
            return
        super().connected(session_present)

    def _is_repeated(self, packet: Publish, known: object, digest: bytes) -> bool:
        if self.sabotage == "no digest" and packet.qos == 1:
            return packet.dup
        if self.sabotage == "no dup" and packet.qos == 1:
            return known.digest == digest  # type: ignore[attr-defined,no-any-return]
        return super()._is_repeated(packet, known, digest)  # type: ignore[arg-type]

    def committed(self, batch: Batch) -> Acks:
        if self.sabotage == "acks of another connection":
            batch.connection = self._connection
        acks = super().committed(batch)
        if self.sabotage == "forgotten with the commit":
            for packet_id, number in batch.acked:
                if packet_id in self._known and self._known[packet_id].number == number:
                    self._forget(packet_id)
        return acks

    def ponged(self, number: int) -> None:
        if self.sabotage == "a pong forgets all":
            for packet_id in [each for each, entry in self._known.items() if entry.qos == 1]:
                self._forget(packet_id)
        if self.sabotage == "a pong forgets what was there before and hasn't come again":
            for packet_id, entry in list(self._known.items()):
                if entry.qos == 1 and entry.number < self.first and packet_id not in self.repeated:
                    self._forget(packet_id)
        super().ponged(number)

    def _forget_old(self) -> None:
        if self.sabotage != "no age":
            super()._forget_old()


@dataclass(slots=True)
class Commit:
    batch: Batch | None
    uids: list[int]


class Client:
    """One process at a time, over a log that outlives it."""

    def __init__(self, cell: Cell, chance: random.Random, broker: Broker) -> None:
        self.cell, self.chance, self.broker = cell, chance, broker
        self.deltas: list[bytes] = []
        self.journal: list[int] = []
        self.start()

    def start(self) -> None:
        self.inflight = Sabotaged(self.deltas, age=self.cell.age)
        self.inflight.sabotage = self.cell.sabotage
        self.fresh: list[int] = []
        self.commits: deque[Commit] = deque()
        self.phase = "down"
        self.out: deque[tuple[str, int]] = deque()
        self.pings = 0

    def die(self) -> None:
        for _ in range(self.chance.randint(0, len(self.commits))):
            self._store(self.commits.popleft())
        self.cut()
        self.start()

    def cut(self) -> None:
        for _ in range(self.chance.randint(0, len(self.out))):
            if self.broker.connected:
                self.broker.hear(*self.out.popleft())
        self.out.clear()
        self.broker.connected = False
        self.broker.out.clear()
        self.phase = "down"

    def connect(self) -> None:
        self.pings = 0
        self.inflight.connecting()
        self.take()
        self.phase = "marking"
        self._go_on()

    def take(self) -> None:
        batch = self.inflight.take()
        if batch is None and not self.fresh:
            return
        self.commits.append(Commit(batch, self.fresh))
        self.fresh = []
        if batch is not None and self.cell.sabotage == "acknowledged before the commit":
            self._say(batch.acks)
            batch.acks = Acks()

    def _store(self, commit: Commit) -> None:
        if commit.batch is not None and commit.batch.delta:
            self.deltas.append(commit.batch.delta)
        self.journal += commit.uids

    def commit(self) -> None:
        commit = self.commits.popleft()
        self._store(commit)
        if commit.batch is not None:
            self._say(self.inflight.committed(commit.batch))
        self._go_on()

    def _go_on(self) -> None:
        """With what waits until everything is durable."""
        if not self.commits and self.phase == "marking":
            self.out.append(("connect", 0))
            self.phase = "waiting"
        elif not self.commits and self.phase == "clearing":
            self._subscribe()

    def _say(self, acks: Acks) -> None:
        if self.phase in ("up", "subscribing"):
            for what, ids in (("puback", acks.pubacks), ("pubrec", acks.pubrecs), ("pubcomp", acks.pubcomps)):
                self.out += [(what, each) for each in ids]

    def ping(self) -> None:
        if self.phase == "up":
            self.pings += 1
            self.inflight.pinged(self.pings)
            self.out.append(("ping", self.pings))

    def compact(self) -> None:
        self.take()
        if not self.commits:
            self.deltas[:] = [self.inflight.snapshot()]

    def _subscribe(self) -> None:
        self.phase = "up"
        if self.inflight.missing(WANTED)[0]:
            self.out.append(("subscribe", 0))
            self.phase = "subscribing"

    def hear(self, what: str, packet_id: int, value: int) -> None:
        if what == "connack":
            self.inflight.connected(bool(value))
            self.take()
            self.phase = "clearing"
            if value or not self.commits or self.cell.sabotage == "subscribed before it is cleared":
                self._subscribe()
        elif what == "suback":
            self.inflight.subscribed(WANTED)
            self.phase = "up"
        elif what == "pong":
            self.inflight.ponged(packet_id)
        elif what == "pubrel":
            self.inflight.release(packet_id)
            if self.cell.sabotage == "PUBCOMP before the commit":
                self.inflight._acks.pubcomps.clear()
                self.out.append(("pubcomp", packet_id))
        else:
            payload = b"same" if self.cell.identical else b"%d" % value
            known_by = Properties(user_property=[("uid", str(value))])
            packet = Publish("a/b", payload, self.cell.qos, False, what == "again", packet_id, known_by)
            if self.inflight.message(packet):
                self.fresh.append(value)


def fault_of(cell: Cell, seed: int, steps: int = 400) -> str:
    """Run one trial; what went wrong with the journal, or nothing."""
    chance = random.Random(seed)
    broker = Broker(cell)
    client = Client(cell, chance, broker)
    weights = {
        "publish": 20,
        "to client": 30,
        "to broker": 30,
        "take": 12,
        "commit": 14,
        "ping": chance.choice([1, 5]),
        "cut": 0 if cell.calm else chance.choice([0, 1, 2]),
        "die": 0 if cell.calm else chance.choice([1, 2, 4]),
        "compact": 2,
        "lose": 0.4 if cell.loses_sessions else 0,
    }
    actions, likely = list(weights), list(weights.values())
    for _ in range(steps):
        _act(chance.choices(actions, likely)[0], client, broker)
    for _ in range(100):  # and now everything works
        broker.publish()
        for what in ("to client", "to broker", "take", "commit", "ping") * 6:
            _act(what, client, broker)
    seen = client.journal
    if len(set(seen)) < len(seen):
        return f"twice: {sorted(uid for uid in set(seen) if seen.count(uid) > 1)}"
    if seen != sorted(seen) and not cell.late:
        return "out of order"
    missing = set(broker.expected) - set(seen) - broker.perhaps
    # Of the last ones a few may be under way still.
    missing -= set(broker.queue) | {flight.uid for flight in broker.flights.values()} | set(client.fresh)
    missing -= {uid for commit in client.commits for uid in commit.uids} | {broker.published}
    return f"lost: {sorted(missing)}" if missing else ("" if len(seen) > 20 else "nothing happens")


def _act(what: str, client: Client, broker: Broker) -> None:
    if client.cell.spares_connects and client.phase in ("waiting", "clearing") and what in ("cut", "die", "lose"):
        return
    match what:
        case "publish":
            broker.publish()
        case "to client" if broker.out:
            client.hear(*broker.out.popleft())
        case "to broker" if client.out:
            broker.hear(*client.out.popleft())
        case "to broker" if client.phase == "down":
            client.connect()
        case "take":
            client.take()
        case "commit" if client.commits:
            client.commit()
        case "ping":
            client.ping()
        case "cut" if client.phase != "down":
            client.cut()
        case "die":
            client.die()
        case "compact":
            client.compact()
        case "lose" if client.phase in ("down", "marking"):
            broker.lose_session()
        case "lose":
            client.cut()
            broker.lose_session()
