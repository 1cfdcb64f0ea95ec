"""Journals of edges on a Kafka log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.brokers.kafka.broker import KafkaBroker
from tests.runtime.journal_scenario import check_journals


def test_journals_are_internal_trimmed_and_start_over(kafka: KafkaBroker, unique: Callable[[str], str]) -> None:
    asyncio.run(check_journals(f"kafka://{kafka.bootstrap}", unique("shop")))
