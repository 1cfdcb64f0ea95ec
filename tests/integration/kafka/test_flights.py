"""The main job on Kafka: the same result as plain Python, from records of 2013."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers.kafka.broker import KafkaBroker
from tests.examples.test_flights import oracle, result, run


@pytest.fixture
def own(kafka_jars: None) -> Iterator[KafkaBroker]:
    """A broker of its own: the example's topics have fixed names.  It looks for what to delete all the time."""
    with KafkaBroker({"log.retention.check.interval.ms": "500", "log.retention.ms": "604800000"}) as broker:
        yield broker


def test_january_of_2013_on_kafka_equals_plain_python_and_a_second_run_changes_nothing(
    own: KafkaBroker, tmp_path: Path
) -> None:
    expected = oracle.flights_result(1)
    options = ("--month", "1", "--json", "--log", f"kafka://{own.bootstrap}")
    assert result(run(tmp_path, *options)) == expected
    assert result(run(tmp_path, *options)) == expected
