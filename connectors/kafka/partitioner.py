"""The partition of a record: as the Java client chooses it, or otherwise.

What must live here: the choice.  What must not: which partitions there are (``cluster``).

    murmur2            by key; equal to the Java client's, so that other programs' records of a key lie beside ours
    module:function    by key, as a function (key: bytes, partitions: int) -> int of the user's says
    round_robin        one after the other, whatever the key
    random             by chance, whatever the key

Only the first two keep the records of a key together (``by_key``): tables, joins and repartition topics need that.
A record without a key goes, with each of the four but ``round_robin``, where chance says, and the next ones after it.
"""

from __future__ import annotations

import itertools
import operator
import random
from collections.abc import Callable, Iterator
from struct import Struct

from streams.connectors.kafka.security import load_callable
from streams.errors import ConfigurationError

__all__ = ["Partitioner", "by_key", "make_partitioner", "murmur2", "partition_of"]

Partitioner = Callable[[bytes | None, int], int]
"""From a key (None for none) and the number of partitions to one of them."""

RUN_RECORDS = 100
"""Records in a row that go to one partition chosen by chance: one at a time would make batches of one."""
CACHED_KEYS = 65_536
CACHED_KEY_BYTES = 128
"""Longer keys aren't remembered: the cache is bounded in bytes, not only in keys."""

_SEED = 0x9747B28C
_FACTOR = 0x5BD1E995
_MASK = 0xFFFFFFFF
_WORDS = [Struct(f"<{count}I").unpack_from for count in range(65)]


def murmur2(data: bytes) -> int:
    """MurmurHash2 of 32 bits as ``org.apache.kafka.common.utils.Utils.murmur2``, without a sign."""
    length = len(data)
    words = length >> 2
    value = _SEED ^ length
    for word in (_WORDS[words] if words < 65 else Struct(f"<{words}I").unpack_from)(data):
        # One mask for both products: bits above the 32nd don't reach down again.
        word = word * _FACTOR & _MASK
        value = (value * _FACTOR ^ (word ^ word >> 24) * _FACTOR) & _MASK
    if rest := length & 3:
        value = (value ^ int.from_bytes(data[-rest:], "little")) * _FACTOR & _MASK
    value = (value ^ value >> 13) * _FACTOR & _MASK
    return value ^ value >> 15


class _Cache(dict[bytes, int]):
    """The partitions of keys seen lately, for one number of partitions."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def __missing__(self, key: bytes) -> int:
        partition = (murmur2(key) & 0x7FFFFFFF) % self._partitions
        if len(key) <= CACHED_KEY_BYTES:
            if len(self) >= CACHED_KEYS:
                self.clear()
            self[key] = partition
        return partition


class _Caches(dict[int, _Cache]):
    def __missing__(self, partitions: int) -> _Cache:
        if partitions < 1:
            raise ValueError(f"{partitions} partitions have no room for a key")
        cache = self[partitions] = _Cache(partitions)
        return cache


_caches = _Caches()


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key as the Java client chooses it.  Not for threads side by side."""
    return _caches[partitions][key]


def by_key(name: str) -> bool:
    """Whether a partitioner keeps the records of a key together."""
    return name not in ("round_robin", "random")


def make_partitioner(name: str) -> Partitioner:
    """The partitioner that ``KafkaConfig.partitioner`` names.  Raises ConfigurationError for a function not found.

    What it returns keeps its own place (round_robin, random): one for each writer.
    """
    if name == "round_robin":
        return _round_robin()
    keyless = _by_chance()
    if name == "random":
        return lambda key, partitions: keyless(partitions)
    keyed = partition_of if name == "murmur2" else _of_user(name)
    return lambda key, partitions: keyless(partitions) if key is None else keyed(key, partitions)


class _Turns(dict[int, Iterator[int]]):
    """An endless iterator for each number of partitions: a shared one would favour some where topics take turns."""

    def __init__(self, make: Callable[[int], Iterator[int]]) -> None:
        self._make = make

    def __missing__(self, partitions: int) -> Iterator[int]:
        turn = self[partitions] = self._make(partitions)
        return turn


def _round_robin() -> Partitioner:
    def turn(partitions: int) -> Iterator[int]:
        # Many writers of one record each must not all begin with the first partition.
        start = random.randrange(partitions)
        return itertools.cycle([*range(start, partitions), *range(start)])

    turns = _Turns(turn)
    return lambda key, partitions: next(turns[partitions])


def _by_chance() -> Callable[[int], int]:
    def runs(partitions: int) -> Iterator[int]:
        while True:
            yield from itertools.repeat(random.randrange(partitions), RUN_RECORDS)

    turns = _Turns(runs)
    return lambda partitions: next(turns[partitions])


def _of_user(name: str) -> Callable[[bytes, int], int]:
    function = load_callable("partitioner", name)

    def checked(key: bytes, partitions: int) -> int:
        found = function(key, partitions)
        try:
            partition = operator.index(found)
        except TypeError:
            partition = -1
        if not 0 <= partition < partitions:
            raise ConfigurationError(
                f"partitioner={name} returned {found!r} for the key {key!r}; of {partitions} partitions it has to be "
                f"one from 0 to {partitions - 1}"
            )
        return partition

    return checked
