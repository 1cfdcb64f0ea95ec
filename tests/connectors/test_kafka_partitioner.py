"""Partitions of keys: equal to the Java client's, or as another partitioner says."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.connectors.kafka import partitioner as module
from streams.connectors.kafka.log import KafkaLog
from streams.connectors.kafka.partitioner import by_key, make_partitioner, murmur2, partition_of
from streams.core.membership import Member, TaskRef, Wanted
from streams.errors import ConfigurationError

# org.apache.kafka.common.utils.UtilsTest.testMurmur2, and the empty key.
OF_JAVA = {
    b"": 275646681,
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", OF_JAVA)
def test_a_key_hashes_as_in_the_java_client(key: bytes) -> None:
    assert murmur2(key) == OF_JAVA[key] % 2**32


@given(st.binary(max_size=600))
def test_a_hash_equals_that_of_another_client(key: bytes) -> None:
    from aiokafka.partitioner import murmur2 as theirs

    assert murmur2(key) == theirs(key)


@given(st.binary(max_size=40), st.integers(1, 1000))
def test_a_key_goes_where_another_client_sends_it(key: bytes, partitions: int) -> None:
    from aiokafka.partitioner import DefaultPartitioner

    theirs = DefaultPartitioner()(key, list(range(partitions)), [])
    assert partition_of(key, partitions) == theirs
    assert partition_of(key, partitions) == theirs, "remembered otherwise than computed"
    assert make_partitioner("murmur2")(key, partitions) == theirs


def test_a_negative_hash_is_made_positive_as_in_java() -> None:
    # Utils.toPositive clears the sign; the absolute value would give another partition.
    assert partition_of(b"21", 7) == (-973932308 & 0x7FFFFFFF) % 7


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHED_KEYS", 10)
    cache = module._Cache(12)
    for number in range(95):
        cache[b"%d" % number]
    assert 0 < len(cache) <= 10
    cache.clear()
    cache[b"long" * 1000]
    assert len(cache) == 0


def test_no_partition_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 partitions"):
        partition_of(b"a", 0)


def test_round_robin_takes_turns_in_each_topic_whatever_the_key() -> None:
    choose = make_partitioner("round_robin")
    chosen: dict[int, list[int]] = {3: [], 5: []}
    for number in range(30):
        for partitions in chosen:
            chosen[partitions].append(choose(b"same" if number % 2 else None, partitions))
    for partitions, order in chosen.items():
        assert Counter(order) == dict.fromkeys(range(partitions), 30 // partitions)
        assert all((one + 1) % partitions == after for one, after in pairwise(order))


def test_random_keeps_to_one_partition_for_a_run_and_uses_all_of_them() -> None:
    choose = make_partitioner("random")
    chosen = [choose(b"same", 4) for _ in range(200 * module.RUN_RECORDS)]
    runs = [set(chosen[at : at + module.RUN_RECORDS]) for at in range(0, len(chosen), module.RUN_RECORDS)]
    assert all(len(run) == 1 for run in runs)
    # Of 200 fair draws all from 3 of the 4: once in 10**24 runs of this test.
    assert set(chosen) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", ["murmur2", "random"])
def test_records_without_a_key_are_spread(name: str) -> None:
    choose = make_partitioner(name)
    assert {choose(None, 4) for _ in range(200 * module.RUN_RECORDS)} == {0, 1, 2, 3}


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "a_users_partitioner"
    (tmp_path / f"{name}.py").write_text(
        "def by_length(key, partitions):\n    return len(key) % partitions\n"
        "def beyond(key, partitions):\n    return partitions\n"
        "def below(key, partitions):\n    return -1\n"
        "def half(key, partitions):\n    return 0.5\n"
        "class Shop:\n    @staticmethod\n    def first(key, partitions):\n        return 0\n"
        "NUMBER = 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_a_function_of_the_users_chooses(users_module: str) -> None:
    choose = make_partitioner(f"{users_module}:by_length")
    assert [choose(key, 3) for key in (b"", b"a", b"abcd")] == [0, 1, 1]
    assert choose(None, 3) in (0, 1, 2)
    assert make_partitioner(f"{users_module}:Shop.first")(b"a", 3) == 0


@pytest.mark.parametrize("function", ["beyond", "below", "half"])
def test_a_function_that_names_no_partition_is_an_error_that_names_it(users_module: str, function: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{users_module}:{function}.*b'key'.*0 to 2"):
        make_partitioner(f"{users_module}:{function}")(b"key", 3)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no_such_module_here:f", "no module 'no_such_module_here'"),
        ("{module}:missing", "has no 'missing'"),
        ("{module}:NUMBER", "NUMBER is int"),
    ],
)
def test_a_function_that_is_not_there_is_an_error_that_says_so(users_module: str, path: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"partitioner=.*{said}"):
        make_partitioner(path.format(module=users_module))


def test_only_some_partitioners_keep_the_records_of_a_key_together() -> None:
    assert [by_key(name) for name in ("murmur2", "shop:f", "round_robin", "random")] == [True, True, False, False]


def test_a_log_uses_the_partitioner_of_its_url(users_module: str) -> None:
    keys = [b"%d" % number for number in range(40)]
    plain = KafkaLog("kafka://broker")
    assert [plain.partition_for(key, 7) for key in keys] == [partition_of(key, 7) for key in keys]
    of_user = KafkaLog(f"kafka://broker?partitioner={users_module}:by_length")
    assert [of_user.partition_for(key, 7) for key in keys] == [len(key) % 7 for key in keys]
    in_turn = KafkaLog("kafka://broker?partitioner=round_robin")
    assert Counter(in_turn.partition_for(b"same", 4) for _ in keys) == dict.fromkeys(range(4), 10)
    with pytest.raises(ConfigurationError, match="no module 'no_such_module_here'"):
        KafkaLog("kafka://broker?partitioner=no_such_module_here:f")


@pytest.mark.parametrize("name", ["round_robin", "random"])
def test_the_log_of_an_app_keeps_the_records_of_a_key_together(name: str) -> None:
    log = KafkaLog(f"kafka://broker?partitioner={name}")
    with pytest.raises(ConfigurationError, match=f"partitioner={name} parts the records of a key"):
        log.membership("shop", Member(), Wanted([TaskRef("shop", 0, "shop-0")]))
