"""Where records go: by key, in turn, by chance, as a user's function says."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from streams.core.spread import How, Spread
from streams.errors import ConfigurationError


def by_length(key: bytes, count: int) -> int:
    return len(key) % count


def spread(how: How, writer: str = "writer", home: int | None = None) -> Spread:
    return Spread("out", how, by_length, writer, home)


def test_a_key_goes_where_the_log_puts_it() -> None:
    assert spread("key").choose([b"", b"a", b"abcd"], 3) == [0, 1, 1]


def test_a_batch_without_keys_fills_one_partition_and_the_next_one_another() -> None:
    choices = spread("key")
    chosen = [choices.choose([None] * 5, 4) for _ in range(100)]
    assert all(len(set(batch)) == 1 for batch in chosen)
    assert {batch[0] for batch in chosen} == {0, 1, 2, 3}


def test_what_has_no_key_doesn_t_move_what_has_one() -> None:
    first, *rest = spread("key").choose([None, b"a", b"ab"], 3)
    assert (first in (0, 1, 2), rest) == (True, [1, 2])


def test_writers_with_a_partition_each_keep_to_it() -> None:
    assert spread("key", home=2).choose([None, b"a", None], 3) == [2, 1, 2]


def test_round_robin_takes_turns_over_batches_whatever_the_key() -> None:
    choices = spread("round_robin")
    chosen = [number for size in (1, 4, 7, 12) for number in choices.choose([b"same"] * size, 3)]
    assert Counter(chosen) == {0: 8, 1: 8, 2: 8}
    assert all((one + 1) % 3 == after for one, after in pairwise(chosen))


def test_random_takes_a_partition_a_batch_whatever_the_key_and_all_of_them_in_time() -> None:
    choices = spread("random")
    chosen = [choices.choose([b"same", None], 4) for _ in range(200)]
    assert all(len(set(batch)) == 1 for batch in chosen)
    assert set(Counter(batch[0] for batch in chosen)) == {0, 1, 2, 3}


def test_chance_repeats_itself_for_the_same_writer_and_differs_between_two() -> None:
    one, again, other = (spread("random", writer) for writer in ("one", "one", "other"))
    chosen = [[each.choose([None], 8)[0] for _ in range(50)] for each in (one, again, other)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_function_is_given_the_key_and_the_number_of_partitions() -> None:
    assert spread(lambda key, count: count - 1 if key is None else 0).choose([None, b"a"], 5) == [4, 0]


@pytest.mark.parametrize("found", [3, -1, 0.5, None, "0"])
def test_a_function_that_names_no_partition_is_an_error_that_names_topic_and_key(found: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"topic out: its partitioner returned {found!r} for the key b'a'"):
        spread(lambda key, count: found).choose([b"a"], 3)
