"""JetStream as a log: the contract, on a real server."""

from __future__ import annotations

import pytest

from streams.connectors.jetstream.compaction import Policy
from streams.connectors.jetstream.log import JetStreamLog
from streams.core.log import Log
from streams.testing.log_contract import LogContract
from tests.brokers.nats.server import NatsServer


class TestJetStreamLog(LogContract):
    shared = True

    @pytest.fixture(autouse=True)
    def _server(self, nats_own: NatsServer) -> None:
        self.url = nats_own.url

    def make_log(self) -> Log:
        return JetStreamLog(self.url, compaction=Policy(min_bytes=1))

    async def maintain(self, log: Log, now_ms: int) -> bool:
        await log.maintain(now_ms)
        return False

    async def compact(self, log: Log, now_ms: int) -> bool:
        await log.maintain(now_ms)
        return True

    def reopen_log(self, log: Log) -> Log | None:
        return JetStreamLog(self.url)
