"""What every test has: Hypothesis profiles, and markers given by folder.

No fixtures of one area live here; they stand beside the tests that use them.

- tests/integration/ is marked ``integration``, tests/guarantees/ ``guarantee``: a file there can't be forgotten
  by the stage that runs it, nor slow down the fast one.
- What tries many inputs (a test of Hypothesis, or one marked ``property``) is not traced by coverage, which would make
  it take three times as long: a line that no other test reaches counts as one that is not covered.
- What is marked ``soak`` runs in ``make soak`` only (``tests/stages.py``).
- Several processes that share the tests begin with the longest (``tests/durations.py``).
- The package is compiled before the first test, and no process that a test starts writes bytecode (``compiled``).
- In CI Hypothesis is derandomised (a red run is red again) and has no deadline (the machine is shared).  With
  HYPOTHESIS_PROFILE=fuzz each test takes 50 times as many examples as it does otherwise, at random (make fuzz).
"""

from __future__ import annotations

import compileall
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage
from hypothesis import HealthCheck, settings

from tests.durations import Recorder, longest_first
from tests.stages import SOAK

settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", deadline=None)
settings.register_profile("fuzz", deadline=None, suppress_health_check=[HealthCheck.too_slow])
PROFILE = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
settings.load_profile(PROFILE)
FUZZ_TIMES = 50

TESTS = Path(__file__).resolve().parent
ROOMS = ("streams", "connectors", "state", "apps")
MARKER_OF_FOLDER = {"integration": "integration", "guarantees": "guarantee"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-durations", action="store_true", help="write tests/durations.json anew")
    parser.addoption("--trace-all", action="store_true", help="property tests are traced by coverage, too")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record-durations"):
        config.pluginmanager.register(Recorder())
    if not hasattr(config, "workerinput"):  # of several processes that share the tests, the first one does it for all
        compiled()


def compiled() -> None:
    """Compile the package for the hundreds of processes that the tests start: where the environment forbids to write
    bytecode, each of them would compile it anew, which takes as long as all the rest of a start.

    They write none themselves: an app that a test replaces within the same second, by one of the same length, would
    still be taken from the bytecode of its former self.
    """
    for room in ROOMS:
        compileall.compile_dir(TESTS.parent / room, quiet=1)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def _more_examples(item: pytest.Item) -> None:
    """As many more as the fuzz profile takes; a number that stands at a test counts for more than a profile's."""
    function: Any = getattr(item, "obj", None)
    machine: Any = getattr(item, "cls", None)
    if machine is not None and isinstance(getattr(machine, "settings", None), settings):
        machine.settings = settings(machine.settings, max_examples=FUZZ_TIMES * machine.settings.max_examples)
    elif getattr(function, "is_hypothesis_test", False):
        held = function._hypothesis_internal_use_settings  # there is no public way to it
        more = settings(held, max_examples=FUZZ_TIMES * held.max_examples)
        function._hypothesis_internal_use_settings = more


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if PROFILE == "fuzz":
        for item in items:
            _more_examples(item)
    if not SOAK:
        long = [item for item in items if item.get_closest_marker("soak") is not None]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    for item in items:
        if not item.path.is_relative_to(TESTS):
            continue
        marker = MARKER_OF_FOLDER.get(item.path.relative_to(TESTS).parts[0])
        if marker is not None:
            item.add_marker(marker)
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("property")
    longest_first(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    if item.get_closest_marker("property") is None or item.config.getoption("--trace-all"):
        return (yield)
    with untraced():
        return (yield)


@contextmanager
def untraced() -> Generator[None, None, None]:
    """Pause the measurement of coverage, if there is one."""
    measured = Coverage.current()
    if measured is None:
        yield
        return
    measured.stop()
    try:
        yield
    finally:
        measured.start()
