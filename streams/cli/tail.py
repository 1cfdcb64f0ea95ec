"""``streams tail``: the records of a topic, the last ones, all, or as they come."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from streams.cli.options import AsJson, ConfigOption, LogOption, OptionalApp, log_url_of
from streams.cli.output import json_line, json_value, shown_bytes, shown_time
from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from streams.cli.access import ToolLog
    from streams.core.record import Bounds, Fetched, Headers, Position, TopicPartition

__all__ = ["tail"]

CHUNK_RECORDS = 1000
LOOK_S = 1.0
"""How often a tail that follows looks while no worker runs."""


class Shown(NamedTuple):
    """One record to print."""

    partition: int
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None


def tail(
    topic: Annotated[str, typer.Argument(help="The topic.")],
    count: Annotated[
        int | None, typer.Option("-n", "--count", min=0, help="How many records: the last ones; with --from the first.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="start|end|OFFSET", help="Where to begin, instead of near the end.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    partition: Annotated[int | None, typer.Option(help="One partition only.", min=0)] = None,
    app: OptionalApp = None,
    config: ConfigOption = None,
    log: LogOption = None,
    json: AsJson = False,
) -> None:
    """Show the records of a topic: the last 10, or as asked for.

    JSON: one object a line with topic, partition, offset, timestamp (ms), key, value and headers.
    """
    from streams.cli.load import load_optional

    found_app = load_optional(app, config)
    url = log_url_of(log) if found_app is None else found_app.resolve_log_url(log)
    asyncio.run(_tail(url, topic, _Wanted(count, start, follow, partition), json))


class _Wanted(NamedTuple):
    records: int | None
    start: str | None
    follow: bool
    partition: int | None


async def _tail(url: str, topic: str, wanted: _Wanted, json: bool) -> None:
    from streams.cli.access import is_local, reach
    from streams.errors import LogUnavailable
    from streams.runtime.places import is_shared

    positions: dict[TopicPartition, Position] = {}
    show = _Printer(topic, json, wanted.records if wanted.start is not None else None)
    while True:
        try:
            async with reach(url) as log:
                bounds = await _bounds(log, url, topic, wanted.partition)
                if not positions:
                    positions = await _positions(log, bounds, wanted)
                # Whoever has an embedded log open keeps a worker from starting: without one, look and let go again.
                stay = wanted.follow and (is_shared(url) or not is_local(log))
                await _show(log, positions, {at: each.end for at, each in bounds.items()}, show, stay)
        except LogUnavailable:
            if not wanted.follow or not positions:
                raise
        if not wanted.follow or show.done:
            return
        await asyncio.sleep(LOOK_S)


async def _bounds(log: ToolLog, url: str, topic: str, partition: int | None) -> dict[TopicPartition, Bounds]:
    """First and end of the partitions to show.  Raises ConfigurationError where there is no such topic."""
    from streams.cli.workers import kinds_on
    from streams.core.record import TopicPartition

    topics = await log.topics()
    if topic not in topics:
        kinds = await kinds_on(log, list(topics))
        known = ", ".join(sorted(each for each, info in topics.items() if kinds.get(each, info.spec.kind) == "user"))
        raise ConfigurationError(f"{log.url} has no topic {topic!r}; its topics: {known or 'none yet'}")
    partitions = range(topics[topic].spec.partitions)
    if partition is not None and partition not in partitions:
        raise ConfigurationError(f"{topic} has the partitions 0 to {partitions[-1]}, not {partition}")
    chosen = partitions if partition is None else [partition]
    return dict(await log.bounds([TopicPartition(topic, number) for number in chosen]))


async def _positions(
    log: ToolLog, bounds: dict[TopicPartition, Bounds], wanted: _Wanted
) -> dict[TopicPartition, Position]:
    """Where to begin in each partition."""
    if wanted.start is None:
        return await _last(log, bounds, 10 if wanted.records is None else wanted.records)
    return {at: _begin(at, each, wanted.start) for at, each in bounds.items()}


def _begin(at: TopicPartition, bounds: Bounds, start: str) -> Position:
    from streams.core.record import Position

    if start == "start":
        return bounds.start
    if start == "end":
        return bounds.end
    try:
        offset = int(start)
    except ValueError:
        raise ConfigurationError(f"--from {start}: give start, end or an offset") from None
    first, end = bounds.start.offset(), bounds.end.offset()
    if not first <= offset <= end:
        raise ConfigurationError(f"--from {start}: {at} holds the offsets {first} to {end}")
    return Position.at(offset)


async def _last(log: ToolLog, bounds: dict[TopicPartition, Bounds], count: int) -> dict[TopicPartition, Position]:
    """Where the last ``count`` records of all partitions begin, by time; read backwards in growing steps."""
    from streams.core.record import Position

    found: list[tuple[int, int, TopicPartition]] = []
    for at, each in bounds.items():
        first, end = each.start.offset(), each.end.offset()
        step, records = max(1, count), []
        while count and end > first:
            begin = max(first, end - step)
            records = [shown async for shown in _read(log, {at: Position.at(begin)}, {at: each.end})]
            if len(records) >= count or begin == first:
                break
            step *= 4  # compaction and marks left gaps
        found.extend((record.time_ms, record.offset, at) for record in records[-count:] if count)
    kept: dict[TopicPartition, int] = {}
    for _, offset, at in sorted(found)[-count:] if count else []:
        kept[at] = min(offset, kept.get(at, offset))
    return {at: Position.at(kept[at]) if at in kept else each.end for at, each in bounds.items()}


async def _read(
    log: ToolLog, positions: Mapping[TopicPartition, Position], ends: Mapping[TopicPartition, Position]
) -> AsyncIterator[Shown]:
    """Every record from ``positions`` to ``ends``, marks left out."""
    reader = log.reader(positions)
    try:
        open_ = {at for at, position in positions.items() if not position.reached(ends[at])}
        while open_:
            for batch in await reader.fetch(sorted(open_), max_records=CHUNK_RECORDS, wait_s=1.0):
                for shown in _records(batch):
                    if shown.offset < ends[batch.partition].offset(batch.lane):
                        yield shown
                if batch.next_offset >= ends[batch.partition].offset(batch.lane):
                    open_.discard(batch.partition)
    finally:
        await reader.close()


def _records(batch: Fetched) -> Iterator[Shown]:
    from streams.core.watermark import MARK_HEADER

    records = batch.records
    headers = records.headers or [None] * len(records)
    for row, offset in enumerate(batch.offsets):
        own = headers[row]
        if own and own[0][0] == MARK_HEADER:
            continue  # a watermark in-band: no record of anybody's
        yield Shown(
            batch.partition.partition, offset, records.timestamps[row], records.keys[row], records.values[row], own
        )


async def _show(
    log: ToolLog,
    positions: dict[TopicPartition, Position],
    ends: dict[TopicPartition, Position],
    show: _Printer,
    stay: bool,
) -> None:
    """Print from ``positions``, which move on, to ``ends``; with ``stay`` go on with what comes."""
    reader = log.reader(positions)
    try:
        waiting = {at for at, position in positions.items() if not position.reached(ends[at])}
        while (waiting or stay) and not show.done:
            wanted = sorted(positions) if stay else sorted(waiting)
            chunk: list[Shown] = []
            for batch in await reader.fetch(wanted, max_records=CHUNK_RECORDS, wait_s=1.0):
                at = batch.partition
                # What came in behind the end is shown as well: it lies in the batch, and the position moves past it.
                chunk.extend(_records(batch))
                positions[at] = positions[at].advanced(batch.lane, batch.next_offset)
                if positions[at].reached(ends[at]):
                    waiting.discard(at)
            chunk.sort(key=lambda record: record.time_ms)
            show(chunk)
    finally:
        await reader.close()


class _Printer:
    """Prints records, up to ``left`` of them; None for all."""

    def __init__(self, topic: str, json: bool, left: int | None) -> None:
        self._topic = topic
        self._json = json
        self._left = left

    @property
    def done(self) -> bool:
        return self._left == 0

    def __call__(self, chunk: list[Shown]) -> None:
        if self._left is not None:
            chunk = chunk[: self._left]
            self._left -= len(chunk)
        for record in chunk:
            if self._json:
                headers = {name: json_value(value) for name, value in record.headers or ()}
                json_line(
                    {
                        "topic": self._topic,
                        "partition": record.partition,
                        "offset": record.offset,
                        "timestamp": record.time_ms,
                        "key": None if record.key is None else shown_bytes(record.key),
                        "value": json_value(record.value),
                        "headers": headers,
                    }
                )
            else:
                value = "(deleted)" if record.value is None else shown_bytes(record.value)
                print(
                    f"{record.partition}@{record.offset}  {shown_time(record.time_ms)}  "
                    f"{shown_bytes(record.key)}  {value}"
                )
        if chunk:
            sys.stdout.flush()
