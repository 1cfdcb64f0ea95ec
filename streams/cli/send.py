"""``streams send``: records to a topic, from the command line or from stdin."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import AsJson, ConfigOption, LogOption, OptionalApp, log_url_of
from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from streams.core.log import TopicSpec
    from streams.core.record import Records
    from streams.dsl.app import App
    from streams.dsl.topic import Topic

__all__ = ["send"]

RECORDS_AT_ONCE = 5000
BYTES_AT_ONCE = 2**20

Pair = tuple[bytes | None, bytes | None]


def send(
    topic: Annotated[str, typer.Argument(help="The topic.")],
    value: Annotated[
        str | None, typer.Argument(help="The value; `-`, or none with a pipe: each line of stdin is one.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", "-k", help="The key of every record, as text.")] = None,
    separator: Annotated[
        str | None, typer.Option("--separator", "-s", help="On stdin: what stands between the key and the value.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Send a tombstone for --key instead of a value.")] = False,
    app: OptionalApp = None,
    config: ConfigOption = None,
    log: LogOption = None,
    create: Annotated[bool, typer.Option("--create", help="Create the topic (and the log) if it isn't there.")] = False,
    partitions: Annotated[int, typer.Option(help="For --create.", min=1)] = 1,
    json: AsJson = False,
) -> None:
    """Send records to a topic.

    With -A the topic is created as the app declares it, and every key and value is checked against its types first.
    """
    from streams.cli.load import load_optional

    found = load_optional(app, config)
    url = found.resolve_log_url(log) if found is not None else log_url_of(log)
    pairs = _pairs(value, key, separator, delete)
    sent = asyncio.run(_send(url, topic, pairs, found, create, partitions))
    if json:
        from streams.cli.output import json_line

        json_line({"topic": topic, "sent": sent})
    else:
        print(f"sent {sent} {'record' if sent == 1 else 'records'} to {topic}")


def _pairs(value: str | None, key: str | None, separator: str | None, delete: bool) -> Iterable[Pair]:
    encoded = None if key is None else key.encode()
    if delete:
        if encoded is None or value is not None:
            raise ConfigurationError("--delete sends a tombstone: it takes a --key and no value")
        return [(encoded, None)]
    if value is None and sys.stdin.isatty():
        raise ConfigurationError("nothing to send: give a value, or - to type one record a line")
    if value is None or value == "-":
        return _lines(encoded, None if separator is None else separator.encode())
    return [(encoded, value.encode())]


def _lines(key: bytes | None, separator: bytes | None) -> Iterator[Pair]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        text = line.rstrip(b"\r\n")
        if not text:
            continue
        if separator is None:
            yield key, text
            continue
        own, found, value = text.partition(separator)
        if not found:
            raise ConfigurationError(
                f"line {number}: no {separator.decode()!r} between key and value; nothing behind it was sent"
            )
        yield own, value


async def _send(url: str, name: str, pairs: Iterable[Pair], app: App | None, create: bool, partitions: int) -> int:
    from streams.cli.access import blueprint_on, reach
    from streams.cli.workers import kinds_on
    from streams.core.log import TopicSpec
    from streams.runtime.draw import place_of

    declared = app.topics.get(name) if app is not None else None
    if declared is not None and declared.spec.location:
        raise ConfigurationError(f"topic {name} isn't on the app's log but at {place_of(declared.spec)}; send it there")
    sent = 0
    async with reach(url, create=create or declared is not None) as log:
        if app is not None and declared is not None:
            await blueprint_on(app, log)
            await log.create_topics([declared.spec])
        elif create:
            await log.create_topics([TopicSpec(name, partitions)])
        specs = {each: info.spec for each, info in (await log.topics()).items()}
        spec = _spec_of(name, specs, await kinds_on(log, list(specs), name if name in specs else ""), log.url)
        check = _checker(declared)
        for records in _batches(pairs, check):
            await log.append(_spread(spec, records, log.partition_for))
            sent += len(records)
    return sent


def _spec_of(name: str, specs: dict[str, TopicSpec], kinds: dict[str, str], url: str) -> TopicSpec:
    spec = specs.get(name)
    if spec is None:
        known = ", ".join(sorted(each for each, held in specs.items() if kinds.get(each, held.kind) == "user"))
        raise ConfigurationError(
            f"{url} has no topic {name!r} (its topics: {known or 'none yet'}); --create makes it, or name the app with "
            f"-A"
        )
    kind = kinds.get(name, spec.kind)
    if kind != "user":
        raise ConfigurationError(f"{name} is an internal topic ({kind}) of an app; send to one of the app's own topics")
    return spec


def _checker(topic: Topic[Any, Any] | None) -> Callable[[int, Pair], None]:
    if topic is None:
        return lambda number, pair: None

    def check(number: int, pair: Pair) -> None:
        for what, codec, raw in (("key", topic.key_codec, pair[0]), ("value", topic.value_codec, pair[1])):
            try:
                if raw is not None:
                    codec.decode(raw)
            except Exception as error:  # noqa: BLE001 - a codec may raise anything for bytes that it refuses
                raise ConfigurationError(
                    f"record {number}: its {what} {raw!r:.80} doesn't fit topic {topic.name}: {error}; it wasn't sent"
                ) from error

    return check


def _batches(pairs: Iterable[Pair], check: Callable[[int, Pair], None]) -> Iterator[Records]:
    from streams.core.record import Records

    batch, size = Records(), 0
    for number, (key, value) in enumerate(pairs, 1):
        check(number, (key, value))
        batch.keys.append(key)
        batch.values.append(value)
        batch.timestamps.append(time.time_ns() // 1_000_000)
        size += len(key or b"") + len(value or b"")
        if len(batch) >= RECORDS_AT_ONCE or size >= BYTES_AT_ONCE:
            yield batch
            batch, size = Records(), 0
    if len(batch):
        yield batch


def _spread(spec: TopicSpec, records: Records, partition_for: Callable[[bytes, int], int]) -> list[Any]:
    """Records by partition: of their key; those without one go to partition 0, in order."""
    from streams.core.log import Append
    from streams.core.record import Records, TopicPartition

    parts: dict[int, Records] = {}
    for key, value, at in zip(records.keys, records.values, records.timestamps, strict=True):
        part = parts.setdefault(0 if key is None else partition_for(key, spec.partitions), Records())
        part.keys.append(key)
        part.values.append(value)
        part.timestamps.append(at)
    return [Append(TopicPartition(spec.name, number), part) for number, part in sorted(parts.items())]
