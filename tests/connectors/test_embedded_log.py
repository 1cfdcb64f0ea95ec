"""The embedded log: the contract in both modes, and opening again."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.connectors.embedded import EmbeddedConfig, EmbeddedLog
from streams.core.capability import Durability
from streams.core.log import Log
from streams.testing.log_contract import LogContract


class TestEmbeddedLog(LogContract):
    durable = True

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path
        self.made = 0

    def make_log(self) -> Log:
        self.made += 1
        path = str(self.directory / f"log-{self.made}")
        return EmbeddedLog(
            EmbeddedConfig(path, durable=self.durable, max_record_bytes=3_000_000, compaction_min_bytes=1)
        )

    def reopen_log(self, log: Log) -> Log | None:
        assert isinstance(log, EmbeddedLog)
        return EmbeddedLog(log.config)

    def test_an_acknowledgement_survives_what_the_log_says(self) -> None:
        assert self.make_log().capabilities.durable is (Durability.POWER if self.durable else Durability.PROCESS)


class TestRelaxedEmbeddedLog(TestEmbeddedLog):
    durable = False
