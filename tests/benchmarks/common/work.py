"""The work of the benchmarks on real brokers, for all contenders alike: orders of two sizes, counted under their user.

What must live here: the payloads and their types, what the outputs must be, and how CPU time is taken.  What must not:
anything of a contender; the peers' environments import this module too, so it needs msgspec and orjson alone.

    small   the orders of ``tests/benchmarks/workload.py``, 95 bytes
    large   the same with a note and ten lines, about a kilobyte

The output of each order is the count of its user so far, as JSON, under the user's key.
"""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import orjson

from tests.benchmarks import workload

USERS = 10_000
BATCH_RECORDS = 1000

encode: Callable[[Any], bytes] = workload.encode
decode_dict: Callable[[bytes], dict[str, Any]] = orjson.loads


class Line(msgspec.Struct, gc=False):
    sku: str
    name: str
    quantity: int
    price: float


class LargeOrder(msgspec.Struct, gc=False):
    """What is read, of the large kind."""

    id: int
    user: str
    item: str
    quantity: int
    price: float
    time: int
    note: str
    lines: list[Line]


Order = workload.Order | LargeOrder
TYPES: dict[str, type[Order]] = {"small": workload.Order, "large": LargeOrder}


def decoder(size: str) -> Callable[[bytes], Order]:
    return msgspec.json.Decoder(TYPES[size]).decode


def orders(size: str, count: int, users: int = USERS, *, each_once: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """(key, payload) of ``count`` orders; see ``workload.orders``."""
    small = workload.orders(count, users, each_once=each_once)
    if size == "small":
        return small
    chance = random.Random(11)
    lines = [
        f'{{"sku":"s{chance.randrange(100_000):05}","name":"part {chance.randrange(10_000):04} of a machine",'
        f'"quantity":{chance.randrange(1, 9)},"price":{chance.randrange(1000, 9999) / 100:.2f}}}'
        for _ in range(1000)
    ]

    def grown() -> Iterator[tuple[bytes, bytes]]:
        for number, (key, payload) in enumerate(small):
            some = ",".join(lines[(number * 7 + index * 13) % len(lines)] for index in range(10))
            note = f'"note":"{number:08} {"leave it at the door, ring twice " * 3}"'
            yield key, payload[:-1] + f',{note},"lines":[{some}]}}'.encode()

    return grown()


class Meter:
    """CPU time of this process, all of its threads, from ``begin`` to ``end``.

    A contender calls ``begin`` when the first record has reached it, and ``end`` when its last commit is done.
    """

    def __init__(self) -> None:
        self._began: tuple[int, int] | None = None
        self._ended: tuple[int, int] | None = None

    @property
    def running(self) -> bool:
        return self._began is not None and self._ended is None

    def begin(self) -> None:
        if self._began is None:
            gc.collect()
            self._began = time.process_time_ns(), time.perf_counter_ns()

    def end(self) -> None:
        self._ended = time.process_time_ns(), time.perf_counter_ns()

    @property
    def spent(self) -> tuple[int, int]:
        """Nanoseconds of CPU time and of wall time."""
        if self._began is None or self._ended is None:
            raise SystemExit("nothing was measured: no record arrived, or no commit was seen")
        cpu, wall = (end - began for began, end in zip(self._began, self._ended))
        return cpu, wall

    def report(self, messages: int, **more: Any) -> None:
        """One line of JSON on stdout, for the program that started this one."""
        cpu, wall = self.spent
        print(json.dumps({"cpu_ns": cpu, "wall_ns": wall, "messages": messages, **more}), flush=True)
