"""``apps/ledger.py`` on a real broker: its events, its gates and the verdict."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from streams.connectors.kafka.partitioner import partition_of
from tests.guarantees.kafka.fleet import Fleet, FleetWorker
from tests.guarantees.kafka.verifier import Result, Verifier, differences
from tests.guarantees.pipeline_oracle import canonical

APP = Path(__file__).with_name("apps") / "ledger.py"
PARTITIONS = 2
ACCOUNTS = [f"account-{number}" for number in range(12)]


class Ledger:
    """The events of one test and what they should come to."""

    def __init__(self, broker: Any, name: str) -> None:
        self.name = name
        self.bootstrap: str = broker.bootstrap
        self.verifier = Verifier(self.bootstrap, [f"{name}.posted"])
        self.expected: list[Result] = []
        self._balances: Counter[str] = Counter()
        self._ids = itertools.count(1)
        broker.create_topic(f"{name}.events", PARTITIONS)

    def send(self, count: int) -> None:
        """So many events for each account, all in partition 0, so that one task passes them on."""
        rows: list[dict[str, Any]] = []
        for _ in range(count):
            for account in ACCOUNTS:
                number, amount = next(self._ids), len(rows) % 7 + 1
                rows.append({"id": number, "account": account, "amount": amount})
                self._balances[account] += amount
                self.expected.append((account, canonical({"id": number, "balance": self._balances[account]})))

        async def main() -> None:
            async with AIOKafkaProducer(bootstrap_servers=self.bootstrap, enable_idempotence=True) as producer:
                told = [
                    await producer.send(f"{self.name}.events", canonical(row).encode(), partition=0) for row in rows
                ]
                await asyncio.gather(*told)

        asyncio.run(main())

    def posted(self, partition: int) -> int:
        """How many results of the accounts of a partition can be read."""
        self.verifier.look()
        found = self.verifier.results(f"{self.name}.posted")
        return sum(partition_of(key.encode(), PARTITIONS) == partition for key, _ in found)

    def wanted(self, partition: int) -> int:
        return sum(partition_of(key.encode(), PARTITIONS) == partition for key, _ in self.expected)

    def done(self) -> bool:
        """As many results as there should be, or more."""
        return all(self.posted(each) >= self.wanted(each) for each in range(PARTITIONS))

    def verdict(self) -> str:
        self.verifier.look()
        found = [(key, canonical(value)) for key, value in self.verifier.results(f"{self.name}.posted")]
        return differences(found, self.expected, "posted")

    def often(self) -> list[int]:
        """Ids of the events that are posted more than once."""
        self.verifier.look()
        counts = Counter(value["id"] for _, value in self.verifier.results(f"{self.name}.posted"))
        return [number for number, times in counts.items() if times > 1]


class Gates:
    """Steps of ``hooked`` workers at which they wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def close(self, task: str, step: str) -> None:
        (self.folder / f"{task}.{step}.reached").unlink(missing_ok=True)
        (self.folder / f"{task}.{step}").touch()

    def open(self, task: str, step: str) -> None:
        (self.folder / f"{task}.{step}").unlink()

    def reached(self, task: str, step: str) -> Callable[[], bool]:
        return (self.folder / f"{task}.{step}.reached").exists

    def at(self, task: str, step: str, fleet: Fleet) -> FleetWorker:
        """The worker that waits there (or has)."""
        number = int((self.folder / f"{task}.{step}.reached").read_text())
        return next(worker for worker in fleet.running.values() if worker.process.pid == number)

    def shares(self, tasks: Iterable[str]) -> Counter[str]:
        """How many of the tasks each process runs."""
        return Counter((self.folder / f"{task}.runs.reached").read_text() for task in tasks)
