"""The worker as a process: how it starts, refuses, stops, and what it answers meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

Call = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., "subprocess.Popen[str]"]
Until = Callable[[Callable[[], bool]], None]

STUCK = """\
import asyncio
import time

from streams import App

app = App("stuck")


@app.agent(app.stream("work"))
async def wait(events):
    async for event in events:
        with open("began.txt", "a") as began:
            began.write("x")
        if event == "block":
            time.sleep(600)
        await asyncio.Event().wait()
"""


def one_line(ran: subprocess.CompletedProcess[str], status: int) -> str:
    """The one error line of a command that failed with ``status``."""
    assert ran.returncode == status, ran.stderr
    assert "Traceback" not in ran.stderr
    [line] = [line for line in ran.stderr.splitlines() if line.startswith("streams: error: ")]
    assert ran.stderr.rstrip().endswith(line), "the error is the last thing said"
    return line


def ask(project: Path, path: str) -> tuple[int, Any]:
    """GET from the worker's web endpoint: status and body."""
    says = (project / "worker.err").read_text()
    address = says.partition("tables on ")[2].split()[0]
    try:
        with urllib.request.urlopen(f"{address}{path}", timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def seen(project: Path) -> list[str]:
    path = project / "seen.txt"
    return path.read_text().splitlines() if path.exists() else []


# ── starting ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafak://broker", "nothing is known about 'kafak'"),
        ("embedded:", "names no directory"),
        ("embedded:./data?durabel=false", "there is no setting 'durabel'"),
        ("embedded:./data?durable=perhaps", "is not true or false"),
    ],
)
def test_a_bad_url_is_one_clear_line(call: Call, project: Path, url: str, says: str) -> None:
    assert says in one_line(call("worker", "-A", "bank", "--log", url), 2)
    assert not (project / "data").exists(), "nothing was made"


@pytest.mark.parametrize("folder", ["./bank.py/log", "/proc/streams-log"])
def test_a_folder_that_cant_be_written_is_one_clear_line(call: Call, project: Path, folder: str) -> None:
    line = one_line(call("worker", "-A", "bank", "--log", f"embedded:{folder}"), 2)
    assert folder in line
    assert "choose one that can be written" in line


def test_more_processes_than_an_embedded_log_serves_are_refused_with_the_reason(call: Call, project: Path) -> None:
    line = one_line(call("worker", "-A", "bank", "--processes", "2"), 2)
    assert "--processes 2" in line
    assert "its lock" in line
    assert not (project / ".streams").exists()


def test_a_second_worker_on_a_locked_log_names_the_first(run: Call, start: Start) -> None:
    first = start()
    line = one_line(run("worker", "-A", "bank"), 2)
    assert f"pid {first.pid}" in line
    assert "stop that process" in line
    assert first.poll() is None


def test_a_port_that_is_taken_is_one_clear_line(run: Call, start: Start, project: Path) -> None:
    start("--port", "0")
    port = (project / "worker.err").read_text().partition("127.0.0.1:")[2].split()[0]
    line = one_line(run("worker", "-A", "bank", "--log", "embedded:./other", "--port", port), 2)
    assert f"can't listen on 127.0.0.1:{port}" in line


def test_a_changed_topology_is_one_clear_line_with_the_choices(run: Call, project: Path) -> None:
    assert run("worker", "-A", "bank", "--until-idle").returncode == 0
    text = (project / "bank.py").read_text()
    (project / "bank.py").write_text(text.replace("value=int", "value=str"))
    line = one_line(run("worker", "-A", "bank", "--until-idle"), 2)
    assert "balances" in line
    assert "streams reset" in line
    assert "version" in line


# ── running ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_until_idle_ends_with_everything_processed_and_committed(run: Call, project: Path) -> None:
    lines = "".join(f'{{"account": "a-{number % 50}", "amount": 1}}\n' for number in range(2000))
    assert run("send", "transfers", "-A", "bank", stdin=lines).stdout == "sent 2000 records to transfers\n"
    ran = run("worker", "-A", "bank", "--until-idle")
    assert ran.returncode == 0, ran.stderr
    assert "everything is processed and committed" in ran.stderr
    rows = json.loads(run("tables", "-A", "bank", "balances", "--json").stdout)
    assert rows == [{"key": key, "value": 40} for key in sorted(f"a-{number}" for number in range(50))]
    assert {row["lag"] for row in json.loads(run("lag", "-A", "bank", "--json").stdout)} == {0}


def test_a_poison_record_stops_the_worker_with_one_line_that_names_it(run: Call, project: Path) -> None:
    run("send", "transfers", "-A", "bank", '{"account": "a", "amount": 1}')
    run("send", "transfers", "not json")
    line = one_line(run("worker", "-A", "bank", "--until-idle"), 1)
    assert "transfers[0]@1: transfers: decode: " in line
    assert "on_error=" in line


def test_an_error_of_the_users_code_names_file_and_line_and_the_record(run: Call, project: Path) -> None:
    run("send", "transfers", "-A", "bank", '{"account": "a", "amount": 13}')
    line = one_line(run("worker", "-A", "bank", "--until-idle"), 1)
    assert "ValueError: no 13 here (bank.py:" in line
    assert "agent settle" in line


def test_an_error_where_no_record_is_in_hand_names_file_and_line(run: Call, project: Path) -> None:
    text = (project / "bank.py").read_text()
    (project / "bank.py").write_text(text + "\n\n@app.on_start\nasync def begin():\n    raise OSError('no network')\n")
    number = len((project / "bank.py").read_text().splitlines())
    line = one_line(run("worker", "-A", "bank"), 1)
    assert f"bank.py:{number}: OSError: no network" in line
    assert "STREAMS_TRACEBACK=1" in line
    assert "Traceback" in run("worker", "-A", "bank", STREAMS_TRACEBACK="1").stderr


# ── stopping ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("loop", ["--uvloop", "--no-uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_commits_and_leaves_and_nothing_is_done_again(
    run: Call, start: Start, until: Until, project: Path, number: signal.Signals, loop: str
) -> None:
    lines = "".join(f'{{"account": "a-{number}", "amount": 1}}\n' for number in range(5000))
    run("send", "transfers", "-A", "bank", stdin=lines)
    worker = start(loop)
    until(lambda: len(seen(project)) > 10)
    worker.send_signal(number)
    assert worker.wait(30) == 0, (project / "worker.err").read_text()
    assert f"{number.name}: committing and leaving" in (project / "worker.err").read_text()
    assert run("worker", "-A", "bank", "--until-idle").returncode == 0
    # Each event reached the agent once: what was in hand at the signal was committed, not dropped.
    assert sorted(seen(project)) == sorted(f"a-{number} 1" for number in range(5000))
    assert len(json.loads(run("tables", "-A", "bank", "balances", "--json", "-n", "6000").stdout)) == 5000


@pytest.mark.parametrize("loop", ["--uvloop", "--no-uvloop"])
@pytest.mark.parametrize("value", ['"wait"', '"block"'])
def test_a_second_signal_stops_at_once_even_while_the_loop_is_blocked(
    run: Call, start: Start, until: Until, project: Path, loop: str, value: str
) -> None:
    (project / "stuck.py").write_text(STUCK)
    run("send", "work", "-A", "stuck", value)
    worker = start(loop, "--stop-timeout", "10m", app="stuck")
    until((project / "began.txt").exists)
    worker.terminate()
    until(lambda: "committing and leaving" in (project / "worker.err").read_text())
    assert worker.poll() is None
    worker.terminate()
    assert worker.wait(20) == 128 + signal.SIGTERM
    assert "stopped at once" in (project / "worker.err").read_text()


@pytest.mark.parametrize("value", ['"wait"', '"block"'])
def test_a_stop_that_takes_too_long_ends_with_status_1_and_says_so(
    run: Call, start: Start, until: Until, project: Path, value: str
) -> None:
    (project / "stuck.py").write_text(STUCK)
    run("send", "work", "-A", "stuck", value)
    worker = start("--stop-timeout", "100ms", app="stuck")
    until((project / "began.txt").exists)
    worker.terminate()
    assert worker.wait(30) == 1
    says = (project / "worker.err").read_text()
    assert "will be done again" in says
    assert "Traceback" not in says


def test_a_killed_worker_leaves_no_lock_behind(run: Call, start: Start, project: Path) -> None:
    worker = start()
    worker.kill()
    worker.wait()
    assert run("worker", "-A", "bank", "--until-idle").returncode == 0


# ── the web endpoint ────────────────────────────────────────────────────────────────────────────────────────────────


def test_health_metrics_and_tables_are_served(run: Call, start: Start, until: Until, project: Path) -> None:
    start("--port", "0")
    until(lambda: ask(project, "/health")[0] == 200)
    run("send", "transfers", "-A", "bank", stdin='{"account": "ann", "amount": 5}\n{"account": "bob", "amount": 2}\n')
    until(lambda: ask(project, "/tables/balances/ann") == (200, "5"))
    until(lambda: ask(project, "/tables/balances/bob") == (200, "2"))
    assert ask(project, "/tables/balances/zoe")[0] == 404
    assert ask(project, "/tables")[1] == '["balances"]'
    status, text = ask(project, "/metrics")
    assert status == 200
    assert 'streams_records_in_total{app="bank",task="bank.transfers-0"} 2.0' in text
    tasks = json.loads(ask(project, "/tasks")[1])
    assert {task["phase"] for task in tasks} == {"running"}


def test_a_task_that_is_stuck_is_unhealthy_and_then_fails_the_worker(
    run: Call, start: Start, until: Until, project: Path
) -> None:
    (project / "stuck.py").write_text(STUCK)
    worker = start("--port", "0", "--liveness-timeout", "300ms", "--stop-timeout", "100ms", app="stuck")
    until(lambda: ask(project, "/health")[0] == 200)
    run("send", "work", "-A", "stuck", '"wait"')
    until((project / "began.txt").exists)
    until(lambda: ask(project, "/health")[0] == 503)  # the event loop is alive all the time: it answers
    health = json.loads(ask(project, "/health")[1])
    assert health["status"] == "stuck"
    assert health["problems"][0].startswith("task stuck.work-0 has ")
    assert worker.wait(60) == 1
    assert "streams: error: task stuck.work-0 has " in (project / "worker.err").read_text()


def test_a_pipe_that_is_closed_early_is_no_error(run: Call, project: Path) -> None:
    run("send", "numbers", "--create", stdin="".join(f"{number}\n" for number in range(20_000)))
    command = f"{sys.executable} -m streams tail numbers --from start | head -n 1"
    ran = subprocess.run(["bash", "-c", command], cwd=project, capture_output=True, text=True, check=False, timeout=60)
    assert ran.stdout.rstrip().endswith("  0")
    assert ran.stderr == ""


def test_an_error_that_cant_be_told_still_has_its_status(project: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "streams", "worker", "-A", "nowhere"]
        assert subprocess.run(command, cwd=project, stderr=full, timeout=60, check=False).returncode == 2
