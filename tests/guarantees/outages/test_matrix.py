"""Brokers go away and come back, in every way: workers wait at low cost, say so, and go on; nothing is lost or doubled.

In CI a few cells for each broker, by a seed that GUARANTEE_SEED changes.  ``make soak`` plays them all.  One by itself:

    STREAMS_SOAK=1 pytest tests/guarantees/outages/test_matrix.py -k kafka-swallow-15s-busy-2-stay
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.brokers.kafka.fixtures import missing
from tests.brokers.mqtt.server import NEEDED, ready
from tests.brokers.nats.fixtures import skip_without_nats
from tests.brokers.unavailable import skip_or_fail
from tests.guarantees.kafka.fleet import Fleet
from tests.guarantees.outages.brokers import GROUNDS
from tests.guarantees.outages.endurance import APP, Endured, Theatre
from tests.guarantees.outages.matrix import BROKERS, Cell, few, whole

SEED = int(os.environ.get("GUARANTEE_SEED") or 9)
HOW = "STREAMS_SOAK=1 pytest tests/guarantees/outages/test_matrix.py -k {}"


def need(broker: str) -> None:
    """Skip where the broker can't be had; in CI fail."""
    if broker == "kafka" and (reason := missing(openssl=False)):
        skip_or_fail(reason)
    if broker == "nats":
        skip_without_nats()
    if broker == "mqtt" and not ready():
        skip_or_fail(NEEDED)


class Theatres:
    """The theatre that was asked for last: cells of one broker and as many workers share it, unless one has failed."""

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._at: tuple[str, int] | None = None
        self._theatre: Theatre | None = None

    def play(self, cell: Cell, chance: random.Random) -> Endured:
        if self._theatre is None or self._at != (cell.broker, cell.workers):
            self.close()
            self._theatre, self._at = self._opened(cell.broker, cell.workers), (cell.broker, cell.workers)
        try:
            endured = self._theatre.play(cell, chance)
        except BaseException as error:
            error.add_note(f"again: {HOW.format(cell)}\nwhat the workers said: {self._theatre.said_in}")
            self.close()
            raise
        print(endured, flush=True)
        return endured

    def _opened(self, broker: str, workers: int) -> Theatre:
        folder = self._folder(broker)
        ground = self._open.enter_context(GROUNDS[broker](folder))
        fleet = self._open.enter_context(
            Fleet(APP, "", folder, log=ground.log, env=ground.env, options=["--port", "0"])
        )
        theatre = Theatre(ground, fleet, workers)
        theatre.open()
        return theatre

    def close(self) -> None:
        self._theatre = None
        self._open.close()


@pytest.fixture(scope="module")
def theatres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatres]:
    theatres = Theatres(tmp_path_factory.mktemp)
    print(f"\n{Endured.HEAD}")
    yield theatres
    theatres.close()


@pytest.mark.parametrize("broker", BROKERS)
def test_a_few_outages_of_each_kind_lose_and_double_nothing_and_are_waited_out_at_low_cost(
    theatres: Theatres, broker: str
) -> None:
    need(broker)
    print(f"GUARANTEE_SEED={SEED} chooses these")
    for cell in few(SEED)[broker]:
        theatres.play(cell, random.Random(SEED))


@pytest.mark.soak
@pytest.mark.parametrize("cell", list(whole()), ids=str)
def test_an_outage_loses_and_doubles_nothing_and_is_waited_out_at_low_cost(
    theatres: Theatres, cell: Cell, chance: random.Random
) -> None:
    need(cell.broker)
    theatres.play(cell, chance)
