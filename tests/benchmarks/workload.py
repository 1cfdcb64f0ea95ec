"""The work that all contenders do: 95-byte orders in JSON, spread over a number of users.

What must live here: the payloads, their types, and how CPU time is taken.  What must not: anything of a contender; the
peers' environment imports this module too, so it needs msgspec and orjson and nothing else.

    stateless   decode, keep eight of nine, make another record of each, encode
    keyed       decode, count the orders of each user, encode the new count
"""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

BLOCK_RECORDS = 1000
"""Records that are handed over at once, by those who can take batches."""

MANY = 1_000_000
"""From so many users on the first orders bring each user once."""

START_MS = 1_700_000_000_000


class Order(msgspec.Struct, gc=False):
    """What is read."""

    id: int
    user: str
    item: str
    quantity: int
    price: float
    time: int


class Priced(msgspec.Struct, gc=False):
    """What the stateless work writes."""

    id: int
    user: str
    total: float


def is_large(order: Order) -> bool:
    return order.quantity > 1


def priced(order: Order) -> Priced:
    return Priced(order.id, order.user, order.quantity * order.price)


def is_large_dict(order: dict[str, Any]) -> bool:
    return bool(order["quantity"] > 1)


def priced_dict(order: dict[str, Any]) -> dict[str, Any]:
    return {"id": order["id"], "user": order["user"], "total": order["quantity"] * order["price"]}


# Results of orjson.dumps hold a buffer of 4 kB each for as long as they are kept, so all encode with msgspec.
encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
decode_typed: Callable[[bytes], Order] = msgspec.json.Decoder(Order).decode
decode_dict: Callable[[bytes], dict[str, Any]] = orjson.loads


def orders(count: int, users: int, *, each_once: bool = False, seed: int = 7) -> Iterator[tuple[bytes, bytes]]:
    """(key, payload) of ``count`` orders.

    Users are drawn at random; with ``each_once`` the first ``users`` orders bring every user, in a random order.
    """
    chance = random.Random(seed)
    first: list[int] = []
    if each_once:
        first = list(range(users))
        chance.shuffle(first)
    for number in range(count):
        user = f"u{first[number] if number < len(first) else chance.randrange(users):07}"
        payload = (
            f'{{"id":{10_000_000 + number},"user":"{user}","item":"i{chance.randrange(1000):03}",'
            f'"quantity":{number % 9 + 1},"price":{chance.randrange(1000, 9999) / 100:.2f},'
            f'"time":{START_MS + number}}}'
        )
        yield user.encode(), payload.encode()


@dataclass
class Spent:
    """What a piece of work cost.  ``others``: nanoseconds a message of what was measured beside it, by name."""

    messages: int
    cpu_ns: int = 0
    wall_ns: int = 0
    others: dict[str, float] = field(default_factory=dict)

    def report(self, **more: Any) -> None:
        """One line of JSON on stdout, for the program that started this one."""
        ns = self.cpu_ns / self.messages
        print(json.dumps({"ns": ns, "wall_ns": self.wall_ns / self.messages, "others": self.others, **more}))


@contextmanager
def measured(messages: int) -> Iterator[Spent]:
    """CPU time of this process, all of its threads included, between entering and leaving."""
    spent = Spent(messages)
    gc.collect()
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    yield spent
    spent.cpu_ns, spent.wall_ns = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
