"""Kafka as a log: the contract, on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from streams.connectors.kafka.config import parse_url
from streams.connectors.kafka.log import KafkaLog
from streams.core.log import Log
from streams.testing.log_contract import LogContract
from tests.brokers.kafka.broker import KafkaBroker


@pytest.fixture(scope="module")
def emptied() -> Iterator[KafkaBroker]:
    """A broker of this module's own, whose topics may all be removed."""
    with KafkaBroker() as broker:
        yield broker


class TestKafkaLog(LogContract):
    shared = True

    @pytest.fixture(autouse=True)
    def _broker(self, emptied: KafkaBroker) -> None:
        self.broker = emptied
        asyncio.run(self._empty())

    def make_log(self) -> Log:
        return KafkaLog(parse_url(f"kafka://{self.broker.bootstrap}?linger_ms=0"))

    async def _empty(self) -> None:
        log = KafkaLog(parse_url(f"kafka://{self.broker.bootstrap}"))
        await log.open()
        try:
            await log.delete_topics(list(await log.topics()))
        finally:
            await log.close()

    async def maintain(self, log: Log, now_ms: int) -> bool:
        """The broker does it when it likes."""
        return False

    def reopen_log(self, log: Log) -> Log | None:
        assert isinstance(log, KafkaLog)
        return KafkaLog(log.config)
