"""Journals of edges on a JetStream log."""

from __future__ import annotations

import asyncio

from tests.brokers.nats.server import NatsServer
from tests.runtime.journal_scenario import check_journals


def test_journals_are_internal_trimmed_and_start_over(nats_own: NatsServer) -> None:
    asyncio.run(check_journals(f"{nats_own.url}?session_timeout_ms=1000", "shop"))
