"""Which partition of a topic each record goes to, as one writer chooses it.

What must live here: the choice, pure: chance is a function of the writer's name.  What must not: where the records of a
key belong (the log's own partitioner says so, the same for every writer).

    key            by key; records without one fill a partition a batch, and the next batch goes to another
    round_robin    one after the other, whatever the key
    random         a batch to a partition by chance, whatever the key
    a function     (key or None, partitions) → partition, as the user says

What tables, joins and repartition topics rest on is always by key.  One partition a batch, since records that are
scattered one by one make batches of one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Literal
from zlib import crc32

from streams.errors import ConfigurationError

__all__ = ["BY_KEY", "How", "Spread"]

How = Literal["key", "round_robin", "random"] | Callable[[bytes | None, int], int]
BY_KEY: How = "key"


class Spread:
    """The choices of one writer for one topic; it keeps its place.

    by_key: the log's partitioner.  writer: a name that differs from other writers', so that not all begin alike.
    home: where records without a key go if each writer has a partition of its own, so that their order is kept.
    """

    def __init__(
        self, topic: str, how: How, by_key: Callable[[bytes, int], int], writer: str, home: int | None = None
    ) -> None:
        self._topic = topic
        self._how = how
        self._by_key = by_key
        self._writer = writer
        self._home = home
        self._batches = 0
        self._records = crc32(writer.encode())

    def choose(self, keys: Sequence[bytes | None], count: int) -> list[int]:
        """The partition, of ``count``, of each record of a batch.

        Raises ConfigurationError, naming topic and key, for a user's function that names no partition.
        """
        how, by_key = self._how, self._by_key
        if how == "key":
            if None not in keys:
                return list(map(by_key, keys, repeat(count)))  # type: ignore[arg-type]
            loose = self._home % count if self._home is not None else self._next_by_chance(count)
            return [loose if key is None else by_key(key, count) for key in keys]
        if how == "random":
            return [self._next_by_chance(count)] * len(keys)
        if how == "round_robin":
            first = self._records
            self._records += len(keys)
            return [number % count for number in range(first, self._records)]
        assert callable(how)
        return [self._checked(how(key, count), key, count) for key in keys]

    def _next_by_chance(self, count: int) -> int:
        self._batches += 1
        return crc32(b"%d " % self._batches + self._writer.encode()) % count

    def _checked(self, found: object, key: bytes | None, count: int) -> int:
        try:
            partition = operator.index(found)  # type: ignore[arg-type]
        except TypeError:
            partition = -1
        if not 0 <= partition < count:
            raise ConfigurationError(
                f"topic {self._topic}: its partitioner returned {found!r} for the key {key!r}; of {count} partitions "
                f"it has to be one from 0 to {count - 1}"
            )
        return partition
