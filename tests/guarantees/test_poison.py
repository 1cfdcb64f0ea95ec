"""A poison record under each policy, in a real worker, and under kill -9."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from streams.connectors.embedded import EmbeddedLog
from streams.core.record import TopicPartition
from streams.testing.log_contract import read_all
from tests.guarantees.support import Row, error_line, finish, killed_at_random, rows, send, with_log, working
from tests.stages import rounds

SMALL_COMMITS = "?max_commit_bytes=50000&max_record_bytes=10000"
UNREADABLE = b'{"id": 7, "amount":'
REFUSED = {"id": 7, "amount": 13}


def orders(first: int, count: int) -> list[Row]:
    return [("k", {"id": number, "amount": 1}, number) for number in range(first, first + count)]


def ids(log: EmbeddedLog) -> Any:
    async def read() -> list[int]:
        return [value["id"] for _, value in await rows(log, "checked")]

    return read()


@pytest.mark.parametrize(("poison", "says"), [(UNREADABLE, "truncated"), (REFUSED, "nobody orders 13")])
def test_fail_ends_the_worker_with_one_line_that_names_the_record_and_skip_goes_on_behind_it(
    tmp_path: Path, poison: Any, says: str
) -> None:
    path = tmp_path / "log"
    sent = [*orders(0, 70), ("k", poison, 70), *orders(71, 80)]
    with_log(path, lambda log: send(log, "orders", sent, 1))
    for _ in range(2):  # however often it is started, it stops there and nothing is skipped in silence
        with working("policies.py", path, POLICY="fail") as worker:
            assert worker.wait() == 1, worker.stderr
            line = error_line(worker)
            assert "orders[0]@70" in line, line
            assert says in line.lower(), line
            assert "on_error" in line, line
    before = with_log(path, ids)
    assert before == list(range(len(before))), "what was committed before is not what came before"
    assert len(before) <= 70
    finish("policies.py", path, POLICY="skip")
    assert with_log(path, ids) == [*range(70), *range(71, 151)]


def test_dead_letters_leave_in_the_commit_of_their_position_under_kill_9(tmp_path: Path, chance: random.Random) -> None:
    path = tmp_path / "log"
    sent: list[Row] = []
    bad: dict[int, bytes] = {}
    for offset in range(100_000):
        kind = chance.random()
        value: Any = {"id": offset, "amount": 1 if kind > 0.01 else 13}
        if kind < 0.005:
            value = b"%d is not JSON" % offset
        if kind <= 0.01:
            bad[offset] = value if isinstance(value, bytes) else json.dumps(value).encode()
        sent.append(("k", value, offset))
    with_log(path, lambda log: send(log, "orders", sent, 1))
    reached = []
    for _ in range(rounds(3, 6)):
        with working("policies.py", path, settings=SMALL_COMMITS, POLICY="dead_letter") as worker:
            worker.until_working()
            killed_at_random(worker, chance, commits=20, delay_s=0.02)
        reached.append(len(with_log(path, ids)))
    assert 0 < reached[-1] < 100_000 - len(bad), f"the kills didn't come in the middle of the work: {reached}"
    finish("policies.py", path, POLICY="dead_letter")

    async def check(log: EmbeddedLog) -> None:
        assert [value["id"] for _, value in await rows(log, "checked")] == [
            offset for offset in range(100_000) if offset not in bad
        ]
        letters: dict[int, bytes | None] = {}
        for batch in await read_all(log, TopicPartition("orders.dead-letters", 0)):
            assert batch.records.headers is not None
            for value, header in zip(batch.records.values, batch.records.headers, strict=True):
                said = {name: content.decode() for name, content in header or ()}
                offset = int(said["streams.offset"])
                assert offset not in letters, f"the record at {offset} has two letters"
                assert (said["streams.topic"], said["streams.partition"]) == ("orders", "0")
                assert said["streams.error"]
                letters[offset] = value
        assert letters == bad

    with_log(path, check)
