"""Agents that clients of NATS ask, on a real server: by nats-py and by bare text on a socket, through restarts of the
server and the end of a worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import nats as nats_py
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from tests.brokers.nats.server import NatsServer

T = TypeVar("T")
APP = Path(__file__).with_name("bank_app.py")
PATIENCE_S = 90.0


class Bank:
    """One life of a worker of bank_app.py."""

    def __init__(self, nats: str, folder: Path, *, log: str = "", **env: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._said = folder / "said.log"
        with self._said.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streams", "worker", "-A", str(APP), "--log", log or f"embedded:{folder}/log"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NATS": nats, **env},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    @property
    def said(self) -> str:
        return self._said.read_text("utf-8", "replace")

    def listens(self) -> None:
        """Wait until it says so of all of its endpoints."""
        deadline = time.monotonic() + PATIENCE_S
        while self.said.count(" answers on ") < 4:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0, self.said


@contextmanager
def bank(nats: str, folder: Path, *, listens: bool = True, log: str = "", **env: str) -> Iterator[Bank]:
    made = Bank(nats, folder, log=log, **env)
    try:
        if listens:
            made.listens()
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server without JetStream, where an app on an embedded log is asked."""
    server = NatsServer(tmp_path_factory.mktemp("plain"), jetstream=False)
    server.start()
    with bank(server.url, tmp_path_factory.mktemp("bank")):
        yield server
    server.kill()


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Client]:
    connection = await nats_py.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def with_client(server: NatsServer, work: Callable[[Client], Awaitable[T]]) -> T:
    async def main() -> T:
        async with asyncio.timeout(PATIENCE_S), client(server.url) as connection:
            return await work(connection)

    return asyncio.run(main())


async def ask(connection: Client, subject: str, value: Any, **headers: str) -> Msg:
    payload = value if isinstance(value, bytes) else json.dumps(value).encode()
    return await connection.request(
        subject, payload, timeout=PATIENCE_S, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )


def transfer(account: str, amount: int) -> dict[str, Any]:
    return {"account": account, "amount": amount}


def error_of(message: Msg) -> tuple[str, str]:
    assert message.data == b""
    assert message.headers is not None
    return message.headers["Nats-Service-Error-Code"], message.headers["Nats-Service-Error"]


# ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_client_asks_and_is_answered_and_its_id_makes_asking_again_safe(served: NatsServer) -> None:
    async def work(connection: Client) -> None:
        assert (await ask(connection, "bank.settle", transfer("ann", 5))).data == b"5"
        answers = [
            (await ask(connection, "bank.settle", transfer("ann", 7), Nats_Msg_Id="ann-1")).data for _ in range(3)
        ]
        assert answers == [b"12"] * 3
        both = [ask(connection, "bank.settle", transfer("ann", 1), Nats_Msg_Id="ann-2") for _ in range(2)]
        assert [each.data for each in await asyncio.gather(*both)] == [b"13", b"13"]
        assert (await ask(connection, "bank.settle", transfer("ann", 0))).data == b"13"

    with_client(served, work)


def test_many_requests_are_under_way_at_once(served: NatsServer) -> None:
    async def work(connection: Client) -> None:
        answers = await asyncio.gather(*(ask(connection, "bank.settle", transfer("many", 1)) for _ in range(300)))
        assert sorted(int(each.data) for each in answers) == list(range(1, 301))

    with_client(served, work)


def test_a_message_without_a_reply_subject_is_a_cast(served: NatsServer) -> None:
    async def work(connection: Client) -> None:
        for _ in range(3):
            await connection.publish(
                "bank.settle", json.dumps(transfer("bob", 4)).encode(), headers={"Nats-Msg-Id": "bob-1"}
            )
        await connection.publish("bank.settle", json.dumps(transfer("bob", 1)).encode())
        await connection.flush()
        while (await ask(connection, "bank.settle", transfer("bob", 0))).data != b"5":
            pass

    with_client(served, work)


def test_a_key_comes_in_the_subject_or_in_a_header(served: NatsServer) -> None:
    async def work(connection: Client) -> None:
        assert (await ask(connection, "bank.note.k1", b"a")).data == b'{"noted":"a"}'
        assert (await ask(connection, "bank.note", b"b", Streams_Key="k1")).data == b'{"noted":"b"}'
        code, why = error_of(await ask(connection, "bank.note", b"c"))
        assert code == "400"
        assert "send the header Streams-Key" in why

    with_client(served, work)


def test_errors_are_told_at_once_in_the_headers_of_services(served: NatsServer) -> None:
    async def work(connection: Client) -> None:
        code, why = error_of(await ask(connection, "bank.settle", transfer("cid", 13)))
        assert code == "500"
        assert why.startswith("ValueError: no 13, bitte schön")
        code, why = error_of(await ask(connection, "bank.settle", {"account": "cid"}))
        assert code == "400"
        assert "missing required field `amount`" in why
        code, why = error_of(await ask(connection, "bank.hasty.slow", b"sleep 2"))
        assert code == "504"
        assert "no reply within 1000 ms" in why
        assert len((await ask(connection, "bank.note.big", b"bytes 1000000")).data) == 1_000_000
        code, why = error_of(await ask(connection, "bank.note.big", b"bytes 2000000"))
        assert code == "500"
        assert "max_payload" in why
        assert (await ask(connection, "bank.settle", transfer("cid", 0))).data == b"0", "nothing of it took effect"

    with_client(served, work)


def test_a_client_needs_no_more_than_text_on_a_socket(served: NatsServer) -> None:
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as connection:
        connection.settimeout(PATIENCE_S)
        lines = connection.makefile("rb")
        assert lines.readline().startswith(b"INFO ")
        connection.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n')
        connection.sendall(b"SUB here.* 1\r\n")
        value = b'{"account":"text","amount":3}'
        connection.sendall(b"PUB bank.settle here.1 %d\r\n%b\r\n" % (len(value), value))
        assert message(lines) == (b"here.1", b"", b"3")
        head = b"NATS/1.0\r\nNats-Msg-Id: text-1\r\n\r\n"
        for _ in range(2):
            sizes = (len(head), len(head) + len(value))
            connection.sendall(b"HPUB bank.settle here.2 %d %d\r\n%b%b\r\n" % (*sizes, head, value))
            assert message(lines) == (b"here.2", b"", b"6")
        connection.sendall(b"PUB bank.settle here.3 2\r\n{}\r\n")
        subject, head, body = message(lines)
        assert (subject, body) == (b"here.3", b"")
        assert b"\r\nNats-Service-Error-Code: 400\r\n" in head


def message(lines: Any) -> tuple[bytes, bytes, bytes]:
    """Subject, headers and payload of the next message."""
    while True:
        words = lines.readline().split()
        assert words, "the server has hung up"
        if words[0] == b"MSG":
            return words[1], b"", lines.read(int(words[-1]) + 2)[:-2]
        if words[0] == b"HMSG":
            head, whole = int(words[-2]), lines.read(int(words[-1]) + 2)[:-2]
            return words[1], whole[:head], whole[head:]


def test_the_service_is_found_by_the_tools_of_nats(served: NatsServer) -> None:
    async def work(connection: Client) -> None:
        before = await asked(connection)
        assert (await ask(connection, "bank.settle", transfer("dan", 1))).data == b"1"
        assert error_of(await ask(connection, "bank.settle", b"{"))[0] == "400"
        for name in ("", ".bank"):
            found = ServicePing.from_dict(json.loads((await ask(connection, f"$SRV.PING{name}", b"")).data))
            assert (found.name, found.version) == ("bank", "1.0.0")
        info = ServiceInfo.from_dict(json.loads((await ask(connection, f"$SRV.INFO.bank.{found.id}", b"")).data))
        assert {(each.subject, each.queue_group) for each in info.endpoints} == {
            ("bank.settle", "bank.settle"),
            ("bank.note", "bank.note"),
            ("bank.note.*", "bank.note"),
            ("bank.hasty.*", "bank.note"),
        }
        stats = ServiceStats.from_dict(json.loads((await ask(connection, "$SRV.STATS.bank", b"")).data))
        settle = next(each for each in stats.endpoints if each.subject == "bank.settle")
        assert settle.num_requests == before + 2
        assert settle.num_errors >= 1
        assert (settle.last_error or "").startswith("400:")
        assert settle.average_processing_time > 0

    with_client(served, work)


async def asked(connection: Client, *, workers: int = 1) -> int:
    """How many requests to settle have come to so many workers."""
    replies = connection.new_inbox()
    answers = await connection.subscribe(replies)
    await connection.publish("$SRV.STATS.bank", reply=replies)
    counts = []
    for _ in range(workers):
        stats = json.loads((await answers.next_msg(timeout=PATIENCE_S)).data)
        counts += [each["num_requests"] for each in stats["endpoints"] if each["subject"] == "bank.settle"]
    await answers.unsubscribe()
    return sum(counts)


# ── workers and servers that come and go ────────────────────────────────────────────────────────────────────────────


def test_two_workers_on_a_shared_log_handle_each_request_once(nats_own: NatsServer, tmp_path: Path) -> None:
    async def work(connection: Client) -> None:
        async def one(number: int) -> int:
            return int((await ask(connection, "bank.settle", transfer(f"acc-{number % 5}", 1))).data)

        answers = await asyncio.gather(*(one(number) for number in range(100)))
        assert sorted(answers) == sorted([*range(1, 21)] * 5)
        assert await asked(connection, workers=2) == 100
        replies = connection.new_inbox()
        pings = await connection.subscribe(replies)
        await connection.publish("$SRV.PING.bank", reply=replies)
        ids = {json.loads((await pings.next_msg(timeout=PATIENCE_S)).data)["id"] for _ in range(2)}
        assert len(ids) == 2

    with (
        bank(nats_own.url, tmp_path / "one", log=nats_own.url),
        bank(nats_own.url, tmp_path / "two", log=nats_own.url),
    ):
        with_client(nats_own, work)


def test_an_endpoint_comes_back_by_itself_when_the_server_does(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "server", jetstream=False)
    server.start()
    try:
        with bank(server.url, tmp_path / "bank") as worker:

            async def first(connection: Client) -> None:
                assert (await ask(connection, "bank.settle", transfer("eve", 5), Nats_Msg_Id="eve-1")).data == b"5"

            with_client(server, first)
            for _ in range(2):
                server.kill()
                server.start()
                with_client(server, asks_until_there)
            assert worker.process.poll() is None
            assert "lost the connection" in worker.said
            worker.stop()
    finally:
        server.kill()


async def asks_until_there(connection: Client) -> None:
    while True:
        try:
            answer = await ask(connection, "bank.settle", transfer("eve", 5), Nats_Msg_Id="eve-1")
            break
        except NoRespondersError:
            await asyncio.sleep(0.02)
    assert answer.data == b"5"


def test_a_server_that_is_not_there_yet_keeps_nobody_from_working(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "server", jetstream=False)
    with bank(f"{server.url}?request_timeout_ms=500", tmp_path / "bank", listens=False) as worker:
        deadline = time.monotonic() + PATIENCE_S
        while "agents can't be asked there until then" not in worker.said:
            assert worker.process.poll() is None, worker.said
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "app bank works on" in worker.said
        server.start()
        try:
            worker.listens()
            with_client(server, asks_until_there)
            worker.stop()
        finally:
            server.kill()


def test_a_worker_that_is_stopped_answers_what_had_come_and_nothing_is_done_twice(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "server", jetstream=False)
    server.start()
    folder = tmp_path / "bank"

    async def work(connection: Client) -> None:
        with bank(server.url, folder, COMMIT_INTERVAL="700ms") as worker:
            asking = [
                asyncio.ensure_future(ask(connection, "bank.settle", transfer("fay", 1), Nats_Msg_Id=f"fay-{number}"))
                for number in range(30)
            ]
            while await asked(connection) < 30:
                pass
            await asyncio.to_thread(worker.stop)
            told = await asyncio.gather(*asking)
        # On a machine that is slow enough some are told to ask again.
        assert all(each.data or error_of(each)[0] == "503" for each in told)
        with bank(server.url, folder):
            again = [
                await ask(connection, "bank.settle", transfer("fay", 1), Nats_Msg_Id=f"fay-{number}")
                for number in range(30)
            ]
        for before, after in zip(told, again, strict=True):
            assert before.data in (b"", after.data)
        assert sorted(int(each.data) for each in again) == list(range(1, 31))

    try:
        with_client(server, work)
    finally:
        server.kill()


# ── who we are ──────────────────────────────────────────────────────────────────────────────────────────────────────

USERS = """
authorization {
  users = [
    { user: bank, password: secret-1, permissions: { subscribe: ["bank.>"], allow_responses: true } }
    { user: teller, password: secret-2 }
    { user: nobody, password: secret-3, permissions: { subscribe: ["elsewhere"], allow_responses: true } }
  ]
}
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[NatsServer]:
    """A server that lets in three users."""
    settings = tmp_path / "server.conf"
    settings.write_text(USERS)
    server = NatsServer(tmp_path / "server", "-c", str(settings), jetstream=False)
    server.start()
    yield server
    server.kill()


def url_of(server: NatsServer, user: str, password: str) -> str:
    return f"nats://{user}:{password}@127.0.0.1:{server.port}"


def test_a_user_who_may_only_listen_and_answer_is_enough(guarded: NatsServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), client(url_of(guarded, "teller", "secret-2")) as connection:
            assert (await ask(connection, "bank.settle", transfer("gus", 5))).data == b"5"

    with bank(url_of(guarded, "bank", "secret-1"), tmp_path / "bank") as worker:
        asyncio.run(main())
        worker.stop()
        assert worker.said.count("this user may not subscribe") == 1
        assert "secret" not in worker.said


@pytest.mark.parametrize(
    ("user", "password", "words"),
    [
        ("bank", "secret-9", "the server refused the login"),
        ("nobody", "secret-3", "its permissions have to allow subscribe"),
    ],
)
def test_a_server_that_will_not_have_us_ends_the_worker_in_one_clear_line(
    user: str, password: str, words: str, guarded: NatsServer, tmp_path: Path
) -> None:
    with bank(url_of(guarded, user, password), tmp_path / "bank", listens=False) as worker:
        assert worker.process.wait(PATIENCE_S) != 0
        errors = [line for line in worker.said.splitlines() if "error:" in line]
        assert len(errors) == 1, worker.said
        assert words in errors[0]
        assert "Traceback" not in worker.said
        assert "secret" not in worker.said
