"""Commits through a bad network: what the exception says is what a reader finds, whatever gets lost, late or doubled.

A model knows of each commit whether it must be on the log, must not be, or may be.  After each error the task is
fenced anew, and the checkpoint has to be one that the model allows; a commit whose outcome was unknown is known from
then on.  In the end another client reads the outputs: whole commits, those of the checkpoints and no others, in order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from streams.connectors.kafka.log import KafkaLog
from streams.connectors.kafka.writer import KafkaTaskWriter
from streams.core.log import Append, Commit, TopicSpec
from streams.core.membership import TaskRef
from streams.core.record import Position, Records, TopicPartition
from streams.errors import CommitUnknown, Fenced, LogUnavailable, RetryableError
from tests.brokers.kafka.proxied import ProxiedKafka
from tests.guarantees.kafka.verifier import group_offsets, hanging
from tests.guarantees.kafka_log import proxy as network
from tests.guarantees.kafka_log.proxy import KINDS, Fault, Proxy
from tests.guarantees.kafka_log.reading import values_of

SETTINGS = (
    "request_timeout_ms=300&connect_timeout_ms=1000&transaction_timeout_ms=3000&fetch_max_wait_ms=50"
    "&compression=none&batch_bytes=2000"
)
REQUESTS = (
    network.PRODUCE,
    network.FIND_COORDINATOR,
    network.METADATA,
    network.INIT_PRODUCER_ID,
    network.ADD_PARTITIONS,
    network.ADD_OFFSETS,
    network.TXN_OFFSET_COMMIT,
    network.END_TXN,
    network.FETCH,
    network.LIST_OFFSETS,
)
ASKED_BY_A_FENCE = (
    network.FIND_COORDINATOR,
    network.METADATA,
    network.INIT_PRODUCER_ID,
    network.FETCH,
    network.LIST_OFFSETS,
)
SKIPS = {network.PRODUCE: (0, 1, 2, 3), network.FIND_COORDINATOR: (0, 1), network.LIST_OFFSETS: (0, 1)}
PARTITIONS = 2
RECORDS = 12
"""Of each commit and partition: several batches."""
PATIENCE_S = 60.0


class Model:
    """What may be on the log.  committed: numbers of commits that are, in order."""

    def __init__(self) -> None:
        self.committed: list[int] = []
        self.unknown: int | None = None
        self._next = 1

    def take_number(self) -> int:
        self._next += 1
        return self._next - 1

    def check(self, checkpoint: bytes | None, after: str) -> None:
        """The checkpoint that a fence found settles what was unknown; anything else that it says must be known."""
        found = int(checkpoint) if checkpoint is not None else 0
        if self.unknown is not None and found == self.unknown:
            self.committed.append(found)
        self.unknown = None
        last = self.committed[-1] if self.committed else 0
        assert found == last, f"the checkpoint is {found} where {last} was the last commit; {after}"


class Task:
    """A task that commits numbers, through a proxy."""

    def __init__(
        self,
        broker: ProxiedKafka,
        app: str,
        outputs: str,
        chance: random.Random,
        fence_kept_back: Callable[[], bool],
    ) -> None:
        self.fence_kept_back = fence_kept_back
        self.log = KafkaLog(f"kafka://{broker.proxied}?{SETTINGS}")
        self.model = Model()
        self.outcomes: list[str] = []
        self.input = TopicPartition(f"{outputs}-in", 0)
        self._ref = TaskRef(app, 0, f"{app}-0")
        self._outputs = outputs
        self._chance = chance
        self._writer: KafkaTaskWriter | None = None
        self._what = "at the start"

    async def open(self) -> None:
        await self.log.open()
        await self.log.create_topics([TopicSpec(self._outputs, PARTITIONS), TopicSpec(self.input.topic)])
        await self.fence()

    async def close(self) -> None:
        if self._writer is not None:
            await self._writer.close()
        await self.log.close()

    async def fence(self) -> None:
        """As a driver does after an error: until it works, and then believe the checkpoint."""
        if self._writer is not None:
            await self._writer.close()
            self._writer = None
        async with asyncio.timeout(PATIENCE_S):
            while self._writer is None:
                try:
                    self._writer = await self.log.fence(self._ref)
                except RetryableError as error:
                    self.outcomes.append(f"fence: {type(error).__name__}")
        self.model.check(self._writer.checkpoint, self._what)

    def commit_of(self, number: int) -> Commit:
        appends = [
            Append(
                TopicPartition(self._outputs, partition),
                Records(
                    [b"k"] * RECORDS, [b"%d:%d:%0300d" % (number, each, 0) for each in range(RECORDS)], [1] * RECORDS
                ),
            )
            for partition in range(PARTITIONS)
        ]
        return Commit(b"%d" % number, appends, {self.input: Position.at(number)})

    async def commit(self, what: str) -> str:
        """Commit the next number; after an error fence anew.  What came out."""
        outcome = await self._commit(what)
        if outcome != "stored":
            await self.fence()
        return outcome

    async def commit_against(self, rival: KafkaLog, pause_s: float, what: str) -> None:
        """Commit the next number while another owner takes the task over, and commits too; be a zombie then.

        A request of one of this task's fences that the network kept back may reach the broker just then.  It fences the
        other owner, who does what every owner does: fence anew, find the same, commit.
        """
        said = f"while another owner took over, and {what}"
        outcome, (found, stored) = await asyncio.gather(self._commit(said), self._take_over(rival, pause_s))
        self.model.check(found, self._what)
        self.model.committed.append(stored)
        if outcome == "stored":
            assert await self._commit("as a zombie") in ("fenced", "not stored", "unknown")
        await self.fence()

    async def _take_over(self, rival: KafkaLog, pause_s: float) -> tuple[bytes | None, int]:
        """What the rival found, and what it committed."""
        await asyncio.sleep(pause_s)
        found: set[bytes | None] = set()
        while True:
            writer = await rival.fence(self._ref)
            found.add(writer.checkpoint)
            number = self.model.take_number()
            try:
                await writer.commit(self.commit_of(number))
            except Fenced:
                self.outcomes.append(f"commit {number} of the other owner was fenced")
                assert self.fence_kept_back(), "; ".join(self.outcomes)
                continue
            finally:
                await writer.close()
            [checkpoint] = found
            return checkpoint, number

    async def _commit(self, what: str) -> str:
        assert self._writer is not None
        number = self.model.take_number()
        try:
            await self._writer.commit(self.commit_of(number))
        except CommitUnknown:
            self.model.unknown = number
            outcome = "unknown"
        except Fenced:
            outcome = "fenced"
        except LogUnavailable:
            outcome = "not stored"
        else:
            self.model.committed.append(number)
            outcome = "stored"
        self._what = f"commit {number} was said to be {outcome}, with {what}"
        self.outcomes.append(self._what)
        return outcome


def verify(broker: ProxiedKafka, task: Task, app: str, outputs: str) -> None:
    """Read with another client, past the proxy."""
    expected = [f"{number}:{each}" for number in task.model.committed for each in range(RECORDS)]
    for partition in range(PARTITIONS):
        values = asyncio.run(values_of(broker.bootstrap, outputs, partition))
        found = [b":".join(value.split(b":")[:2]).decode() for value in values if value is not None]
        assert found == expected, f"partition {partition}; " + "; ".join(task.outcomes)
    assert not hanging(broker.bootstrap, [outputs, f"{app}.checkpoints"])
    offsets = {(at.topic, at.partition): offset for at, offset in group_offsets(broker.bootstrap, app).items()}
    assert offsets[task.input] == task.model.committed[-1], "the group's offsets aren't those of the last commit"


def test_what_a_commit_says_is_what_is_on_the_log_whatever_the_network_does(
    kafka_proxied: ProxiedKafka, unique: Callable[[str], str], chance: random.Random
) -> None:
    app, outputs = unique("app"), unique("out")
    struck: list[Fault] = []
    faults: list[Fault] = []

    def fence_kept_back() -> bool:
        return any(fault.api == network.INIT_PRODUCER_ID and fault.struck for fault in [*struck, *faults])

    task = Task(kafka_proxied, app, outputs, chance, fence_kept_back)

    async def run() -> None:
        async with Proxy(kafka_proxied) as proxy:
            await task.open()
            rival = KafkaLog(f"kafka://{kafka_proxied.bootstrap}")
            await rival.open()
            try:
                plan = [(api, kind) for api in REQUESTS for kind in KINDS]
                chance.shuffle(plan)
                for index, (api, kind) in enumerate(plan):
                    delay_s = chance.choice([0.05, 0.5])
                    faults[:] = [Fault(api, kind, delay_s, skip=chance.choice(SKIPS.get(api, (0,))))]
                    if chance.random() < 0.3:  # misfortunes come in pairs
                        faults.append(Fault(chance.choice(REQUESTS), chance.choice(KINDS), delay_s))
                    proxy.faults = list(faults)
                    if api in ASKED_BY_A_FENCE:
                        await task.fence()
                    if index % 5 == 0:
                        await task.commit_against(rival, chance.random() * 0.03, f"{faults}")
                    else:
                        await task.commit(f"{faults}")
                    if chance.random() < 0.5:
                        await task.commit(f"the one after {faults}")
                    struck.extend(fault for fault in faults if fault.struck)
                proxy.faults = []
                assert await task.commit("a good network") == "stored"
                await proxy.delivered()
            finally:
                await rival.close()
                await task.close()

    asyncio.run(run())
    verify(kafka_proxied, task, app, outputs)
    kinds = {outcome.split(" was said to be ")[-1].split(",")[0] for outcome in task.outcomes}
    print(len(task.outcomes), "outcomes", sorted(kinds), len(struck), "faults struck")
    assert {"stored", "unknown"} <= kinds, "the network was too good"
    assert len(struck) > len(REQUESTS) * len(KINDS) / 3
