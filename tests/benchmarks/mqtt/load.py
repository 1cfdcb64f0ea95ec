"""What all clients alike are given and asked for: numbered payloads of a hundred bytes, and a count of those that came.

What must live here: payloads, options, and how far a consumer has got.  What must not: anything of a contender; the
peers' environments import this module too, so it needs ``common.work`` alone.

A consumer says how far it is on a topic of its own, each ``STEP`` messages, and the first time when it has subscribed.
Whoever feeds it (``feed.py``) begins then, and is never more than ``AHEAD`` messages ahead.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.common import work

PAYLOAD_BYTES = 100
STEP = 500
AHEAD = 4000
WINDOW = 1000
"""Messages in flight, of those who can be told how many."""
PATIENCE_S = 30


def payload(number: int) -> bytes:
    return b"%08d" % number + b"." * (PAYLOAD_BYTES - 8)


def payloads(count: int) -> list[bytes]:
    return [payload(number) for number in range(count)]


def progress_topic(topic: str) -> str:
    return f"{topic}/progress"


def give_up_after(seconds: int, what: str) -> None:
    """End the process with this line unless called again in time, or with 0."""

    def end(*_: Any) -> None:
        print(what, file=sys.stderr, flush=True)
        os._exit(1)

    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)


class Taken:
    """What a consumer has got."""

    def __init__(self, messages: int, meter: work.Meter) -> None:
        self.payloads: list[bytes] = []
        self._messages = messages
        self._meter = meter
        self._told = 0
        give_up_after(PATIENCE_S, "no message came")

    @property
    def done(self) -> bool:
        return len(self.payloads) >= self._messages

    @property
    def progress(self) -> bytes:
        return b"%d" % len(self.payloads)

    def take(self, payload: bytes) -> bool:
        """Whether it is time to say how far this is."""
        self._meter.begin()
        self.payloads.append(payload)
        return len(self.payloads) - self._told >= STEP and self._tell()

    def take_all(self, payloads: Sequence[bytes]) -> bool:
        """As ``take``, for those who get many at once."""
        self._meter.begin()
        self.payloads += payloads
        return len(self.payloads) - self._told >= STEP and self._tell()

    def _tell(self) -> bool:
        self._told = len(self.payloads)
        give_up_after(PATIENCE_S, f"{self._told:,} of {self._messages:,} messages came")
        return True

    def check(self, qos: int) -> None:
        """After the measurement.  Exits with a line if a message is missing, or (QoS 2) came twice."""
        give_up_after(0, "")
        distinct = len(set(self.payloads))
        if distinct != self._messages or (qos == 2 and len(self.payloads) != distinct):
            raise SystemExit(f"{distinct:,} different payloads of {self._messages:,}, in {len(self.payloads):,}")


def options(*works: str) -> argparse.Namespace:
    """Of the command line.  host, port: of the broker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=works)
    parser.add_argument("--server", required=True)
    parser.add_argument("--name", required=True, help="of the client, and of the app")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--qos", type=int, choices=(0, 1, 2), required=True)
    parser.add_argument("--messages", type=int, required=True, help="consume: 0 subscribes, and leaves the session")
    parser.add_argument("--log", default="", help="journal: the URL of the app's log")
    found = parser.parse_args()
    host, _, port = found.server.removeprefix("mqtt://").rpartition(":")
    found.host, found.port = host, int(port)
    return found
