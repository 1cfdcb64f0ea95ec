"""What ``apps/pipeline.py`` has to come to, in plain Python, and the events that it is fed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from streams.connectors.embedded import EmbeddedLog
from streams.core.log import TopicSpec
from tests.guarantees.support import (
    Row,
    assert_same,
    by_key,
    finish,
    lag,
    last_by_key,
    rows,
    send,
    send_watermark,
    with_log,
)

MINUTE = 60_000
START = 1_700_000_040_000
STEP_MS = 40
REGIONS = 8
FOREVER = 4_000_000_000_000


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def events(chance: random.Random) -> Iterator[Row]:
    """Events without end: out of order by up to 25 s, some twice, some to be filtered out.

    The record's key is the account's region, so all of an account come by one partition, in order.
    """
    repeated: list[tuple[int, Row]] = []
    number = 0
    while True:
        number += 1
        region = chance.randrange(REGIONS)
        time = START + number * STEP_MS - chance.randrange(25_000)
        value = {
            "id": number,
            "account": f"r{region}-{chance.randrange(40)}",
            "kind": f"kind-{chance.randrange(12)}",
            "amount": 0 if chance.random() < 0.02 else chance.randrange(1, 1000),
            "time": time,
        }
        row = (f"r{region}", value, time)
        yield row
        if chance.random() < 0.05:
            repeated.append((number + chance.randrange(1, 100), row))
        while repeated and repeated[0][0] <= number:
            yield repeated.pop(0)[1]


class Oracle:
    """Takes the events in the order in which they were sent; says what comes of them."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self.settled: dict[str, list[Any]] = {}
        self.balances: dict[str, int] = {}
        self.kinds: dict[tuple[str, int], dict[str, Any]] = {}
        self.minutes: dict[tuple[str, int], int] = {}

    def take(self, sent: list[Row]) -> None:
        for _, event, time in sent:
            if not event["amount"] or event["id"] in self._seen:
                continue
            self._seen.add(event["id"])
            account, amount, minute = event["account"], event["amount"], time // MINUTE
            self.balances[account] = self.balances.get(account, 0) + amount
            self.settled.setdefault(account, []).append({"id": event["id"], "balance": self.balances[account]})
            window = self.kinds.setdefault((event["kind"], minute * MINUTE), {"n": 0, "total": 0, "best": 0})
            window["n"] += 1
            window["total"] += amount
            window["best"] = max(window["best"], amount)
            self.minutes[account, minute] = self.minutes.get((account, minute), 0) + amount

    def results(self) -> dict[str, list[tuple[str, str]]]:
        """What there has to be of each result, once: keys and values, the latter as canonical JSON."""
        return {
            "settled": [(key, canonical(each)) for key, them in self.settled.items() for each in them],
            "by-kind": [
                (kind, canonical({**value, "window_start": start, "window_end": start + MINUTE}))
                for (kind, start), value in self.kinds.items()
            ],
            "by-minute": [
                (account, canonical({"minute": minute, "total": total}))
                for (account, minute), total in self.minutes.items()
            ],
        }

    async def check_state(self, log: EmbeddedLog) -> None:
        """The table, as its changelog has it."""
        table = {
            key.decode(): int(value) for key, value in (await last_by_key(log, "pipeline.balances.changelog")).items()
        }
        assert_same(table, self.balances, "balances")

    async def check_repeated(self, log: EmbeddedLog) -> None:
        """Every result at least once, with the same value each time, and the table exactly."""
        await self.check_state(log)
        settled = {
            key: sorted({(each["id"], each["balance"]) for each in them})
            for key, them in (await by_key(log, "settled")).items()
        }
        expected = {key: [(each["id"], each["balance"]) for each in them] for key, them in self.settled.items()}
        assert_same(settled, expected, "settled")
        windows = {(kind, value["window_start"]): value["total"] for kind, value in await rows(log, "by-kind")}
        assert_same(windows, {key: value["total"] for key, value in self.kinds.items()}, "windows")
        minutes = {(key, value["minute"]): value["total"] for key, value in await rows(log, "by-minute")}
        assert_same(minutes, self.minutes, "minutes")

    async def check(self, log: EmbeddedLog) -> None:
        """Every result exactly once, on a log where all events are processed and all windows closed."""
        await self.check_state(log)
        assert_same(await by_key(log, "settled"), self.settled, "settled")
        windows = {}
        for kind, value in await rows(log, "by-kind"):
            key = (kind, value.pop("window_start"))
            assert value.pop("window_end") == key[1] + MINUTE
            assert key not in windows, f"the window {key} was closed twice"
            windows[key] = value
        assert_same(windows, self.kinds, "windows")
        minutes = {}
        for account, value in await rows(log, "by-minute"):
            assert (account, value["minute"]) not in minutes, f"the timer of {account} fired twice for {value}"
            minutes[account, value["minute"]] = value["total"]
        assert_same(minutes, self.minutes, "minutes")
        beats = sorted(value for _, value in await rows(log, "beats"))  # without a key they are spread over partitions
        assert beats == list(range(1, len(beats) + 1)), "a tick of the timer was lost or counted twice"


class Feed:
    """Sends events between the lives of a worker, so that there always is a backlog, and tells how far it came."""

    def __init__(self, path: Path, chance: random.Random, backlog: int) -> None:
        self.path = path
        self.oracle = Oracle()
        self.sent = 0
        self._backlog = backlog
        self._events = events(random.Random(chance.random()))
        self.top_up()

    def top_up(self) -> tuple[int, int]:
        """Send as many events as were processed; how far the worker had come, and how much was left to it."""
        return with_log(self.path, self._top_up)

    async def _top_up(self, log: EmbeddedLog) -> tuple[int, int]:
        await log.create_topics([TopicSpec("events", 2)])
        left = await lag(log, "pipeline", "events")
        done = self.sent - left
        more = list(islice(self._events, max(0, self._backlog - left)))
        await send(log, "events", more, 2)
        self.oracle.take(more)
        self.sent += len(more)
        return done, left

    def end(self, **env: str) -> None:
        """Close all windows, and let a worker do what is left."""
        with_log(self.path, lambda log: send_watermark(log, "events", 2, FOREVER))
        finish("pipeline.py", self.path, **env)
