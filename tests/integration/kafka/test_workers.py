"""Several worker processes of one app on a real broker: places, reads, replies, a supervisor, and the tools."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.kafka.broker import KafkaBroker

APP = """\
from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from streams import App

app = App(os.environ["APP_NAME"], partitions=4, commit_interval="20ms")


class Add(msgspec.Struct):
    who: str
    n: int = 1


sums = app.table("sums", key=str, value=int, default=int)


@app.agent(app.stream(app.topic(f"{app.name}-adds", value=Add)).key_by(lambda a: a.who), name="add")
async def add(events):
    async for e in events:
        sums[e.who] += e.n
        yield {"who": e.who, "sum": sums[e.who], "pid": os.getpid()}


@app.agent(app.stream(app.topic(f"{app.name}-orders", value=Add)).key_by(lambda a: f"order of {a.who}"), name="relay",
           sinks=[app.topic(f"{app.name}-answers")])
async def relay(events):
    async for e in events:
        answer = await add.ask(Add(e.who, e.n), timeout="30s")
        if Path("hold").exists():
            Path(f"holds-{os.getpid()}").touch()
            await asyncio.Event().wait()
        yield {**answer, "asker": os.getpid(), "read": await seen(e.who)}


async def seen(who):  # not in the agent: naming the table there would make it one task with ``add``
    return await sums.get(who)
"""
NAMES = [f"n{number}" for number in range(16)]
TIMEOUT_S = 120.0
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("STREAMS_")}


class Desk:
    """An app in a folder of its own, its workers, and the tools."""

    def __init__(self, folder: Path, name: str, broker: KafkaBroker) -> None:
        self.folder = folder
        self.name = name
        self.environment = {
            **ENVIRONMENT,
            "APP_NAME": name,
            "STREAMS_LOG": f"kafka://{broker.bootstrap}?session_timeout_ms=3000",
        }
        self.started: list[subprocess.Popen[str]] = []
        (folder / "shop.py").write_text(APP)

    # ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, *arguments: str, **environment: str) -> int:
        """Start a worker (or a supervisor of some); its number."""
        number = len(self.started)
        with self._says(number).open("w") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "streams", "worker", "-A", "shop", *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
                text=True,
                env={**self.environment, **environment},
            )
        self.started.append(process)
        return number

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end."""
        return subprocess.run(
            [sys.executable, "-m", "streams", *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env=self.environment,
        )

    def said(self, *arguments: str) -> Any:
        """The JSON that a command prints which only looks.  While a task moves it may be told to try again."""
        deadline = time.monotonic() + TIMEOUT_S
        while (ran := self.run(*arguments)).returncode != 0:
            assert time.monotonic() < deadline, ran
        return json.loads(ran.stdout)

    def send(self, topic: str, *names: str) -> None:
        lines = "".join(f'{{"who": "{name}", "n": 1}}\n' for name in names)
        subprocess.run(
            [sys.executable, "-m", "streams", "send", f"{self.name}-{topic}", "-A", "shop"],
            cwd=self.folder,
            input=lines,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
            env=self.environment,
        )

    def answers(self) -> list[dict[str, Any]]:
        ran = self.run("tail", f"{self.name}-answers", "--from", "start", "--json")
        return [json.loads(line)["value"] for line in ran.stdout.splitlines()] if ran.returncode == 0 else []

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.terminate()
        for process in self.started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def patient(self) -> dict[str, str]:
        """For workers whose session outlasts a restart, and a look at what a survivor can't know yet, if slow."""
        return {"STREAMS_LOG": self.environment["STREAMS_LOG"].replace("=3000", "=30000")}

    # ── what they say ─────────────────────────────────────────────────────────────────────────────────────────────

    def _says(self, number: int) -> Path:
        return self.folder / f"worker-{number}.err"

    def says(self, number: int) -> str:
        return self._says(number).read_text()

    def addresses(self, number: int) -> list[str]:
        """Where a worker, or each of a supervisor's, answers."""
        return [line.rsplit(" ", 1)[1] for line in self.says(number).splitlines() if "tables on http" in line]

    def get(self, address: str, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"{address}{path}", timeout=20) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        except OSError:
            return 0, None

    def tasks(self, address: str) -> dict[str, str]:
        """The tasks that run there, once it is healthy; else none."""
        status, health = self.get(address, "/health")
        return health["tasks"] if status == 200 else {}

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            said = "\n".join(self.says(number) for number in range(len(self.started)))
            # By itself: those that the test kills or stops end by a signal, or with 0.
            failed = [number for number, each in enumerate(self.started) if (each.poll() or 0) > 0]
            assert not failed, f"worker {failed[0]} ended with {self.started[failed[0]].returncode}:\n{said}"
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def shared(self, *addresses: str, tasks: int = 16) -> bool:
        """All tasks run, and each of these workers has some of them."""
        held = [self.tasks(address) for address in addresses]
        return all(held) and sum(map(len, held)) == tasks

    def settled(self, *addresses: str) -> list[Any]:
        """What each has once nothing has moved for a while: a round may follow the one that shared the tasks."""
        held, since = [self.tasks(address) for address in addresses], time.monotonic()

        def still() -> bool:
            nonlocal held, since
            now = [self.tasks(address) for address in addresses]
            if [each.keys() for each in now] != [each.keys() for each in held] or sum(map(len, now)) < 16:
                held, since = now, time.monotonic()
            return time.monotonic() - since > 4.0

        self.until(still)
        return held

    def two(self, **environment: str) -> tuple[str, str]:
        """Two workers that have divided the tasks; their addresses."""
        numbers = self.start(**environment), self.start(**environment)
        self.until(lambda: all(self.addresses(number) for number in numbers))
        first, second = (self.addresses(number)[0] for number in numbers)
        self.until(lambda: self.shared(first, second))
        return first, second


@pytest.fixture
def desk(kafka: KafkaBroker, unique: Callable[[str], str], tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path, unique("shop"), kafka)
    yield desk
    desk.close()


# ── places ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_workers_in_one_folder_share_the_tasks_and_no_store(desk: Desk) -> None:
    first, second = desk.two()
    assert not desk.tasks(first).keys() & desk.tasks(second).keys()
    root = desk.folder / ".streams" / "state" / desk.name
    places = {place.name: {store.name for store in place.iterdir() if store.is_dir()} for place in root.iterdir()}
    assert places.keys() == {"0", "1"}
    for address in (first, second):
        stateful = {task for task in desk.tasks(address) if ".by-" in task}
        assert any(stateful <= held for held in places.values()), places


def test_a_killed_worker_comes_back_to_its_stores_and_its_tasks(desk: Desk) -> None:
    desk.send("adds", *NAMES)
    first, second = desk.two(**desk.patient)
    desk.until(lambda: all(desk.get(first, f"/tables/sums/{name}") == (200, 1) for name in NAMES))
    before = desk.tasks(second)
    desk.started[1].kill()
    desk.started[1].wait()
    again = desk.start(**desk.patient)
    desk.until(lambda: bool(desk.addresses(again)))
    [address] = desk.addresses(again)
    desk.until(lambda: desk.shared(first, address))
    stateful = {task for task in before if ".by-" in task}
    assert stateful <= desk.tasks(address).keys(), "who has the stores gets the tasks"
    assert {place.name for place in (desk.folder / ".streams" / "state" / desk.name).iterdir()} == {"0", "1"}
    desk.until(lambda: all(desk.get(address, f"/tables/sums/{name}") == (200, 1) for name in NAMES))


def test_a_named_worker_that_was_killed_is_back_at_its_tasks_before_anybody_else_has_them(desk: Desk) -> None:
    patient = desk.patient
    red, blue = desk.start("--name", "red", **patient), desk.start("--name", "blue", **patient)
    desk.until(lambda: all(desk.addresses(number) for number in (red, blue)))
    [first], [second] = desk.addresses(red), desk.addresses(blue)
    desk.until(lambda: desk.shared(first, second))
    before = desk.settled(first, second)
    twice = desk.run("worker", "-A", "shop", "--name", "blue")
    assert twice.returncode == 2
    assert "another worker named 'blue' runs on this machine" in twice.stderr
    desk.started[blue].kill()
    desk.started[blue].wait()
    again = desk.start("--name", "blue", **patient)
    desk.until(lambda: bool(desk.addresses(again)))
    desk.until(lambda: desk.tasks(desk.addresses(again)[0]).keys() == before[1].keys())
    assert desk.tasks(first) == before[0], "nothing moved meanwhile"


# ── reads ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def two_of_each(desk: Desk, address: str) -> bool:
    return all(desk.get(address, f"/tables/sums/{name}") == (200, 2) for name in NAMES)


def test_any_worker_answers_for_any_key_and_any_row(desk: Desk) -> None:
    first, second = desk.two()
    desk.send("adds", *NAMES, *NAMES)
    for address in (first, second):
        desk.until(partial(two_of_each, desk, address))
        assert desk.get(address, "/tables/sums/nobody")[0] == 404
        page = desk.get(address, "/tables/sums?limit=10")[1]
        assert [row["key"] for row in page["rows"]] == sorted(NAMES)[:10]
        rest = desk.get(address, f"/tables/sums?limit=10&after={page['after']}")[1]
        assert [row["key"] for row in page["rows"] + rest["rows"]] == sorted(NAMES)
        assert rest["after"] is None


def test_a_key_whose_worker_has_died_is_one_clear_line_until_another_one_has_it(desk: Desk) -> None:
    first, second = desk.two(**desk.patient)
    desk.send("adds", *NAMES)
    desk.until(lambda: all(desk.get(first, f"/tables/sums/{name}")[0] == 200 for name in NAMES))
    desk.started[1].kill()
    desk.started[1].wait()
    answers = [desk.get(first, f"/tables/sums/{name}") for name in NAMES]
    missing = [body for status, body in answers if status == 503]
    assert missing, "the survivor can't know yet"
    assert all("doesn't run here now" in body["message"] and second[7:] in body["message"] for body in missing)
    desk.until(lambda: all(desk.get(first, f"/tables/sums/{name}") == (200, 1) for name in NAMES))


def test_a_worker_that_stood_still_answers_with_what_the_next_owner_has_committed(desk: Desk) -> None:
    first, second = desk.two()
    desk.send("adds", *NAMES)
    desk.until(lambda: all(desk.get(second, f"/tables/sums/{name}") == (200, 1) for name in NAMES))
    desk.started[1].send_signal(signal.SIGSTOP)
    desk.until(lambda: desk.shared(first))
    desk.send("adds", *NAMES)
    desk.until(lambda: all(desk.get(first, f"/tables/sums/{name}") == (200, 2) for name in NAMES))
    desk.started[1].send_signal(signal.SIGCONT)
    desk.until(lambda: "this worker is out" in desk.says(1))
    desk.until(lambda: all(desk.get(second, f"/tables/sums/{name}") == (200, 2) for name in NAMES))
    desk.until(lambda: desk.shared(first, second))
    assert desk.started[1].poll() is None, "it goes on with what it is given"


def test_workers_with_another_token_are_refused_with_the_name_of_the_setting(desk: Desk) -> None:
    desk.start(STREAMS_CLUSTER_TOKEN="one")
    desk.start(STREAMS_CLUSTER_TOKEN="another")
    desk.until(lambda: all(desk.addresses(number) for number in (0, 1)))
    first, second = desk.addresses(0)[0], desk.addresses(1)[0]
    desk.until(lambda: desk.shared(first, second))
    answers = [desk.get(address, f"/tables/sums/{name}") for name in NAMES for address in (first, second)]
    refused = [body for status, body in answers if status == 400]
    assert refused
    assert "the same $STREAMS_CLUSTER_TOKEN" in refused[0]["message"]
    assert {status for status, _ in answers} == {400, 404}, "what is its own it answers"


# ── replies ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_ask_is_answered_whichever_workers_ask_and_answer(desk: Desk) -> None:
    desk.two()
    desk.send("orders", *NAMES)
    desk.until(lambda: len(desk.answers()) == len(NAMES))
    answers = desk.answers()
    assert {(each["who"], each["sum"], each["read"]) for each in answers} == {(name, 1, 1) for name in NAMES}
    between = [each for each in answers if each["asker"] != each["pid"]]
    assert between, "some were answered by the other worker"


def test_a_request_that_is_made_again_elsewhere_is_answered_from_memory_and_counts_once(desk: Desk) -> None:
    desk.two()
    (desk.folder / "hold").touch()
    desk.send("orders", NAMES[0])
    desk.until(lambda: any(desk.folder.glob("holds-*")))
    [held] = desk.folder.glob("holds-*")
    holder = int(held.name.partition("-")[2])
    (desk.folder / "hold").unlink()
    os.kill(holder, signal.SIGKILL)  # answered, and not committed
    desk.until(lambda: len(desk.answers()) == 1)
    [answer] = desk.answers()
    assert answer["asker"] != holder
    assert (answer["sum"], answer["read"]) == (1, 1), "done once, although it was asked twice"


# ── one parent ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_processes_share_the_work_until_all_of_it_is_done(desk: Desk) -> None:
    desk.send("orders", *NAMES)
    number = desk.start("--processes", "3", "--until-idle")
    assert desk.started[number].wait(TIMEOUT_S) == 0, desk.says(number)
    assert len(desk.addresses(number)) == 3
    assert {each["who"] for each in desk.answers()} == set(NAMES)
    assert {row["lag"] for row in desk.said("lag", "-A", "shop", "--json")} == {0}


def test_a_killed_process_is_started_again_and_a_signal_stops_all(desk: Desk) -> None:
    number = desk.start("--processes", "2")
    desk.until(lambda: len(desk.addresses(number)) == 2)
    desk.until(lambda: desk.shared(*desk.addresses(number)))
    children = Path(f"/proc/{desk.started[number].pid}/task/{desk.started[number].pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    desk.until(lambda: len(desk.addresses(number)) == 3)
    assert "was killed by SIGKILL; starting it again" in desk.says(number)
    desk.until(lambda: desk.shared(*[each for each in desk.addresses(number) if desk.get(each, "/health")[0]]))
    desk.started[number].terminate()
    assert desk.started[number].wait(TIMEOUT_S) == 0, desk.says(number)


# ── tools ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_tools_find_the_workers_by_the_log(desk: Desk) -> None:
    desk.two()
    desk.send("adds", *NAMES)
    assert "sent 1 record" in desk.run("send", f"{desk.name}-adds", '{"who": "late"}', "-A", "shop").stdout
    desk.until(lambda: desk.run("tables", "-A", "shop", "sums", "late").stdout == "1\n")
    rows = desk.said("tables", "-A", "shop", "sums", "--json")
    assert [row["key"] for row in rows] == sorted([*NAMES, "late"])
    asked = desk.run("agents", "ask", "add", '{"who": "late", "n": 5}', "-A", "shop", "--timeout", "50s")
    assert asked.returncode == 0, asked
    assert json.loads(asked.stdout)["sum"] == 6
    kinds = {row["topic"]: row["kind"] for row in desk.said("topics", "--all", "--json")}
    assert kinds[f"{desk.name}-adds"] == "user"
    assert kinds[f"{desk.name}.replies"] == "replies"
    assert kinds[f"{desk.name}.sums.changelog"] == "changelog"
    refused = desk.run("send", f"{desk.name}.add.inbox", "x")
    assert refused.returncode == 2
    assert "internal topic (repartition)" in refused.stderr


def test_a_reset_waits_for_the_last_worker_to_be_gone_and_then_starts_over(desk: Desk) -> None:
    desk.send("adds", *NAMES)
    desk.two()
    refused = desk.run("reset", "-A", "shop", "-y")
    assert refused.returncode == 2
    assert f"2 workers of app {desk.name}" in refused.stderr
    for process in desk.started:
        process.terminate()
    assert [process.wait(TIMEOUT_S) for process in desk.started] == [0, 0]
    rows = desk.said("tables", "-A", "shop", "sums", "--json")
    assert {row["value"] for row in rows} == {1}, "as the last commit left it, without a worker"
    assert desk.run("reset", "-A", "shop", "-y").returncode == 0
    assert not (desk.folder / ".streams" / "state" / desk.name).exists()
    assert "hasn't run" in desk.run("tables", "-A", "shop", "sums").stderr
    assert desk.run("worker", "-A", "shop", "--until-idle").returncode == 0
    rows = desk.said("tables", "-A", "shop", "sums", "--json")
    assert {row["value"] for row in rows} == {1}, "counted again from the first record, not on top"


def test_without_a_worker_nobody_is_asked_and_a_wrong_port_is_one_line(desk: Desk, unused_port: int) -> None:
    asked = desk.run("agents", "ask", "add", '{"who": "x"}', "-A", "shop")
    assert asked.returncode == 2
    assert "no worker runs app" in asked.stderr
    for verb in (["topics"], ["worker", "-A", "shop"], ["lag", "-A", "shop"]):
        ran = desk.run(*verb, "--log", f"kafka://127.0.0.1:{unused_port}")
        assert ran.returncode == 1
        [line] = [line for line in ran.stderr.splitlines() if "error: " in line]
        assert f"127.0.0.1:{unused_port} refuses connections" in line


@pytest.fixture
def unused_port() -> int:
    from tests.brokers.ports import free_port

    return free_port()
