"""Tools on a log: through the worker that holds it, and without one.  Both ways give the same answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

Call = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., "subprocess.Popen[str]"]
Until = Callable[[Callable[[], bool]], None]


def lines(ran: subprocess.CompletedProcess[str]) -> list[Any]:
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def error(ran: subprocess.CompletedProcess[str]) -> str:
    assert ran.returncode != 0
    [line] = ran.stderr.splitlines()
    assert line.startswith("streams: error: ")
    return line


TRANSFERS = '{"account": "ann", "amount": 5}\n{"account": "bob", "amount": 2}\n{"account": "ann", "amount": 4}\n'


def answers(call: Call) -> dict[str, Any]:
    """What every looking verb says, without what differs from run to run."""
    tailed = lines(call("tail", "statements", "--from", "start", "--json"))
    topics = [{**each, "identity": None} for each in json.loads(call("topics", "--all", "--json").stdout)]
    return {
        "tail": sorted((each["key"], each["value"]["balance"]) for each in tailed),
        "rows": json.loads(call("tables", "-A", "bank", "balances", "--json").stdout),
        "prefix": json.loads(call("tables", "-A", "bank", "balances", "--prefix", "b", "--json").stdout),
        "value": call("tables", "-A", "bank", "balances", "ann").stdout,
        "missing": error(call("tables", "-A", "bank", "balances", "zoe")),
        "unknown": error(call("tables", "-A", "bank", "nothing")),
        "topics": [each for each in topics if each["kind"] != "repartition"],
        "lag": [
            each for each in json.loads(call("lag", "-A", "bank", "--json").stdout) if each["topic"] == "transfers"
        ],
        "no topic": error(call("tail", "nowhere")),
    }


def test_tools_say_the_same_with_and_without_a_worker(
    call: Call, run: Call, start: Start, until: Until, project: Path
) -> None:
    assert run("send", "transfers", "-A", "bank", stdin=TRANSFERS).returncode == 0
    assert run("worker", "-A", "bank", "--until-idle").returncode == 0
    without = answers(call)
    assert without["tail"] == [("ann", 5), ("ann", 9), ("bob", 2)]
    assert without["rows"] == [{"key": "ann", "value": 9}, {"key": "bob", "value": 2}]
    assert without["prefix"] == [{"key": "bob", "value": 2}]
    assert without["value"] == "9\n"
    assert "there is no key 'zoe'" in without["missing"]
    assert "has no table 'nothing'; its tables: balances" in without["unknown"]
    assert {row["lag"] for row in without["lag"]} == {0}
    start()
    until(lambda: call("tables", "-A", "bank", "balances", "ann").stdout == "9\n")
    assert answers(call) == without


def test_what_is_sent_reaches_a_running_worker(
    call: Call, run: Call, start: Start, until: Until, project: Path
) -> None:
    start()
    assert run("send", "transfers", "-A", "bank", stdin=TRANSFERS).stdout == "sent 3 records to transfers\n"
    until(lambda: len(lines(call("tail", "statements", "--json"))) == 3)
    assert json.loads(call("agents", "ask", "settle", '{"account": "ann", "amount": 1}', "-A", "bank").stdout) == {
        "account": "ann",
        "balance": 10,
    }
    assert "ValueError: no 13 here" in error(
        call("agents", "ask", "settle", '{"account": "ann", "amount": 13}', "-A", "bank")
    )
    assert "the request doesn't fit it" in error(call("agents", "ask", "settle", '{"amount": 1}', "-A", "bank"))
    assert "has no agent 'nobody'" in error(call("agents", "ask", "nobody", "1", "-A", "bank"))


def test_a_tail_that_follows_stands_in_nobodys_way_and_goes_on_over_a_workers_end(
    run: Call, start: Start, until: Until, project: Path
) -> None:
    run("send", "transfers", "-A", "bank", '{"account": "before", "amount": 1}')
    with (project / "tail.out").open("w") as out:
        tail = subprocess.Popen(
            [sys.executable, "-m", "streams", "tail", "transfers", "-f", "--json"], cwd=project, stdout=out
        )
    try:

        def followed(account: str) -> bool:
            return account in (project / "tail.out").read_text()

        until(lambda: followed("before"))
        worker = start()
        run("send", "transfers", "-A", "bank", '{"account": "while", "amount": 1}')
        until(lambda: followed("while"))
        worker.terminate()
        assert worker.wait(30) == 0
        run("send", "transfers", "-A", "bank", '{"account": "after", "amount": 1}')
        until(lambda: followed("after"))
        assert tail.poll() is None
        found = [json.loads(line)["offset"] for line in (project / "tail.out").read_text().splitlines()]
        assert found == [0, 1, 2], "nothing twice, nothing left out"
    finally:
        tail.terminate()
        tail.wait()


def test_a_big_topic_is_read_in_chunks_through_the_worker(run: Call, start: Start, project: Path) -> None:
    count = 30_000
    run("send", "numbers", "--create", "--partitions", "2", stdin="".join(f"{n}:{n}\n" for n in range(count)))
    keyed = run("send", "numbers", "--separator", ":", stdin="".join(f"{n}:{n}\n" for n in range(count)))
    assert keyed.stdout == f"sent {count} records to numbers\n"
    start()
    found = lines(run("tail", "numbers", "--from", "start", "--json"))
    assert sorted(int(each["value"]) for each in found if each["key"] is not None) == list(range(count))
    assert {each["partition"] for each in found} == {0, 1}
    for partition in (0, 1):
        offsets = [each["offset"] for each in found if each["partition"] == partition]
        assert offsets == list(range(len(offsets)))


def test_tools_that_come_at_the_same_time_wait_for_one_another_and_a_worker_for_them(
    run: Call, start: Start, until: Until, project: Path
) -> None:
    run("send", "transfers", "-A", "bank", '{"account": "first", "amount": 1}')
    command = [sys.executable, "-m", "streams", "send", "transfers", "-A", "bank"]
    senders = [
        subprocess.Popen([*command, json.dumps({"account": f"a-{number}", "amount": 1})], cwd=project)
        for number in range(4)
    ]
    start()
    assert [sender.wait(60) for sender in senders] == [0, 0, 0, 0]
    until(lambda: len(lines(run("tail", "statements", "--json"))) == 5)


def test_a_record_of_many_megabytes_goes_through_the_worker(run: Call, start: Start, project: Path) -> None:
    size = 32 * 2**20
    run("send", "blobs", "--create", "small")
    start()
    assert run("send", "blobs", "-", stdin="x" * size + "\n").returncode == 0
    shown = run("tail", "blobs", "-n", "1", "--json")
    assert len(json.loads(shown.stdout)["value"]) == size


def test_a_store_that_is_gone_is_restored_and_says_how_far_it_is(
    run: Call, start: Start, until: Until, project: Path
) -> None:
    (project / "many.py").write_text(
        "from streams import App\napp = App('many')\napp.table('held', key=int, value=int, source='changes')\n"
    )
    count = 120_000
    run("send", "changes", "-A", "many", "-s", "=", stdin="".join(f"{n}={n}\n" for n in range(count)))
    assert run("worker", "-A", "many", "--until-idle").returncode == 0
    shutil.rmtree(project / ".streams" / "state")
    ran = run("worker", "-A", "many", "--until-idle")
    assert ran.returncode == 0
    assert f"restoring many.changes-0: {count:,} of {count:,} records" in ran.stderr
    assert run("tables", "-A", "many", "held", "77777").stdout == "77777\n"


def test_a_worker_of_another_app_isnt_asked_for_tables(call: Call, start: Start, project: Path) -> None:
    (project / "other.py").write_text(
        "from streams import App\napp = App('other')\nt = app.table('t', source='changes')\n"
    )
    start()
    assert "held by a worker of app 'bank', not 'other'" in error(call("tables", "-A", "other", "t", "k"))


def test_a_reset_is_refused_while_a_worker_runs_and_starts_over_after(
    call: Call, run: Call, start: Start, project: Path
) -> None:
    run("send", "transfers", "-A", "bank", stdin=TRANSFERS)
    worker = start()
    assert f"pid {worker.pid}" in error(call("reset", "-A", "bank", "--yes"))
    worker.terminate()
    assert worker.wait(30) == 0
    run("worker", "-A", "bank", "--until-idle")
    assert call("tables", "-A", "bank", "balances", "ann").stdout == "9\n"
    unasked = run("reset", "-A", "bank", stdin="n\n")
    assert unasked.returncode == 130
    assert "will be written again: statements" in unasked.stderr
    assert call("tables", "-A", "bank", "balances", "ann").stdout == "9\n"
    done = call("reset", "-A", "bank", "--yes", "--json")
    assert done.returncode == 0
    assert not (project / ".streams" / "state" / "bank").exists()
    left = json.loads(call("topics", "--all", "--json").stdout)
    assert {each["topic"] for each in left} == {"transfers", "statements"}
    assert "hasn't run" in error(call("tables", "-A", "bank", "balances", "ann"))
    assert run("worker", "-A", "bank", "--until-idle").returncode == 0
    assert call("tables", "-A", "bank", "balances", "ann").stdout == "9\n"
    assert len(lines(call("tail", "statements", "--from", "start", "--json"))) == 6


def test_a_reset_that_was_cut_off_keeps_the_app_from_running_until_it_is_finished(
    call: Call, run: Call, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streams.connectors.embedded.log import EmbeddedLog

    run("send", "transfers", "-A", "bank", stdin=TRANSFERS)
    run("worker", "-A", "bank", "--until-idle")

    async def torn(log: EmbeddedLog, tasks: object) -> None:
        raise OSError("cut off")

    with monkeypatch.context() as patched:
        patched.setattr(EmbeddedLog, "forget", torn)
        assert call("reset", "-A", "bank", "--yes").returncode == 1
    refused = run("worker", "-A", "bank", "--until-idle")
    assert refused.returncode == 2, "half of its state is gone: it must not go on from the other half"
    assert call("reset", "-A", "bank", "--yes").returncode == 0
    assert run("worker", "-A", "bank", "--until-idle").returncode == 0
    assert call("tables", "-A", "bank", "balances", "ann").stdout == "9\n"
