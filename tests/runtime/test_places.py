"""Folders for the stores of several workers of one machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streams.errors import ConfigurationError
from streams.runtime.places import check_worker_name, every_place, is_shared, place
from streams.runtime.stores import RocksStores

HOLD = """
import sys
from pathlib import Path
from streams.runtime.places import place
with place(Path(sys.argv[1])) as folder:
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def test_each_worker_has_a_place_of_its_own_and_the_first_free_one(tmp_path: Path) -> None:
    with place(tmp_path) as first:
        with place(tmp_path) as second, place(tmp_path) as third:
            assert [first.name, second.name, third.name] == ["0", "1", "2"]
        with place(tmp_path) as again:
            assert again == second
    with place(tmp_path) as after:
        assert after == first


def test_a_killed_worker_gives_its_place_up_and_the_next_one_has_its_stores(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "0\n"
    stores = RocksStores(tmp_path / "0")
    stores.open("app.lines-1").close()
    with place(tmp_path) as other:
        assert other.name == "1"
    worker.kill()
    worker.communicate()
    with place(tmp_path) as folder:
        assert folder.name == "0"
        assert RocksStores(folder).stored() == {"app.lines-1"}


def test_what_was_set_aside_isnt_counted_as_stored(tmp_path: Path) -> None:
    stores = RocksStores(tmp_path)
    for task in ("a-0", "a-1"):
        stores.open(task).close()
    stores.set_aside("a-0")
    assert stores.stored() == {"a-1"}
    assert RocksStores(tmp_path / "nowhere").stored() == frozenset()


def test_a_named_worker_has_the_place_of_its_name_and_nobody_else_gets_it(tmp_path: Path) -> None:
    with place(tmp_path, "blue") as folder:
        assert folder.name == "worker-blue"
        again = place(tmp_path, "blue")
        with pytest.raises(ConfigurationError, match="another worker named 'blue' runs on this machine"):
            again.__enter__()
        with place(tmp_path, "0") as number, place(tmp_path) as first:
            assert {number.name, first.name} == {"worker-0", "0"}


@pytest.mark.parametrize("name", ["../x", "a b", ".hidden", "x" * 101, "a/b"])
def test_a_name_that_cant_name_a_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="use up to 100 letters"):
        check_worker_name(name)


def test_what_removes_places_waits_for_none_that_is_in_use(tmp_path: Path) -> None:
    with place(tmp_path), pytest.raises(ConfigurationError, match="a worker of this machine uses"):
        every_place(tmp_path).__enter__()
    with every_place(tmp_path), place(tmp_path) as folder:
        assert folder.name == "1"


@pytest.mark.parametrize(
    ("url", "shared"), [("embedded:./data", False), ("memory:", False), ("kafka://b:1", True), ("nats://n", True)]
)
def test_logs_on_servers_are_shared(url: str, shared: bool) -> None:
    assert is_shared(url) is shared
