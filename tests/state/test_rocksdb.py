"""The store in RocksDB: the contract, and what only a store in files can do wrong."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from rocksdict import Options, Rdict, WriteBatch

from streams.core.record import Position
from streams.core.store import Changes, StoreState, StoreView, prefix_bytes
from streams.errors import ConfigurationError, StoreCorrupt, StoreLocked, StoreUnavailable, StreamsError
from streams.state.rocksdb import RocksOptions, RocksStore, destroy, set_aside
from streams.state.sst import STATE_KEY, changes_batch
from streams.testing.store_contract import StoreContract, contents

P = prefix_bytes(1)
Q = prefix_bytes(2)


class TestRocksStore(StoreContract):
    def open_store(self, place: Path) -> RocksStore:
        return RocksStore(place / "store")


class TestRocksStoreThatIngestsEverything(StoreContract):
    """The same with every change set as a file, so that small histories meet that path too."""

    def open_store(self, place: Path) -> RocksStore:
        return RocksStore(place / "store", RocksOptions(ingest_min_changes=0, ingest_min_entries=0))

    def history_settings(self) -> settings:
        return settings(super().history_settings(), max_examples=20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(path: Path) -> Iterator[RocksStore]:
    store = RocksStore(path)
    yield store
    store.close()


def state(number: int) -> StoreState:
    return StoreState(log_id="log", epoch=1, number=number)


def puts(count: int, value: bytes = b"v") -> list[tuple[bytes, bytes]]:
    return [(b"%08d" % number, value) for number in range(count)]


def build(path: Path, count: int = 20_000) -> None:
    """A closed store with one data file of ``count`` keys."""
    store = RocksStore(path, RocksOptions(ingest_min_changes=0))
    store.apply({P: Changes(puts=[(b"%08d" % number, os.urandom(20)) for number in range(count)])}, state(1))
    store.close()


def data_files(path: Path) -> list[Path]:
    return sorted((path / "db").glob("*.sst"))


# -- what is written --


def test_the_state_entry_keeps_positions_with_lanes(path: Path) -> None:
    written = StoreState("log", 2**33, 2**40, {"counts": Position({0: 5, 7: 2**62})}, {"counts": 1})
    store = RocksStore(path)
    store.apply({}, written)
    store.close()
    store = RocksStore(path)
    assert store.state == written
    store.close()


@pytest.mark.parametrize("prefix", [b"\x00\x00", b"\xff\xff", b"\x01", b"\x00\x00\x01", b""])
def test_a_prefix_that_would_meet_the_store_s_own_entry_or_break_the_order_is_refused(
    store: RocksStore, prefix: bytes
) -> None:
    with pytest.raises(ValueError, match="prefix"):
        store.apply({prefix: Changes(puts=[(b"state", b"x")])}, state(1))
    with pytest.raises(ValueError, match="prefix"):
        store.load(prefix, {b"state": b"x"}, state(1))
    assert store.state is None


def test_prefixes_that_would_mix_are_refused(store: RocksStore) -> None:
    puts = Changes(puts=[(b"k", b"v")])
    with pytest.raises(ValueError, match="mix"):
        store.apply({b"\x00\x01": puts, b"\x00\x01\x07": puts}, state(1))
    assert store.state is None


def test_longer_prefixes_keep_the_windows_of_a_state_apart(store: RocksStore) -> None:
    store.apply({b"\x00\x01" + bytes([n]) * 8: Changes(puts=[(b"k", bytes([n]))]) for n in (3, 1)}, state(1))
    assert [value for _, value in store.scan(b"\x00\x01", b"\x00\x02")] == [b"\x01", b"\x03"]


def test_a_large_change_set_is_ingested_and_leaves_no_temporary_file(path: Path, store: RocksStore) -> None:
    store.apply({P: Changes(puts=puts(100_000))}, state(1))
    assert len(data_files(path)) == 1
    assert list((path / "ingest").iterdir()) == []
    store.load(Q, dict(puts(10_000)), state(2))
    assert list((path / "ingest").iterdir()) == []
    assert len(contents(store)) == 110_000


def test_a_large_change_set_with_a_range_keeps_its_puts(store: RocksStore) -> None:
    store.apply({P: Changes(puts=puts(30_000, b"old"))}, state(1))
    store.apply({P: Changes(puts=puts(25_000, b"new"), ranges=[(b"", b"9")], deletes=[b"00029999"])}, state(2))
    assert list(StoreView(store, P).scan()) == puts(25_000, b"new")


def test_deletes_that_a_range_covers_are_not_written_one_by_one() -> None:
    covered = [b"b%05d" % number for number in range(1000)]
    small = changes_batch({P: Changes(ranges=[(b"b", b"c")], deletes=[*covered, b"x"])}, b"")
    assert len(small) == 3  # the range, x, the state


def test_a_reversed_range_does_not_ruin_the_store(path: Path) -> None:
    # RocksDB logs such a range before it refuses it; then no open ever succeeds again.
    store = RocksStore(path)
    store.apply({P: Changes(puts=[(b"m", b"1")], ranges=[(b"z", b"a")])}, state(1))
    store.close()
    store = RocksStore(path)
    assert contents(store) == {P + b"m": b"1"}
    store.close()


@pytest.mark.parametrize("large", [False, True])
def test_a_write_that_is_refused_for_its_type_leaves_the_store_as_it_was(
    path: Path, store: RocksStore, large: bool
) -> None:
    wrong: list[tuple[bytes, bytes]] = [*puts(30_000 if large else 3), (b"x", bytearray(b"no"))]  # type: ignore[list-item]
    with pytest.raises(ValueError, match="bytes"):
        store.apply({P: Changes(puts=wrong)}, state(1))
    assert store.state is None
    assert contents(store) == {}
    assert list((path / "ingest").iterdir()) == []
    store.apply({P: Changes(puts=puts(3))}, state(1))
    assert len(contents(store)) == 3


def test_clear_frees_the_space(path: Path) -> None:
    build(path, 100_000)
    store = RocksStore(path)
    store.clear()
    assert data_files(path) == []
    assert sorted(entry.name for entry in path.iterdir()) == ["db", "ingest"]
    store.close()


# -- opening --


def test_a_second_open_in_the_process_is_a_clear_error(path: Path, store: RocksStore) -> None:
    with pytest.raises(StoreLocked, match="already open in this or another process") as caught:
        RocksStore(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_second_process_is_refused_and_does_not_touch_the_files_of_the_first(path: Path, store: RocksStore) -> None:
    on_its_way = path / "ingest" / "7.sst"
    on_its_way.write_bytes(b"being written")
    program = """if True:
        import sys
        from streams.errors import StoreLocked
        from streams.state.rocksdb import RocksStore
        try:
            RocksStore(sys.argv[1])
        except StoreLocked as error:
            print("locked:", error)
    """
    answer = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.startswith(f"locked: {path}: the store is already open"), answer.stderr
    assert on_its_way.read_bytes() == b"being written"


def test_leftovers_of_a_killed_process_are_removed_at_open(path: Path) -> None:
    build(path, 10)
    (path / "ingest" / "3.sst").write_bytes(b"half a file")
    (path / "discard").mkdir()
    (path / "discard" / "000004.sst").write_bytes(b"of a cleared database")
    store = RocksStore(path)
    assert sorted(entry.name for entry in path.iterdir()) == ["db", "ingest"]
    assert list((path / "ingest").iterdir()) == []
    assert len(contents(store)) == 10
    store.close()


def test_a_file_in_the_way_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    for path in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(ConfigurationError, match="choose a directory that can be written") as caught:
            RocksStore(path)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_directory_is_a_configuration_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigurationError, match="Permission denied"):
            RocksStore(tmp_path / "store")
    finally:
        tmp_path.chmod(0o700)


def test_a_directory_without_permission_is_a_configuration_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        RocksStore(path)


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST-*", "*.sst"])
@pytest.mark.parametrize("damage", ["gone", "garbage", "empty"])
def test_a_damaged_store_is_told_from_an_empty_one(path: Path, name: str, damage: str) -> None:
    build(path)
    for file in (path / "db").glob(name):
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(b"garbage" * 9 if damage == "garbage" else b"")
    with pytest.raises(StoreCorrupt, match="rebuilt from the changelog") as caught:
        RocksStore(path)
    assert "\n" not in str(caught.value)
    set_aside(path)
    store = RocksStore(path)
    assert store.state is None
    store.close()


@pytest.mark.parametrize("entry", [b"", b"{}", b"\xff", b'{"log_id":1}'])
def test_a_state_entry_that_does_not_read_back_is_a_damaged_store(path: Path, entry: bytes) -> None:
    build(path)
    database = Rdict(str(path / "db"), Options(raw_mode=True))
    batch = WriteBatch(raw_mode=True)
    batch.put(STATE_KEY, entry)
    database.write(batch)
    database.close()
    for _ in range(2):  # not "locked" the second time
        with pytest.raises(StoreCorrupt, match="state entry"):
            RocksStore(path)


# -- reading what is damaged --


def damage_the_middle(path: Path) -> None:
    (file,) = data_files(path)
    with file.open("r+b") as data:
        data.seek(file.stat().st_size // 2)
        data.write(b"\xff" * 64)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_over_a_damaged_block_raises_instead_of_ending_early(path: Path, reverse: bool) -> None:
    build(path)
    damage_the_middle(path)
    store = RocksStore(path)
    seen: list[tuple[bytes, bytes]] = []
    with pytest.raises(StoreCorrupt, match="rebuilt"):
        seen.extend(StoreView(store, P).scan(reverse=reverse))
    assert 0 < len(seen) < 20_000
    store.close()


def test_reading_a_damaged_block_raises_instead_of_finding_nothing(path: Path) -> None:
    build(path)
    damage_the_middle(path)
    store = RocksStore(path)
    keys = [P + b"%08d" % number for number in range(20_000)]
    with pytest.raises(StoreCorrupt):
        store.multi_get(keys)
    with pytest.raises(StoreCorrupt):
        list(map(store.get, keys))
    store.close()


# -- a closed store, a full disk --


def test_a_closed_store_says_so(path: Path) -> None:
    store = RocksStore(path)
    store.close()
    calls = (
        lambda: store.get(P),
        lambda: store.multi_get([P]),
        lambda: list(store.scan(P, Q)),
        lambda: store.apply({}, state(1)),
    )
    for call in calls:
        with pytest.raises(StoreUnavailable, match="closed"):
            call()


def fill_until_refused(path: str, large: bool) -> None:
    """Runs in a process of its own: write until a file would pass the limit; print the last commit and the error."""
    store = RocksStore(path)
    number, count = 0, 30_000 if large else 1000
    try:
        for number in range(1, 1000):
            value = number.to_bytes(4, "big") * 25
            store.apply({P: Changes(puts=puts(count, value))}, state(number))
            if large:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))
    except StreamsError as error:
        print(number - 1, type(error).__name__, error, flush=True)
    store.close()


@pytest.mark.parametrize("large", [False, True])
def test_a_write_that_the_disk_does_not_take_leaves_the_last_whole_one(path: Path, large: bool) -> None:
    # A limit on the size of files stands in for a full disk: writes fail in the middle of a file.
    program = f"""if True:
        import importlib.util, resource, signal
        spec = importlib.util.spec_from_file_location("test_rocksdb", {__file__!r})
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**22, resource.RLIM_INFINITY))
        module.fill_until_refused({str(path)!r}, {large})
    """
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    number, name, message = answer.stdout.split(maxsplit=2)
    assert name == "StoreUnavailable", answer.stdout
    assert "see to disk space" in message
    store = RocksStore(path)
    assert store.state is not None
    assert store.state.number == int(number) > 0
    value = int(number).to_bytes(4, "big") * 25
    assert dict(StoreView(store, P).scan()) == dict(puts(30_000 if large else 1000, value))
    assert list((path / "ingest").iterdir()) == []
    store.apply({P: Changes(deletes=[b"00000000"])}, state(int(number) + 1))
    store.close()


# -- setting aside --


def test_a_store_that_is_set_aside_is_kept_and_a_new_one_takes_its_place(path: Path) -> None:
    build(path, 10)
    where = set_aside(path)
    assert not path.exists()
    fresh = RocksStore(path)
    assert fresh.state is None
    fresh.close()
    old = RocksStore(where)
    assert old.state == state(1)
    old.close()


def test_only_the_last_store_that_was_set_aside_is_kept(path: Path) -> None:
    places: list[Path] = []
    for _ in range(12):
        build(path, 1)
        places.append(set_aside(path))
    assert len(set(places)) == 12
    assert [place for place in places if place.exists()] == places[-1:]


def test_destroy_removes_a_store_and_minds_no_absence(path: Path) -> None:
    build(path, 10)
    destroy(path)
    assert not path.exists()
    destroy(path)


def test_every_error_of_a_store_is_one_of_ours() -> None:
    for error in (StoreCorrupt, StoreLocked, StoreUnavailable):
        assert issubclass(error, StreamsError)
