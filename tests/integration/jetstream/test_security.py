"""Who is let in, on a real nats-server: encryption, logins of every kind, accounts, permissions."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nkeys
import pytest

from streams.connectors.jetstream import client
from streams.connectors.jetstream.log import JetStreamLog
from streams.core.log import TopicSpec
from streams.errors import ConfigurationError, LogUnavailable
from tests.brokers.kafka.certificates import Authority
from tests.brokers.nats.operator import Key, Operator
from tests.brokers.nats.server import NatsServer

ROOT = Path(__file__).resolve().parents[3]
WORDCOUNT = ROOT / "examples" / "wordcount.py"
PATIENCE_S = 120
Start = Callable[..., NatsServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server with a configuration."""
    servers: list[NatsServer] = []

    def start_it(config: str) -> NatsServer:
        file = tmp_path / f"server-{len(servers)}.conf"
        file.write_text(config)
        servers.append(NatsServer(tmp_path / f"server-{len(servers)}", "-c", str(file)))
        servers[-1].start()
        return servers[-1]

    yield start_it
    for each in servers:
        each.kill()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("STREAMS_")]:
        monkeypatch.delenv(name)


def use(url: str) -> set[str]:
    """Open a log, have it make a topic, and see which topics there are."""

    async def run() -> set[str]:
        log = JetStreamLog(url)
        await log.open()
        try:
            await log.create_topics([TopicSpec("orders")])
            return set(await log.topics())
        finally:
            await log.close()

    return asyncio.run(run())


def refused(url: str) -> str:
    """Why a log can't be opened: one line, as of a setting that is wrong."""
    with pytest.raises(ConfigurationError) as found:
        use(url)
    assert "\n" not in str(found.value)
    return str(found.value)


def ran(folder: Path, *words: str, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    around = {name: value for name, value in os.environ.items() if not name.startswith("STREAMS_")}
    return subprocess.run(
        [sys.executable, "-m", "streams", *words],
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**around, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        check=False,
    )


# ── encryption ──────────────────────────────────────────────────────────────────────────────────────────────────────


def tls(authority: Authority, name: str, *more: str, names: str = "DNS:localhost,IP:127.0.0.1") -> str:
    certificate, key = authority.sign(name, names=names)
    lines = [f'cert_file: "{certificate}"', f'key_file: "{key}"', *more]
    return "tls {\n" + "\n".join(lines) + "\n}\n"


def test_encrypted_with_an_authority_of_its_own(start: Start, authority: Authority, tmp_path: Path) -> None:
    server = start(tls(authority, "plain"))
    assert use(f"{server.url}?ca_file={authority.certificate}") == {"orders"}
    assert use(f"nats://localhost:{server.port}?tls=yes&ca_file={authority.certificate}") == {"orders"}
    stranger = Authority(tmp_path / "stranger")
    for url in (server.url, f"{server.url}?tls=yes", f"{server.url}?ca_file={stranger.certificate}"):
        assert "its certificate isn't trusted" in refused(url)


def test_a_certificate_of_another_host_is_refused(start: Start, authority: Authority) -> None:
    server = start(tls(authority, "elsewhere", names="DNS:elsewhere.example"))
    assert "its certificate is another host's" in refused(f"{server.url}?ca_file={authority.certificate}")


def test_nothing_is_sent_in_the_clear_where_encryption_was_asked_for(start: Start, authority: Authority) -> None:
    server = start("authorization { user: shop, password: hidden }")
    url = f"nats://shop:hidden@127.0.0.1:{server.port}?ca_file={authority.certificate}"
    assert "the server offers no encryption, and nothing was sent" in refused(url)


def test_a_server_that_leaves_it_to_us_is_spoken_to_encrypted(start: Start, authority: Authority) -> None:
    server = start(tls(authority, "either") + "allow_non_tls: true\n")
    assert use(server.url) == {"orders"}
    assert "its certificate isn't trusted" in refused(f"{server.url}?tls=yes")
    assert use(f"{server.url}?ca_file={authority.certificate}") == {"orders"}


def test_a_handshake_before_anything_else(start: Start, authority: Authority) -> None:
    server = start(tls(authority, "first", "handshake_first: true"))
    assert use(f"{server.url}?tls=first&ca_file={authority.certificate}") == {"orders"}


def test_a_client_certificate_is_who_we_are(start: Start, authority: Authority, tmp_path: Path) -> None:
    ask = (f'ca_file: "{authority.certificate}"', "verify_and_map: true")
    server = start(tls(authority, "mutual", *ask) + 'authorization { users: [ { user: "CN=shop" } ] }\n')
    certificate, key = authority.sign("shop", names="DNS:shop.example")
    url = f"{server.url}?ca_file={authority.certificate}"
    assert use(f"{url}&cert_file={certificate}&key_file={key}") == {"orders"}
    assert "wants a certificate" in refused(url)
    certificate, key = authority.sign("stranger", names="DNS:stranger.example")
    assert "refused the login" in refused(f"{url}&cert_file={certificate}&key_file={key}")
    other = Authority(tmp_path / "other")
    certificate, key = other.sign("shop", names="DNS:shop.example")
    assert "refuses our certificate" in refused(f"{url}&cert_file={certificate}&key_file={key}")


def test_a_key_with_a_password_is_opened_and_nobody_is_asked(
    start: Start, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(tls(authority, "locked-server", f'ca_file: "{authority.certificate}"', "verify: true"))
    certificate, key = authority.sign("locked")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "rsa", "-aes256", "-in", str(key), "-out", str(locked), "-passout", "pass:s3cr3t"],
        check=True,
        capture_output=True,
    )
    url = f"{server.url}?ca_file={authority.certificate}&cert_file={certificate}&key_file={locked}"
    assert "key_password_file" in refused(url)
    monkeypatch.setenv("STREAMS_NATS_KEY_PASSWORD", "s3cr3t")
    assert use(url) == {"orders"}


def test_an_encrypted_connection_is_made_anew_with_the_certificate_that_lies_there_then(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    server = start(tls(authority, "renewing", f'ca_file: "{authority.certificate}"', "verify: true"))
    ours = tmp_path / "ours.pem"

    def renew(name: str) -> None:
        certificate, key = authority.sign(name, names=f"DNS:{name}.example")
        ours.write_bytes(certificate.read_bytes() + key.read_bytes())

    async def run() -> None:
        renew("old")
        url = f"{server.url}?ca_file={authority.certificate}&cert_file={ours}&ping_interval_ms=200"
        log = JetStreamLog(url)
        await log.open()
        held = log._connection
        try:
            async with asyncio.timeout(PATIENCE_S):
                ours.write_text("")  # for a moment, as whoever writes it anew may leave it
                server.pause()
                while held.connected:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                server.resume()
                renew("new")
                while not held.reconnects:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert await log.topics() == {}
        finally:
            server.resume()
            await log.close()

    asyncio.run(run())


def test_what_is_no_nats_server_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(LogUnavailable, match="it doesn't answer; is the server running, and is that its address"):
            use(f"nats://127.0.0.1:{silent.getsockname()[1]}?request_timeout_ms=500")


# ── logins ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_user_and_password_from_url_environment_and_file(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start('authorization { user: shop, password: "s3:cr@t" }')
    at = f"127.0.0.1:{server.port}"
    assert use(f"nats://shop:s3%3Acr%40t@{at}") == {"orders"}
    secret = tmp_path / "password"
    secret.write_text("s3:cr@t\n")
    assert use(f"nats://shop@{at}?password_file={secret}") == {"orders"}
    for url in (f"nats://shop:wr0ng@{at}", f"nats://nobody:s3%3Acr%40t@{at}", f"nats://{at}", f"nats://wr0ng@{at}"):
        said = refused(url)
        assert "the server refused the login" in said
        assert "wr0ng" not in said
    monkeypatch.setenv("STREAMS_NATS_PASSWORD", "s3:cr@t")
    assert use(f"nats://shop@{at}") == {"orders"}


def test_a_token_from_environment_and_file(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start('authorization { token: "t0ken" }')
    assert "the server refused the login" in refused(server.url)
    secret = tmp_path / "token"
    secret.write_text("t0ken\n")
    assert use(f"{server.url}?token_file={secret}") == {"orders"}
    monkeypatch.setenv("STREAMS_NATS_TOKEN", "t0ken")
    assert use(server.url) == {"orders"}


def test_an_nkey(start: Start, tmp_path: Path) -> None:
    ours, other = Key(nkeys.PREFIX_BYTE_USER), Key(nkeys.PREFIX_BYTE_USER)
    server = start(f"authorization {{ users: [ {{ nkey: {ours.public} }} ] }}")
    for key, name in ((ours, "ours"), (other, "other")):
        (tmp_path / name).write_bytes(key.seed + b"\n")
    assert use(f"{server.url}?nkey_file={tmp_path / 'ours'}") == {"orders"}
    said = refused(f"{server.url}?nkey_file={tmp_path / 'other'}")
    assert "the server refused the login" in said
    assert other.seed.decode() not in said


def test_credentials_of_an_account_under_an_operator(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, stranger = Operator(), Operator()
    operator.account("shop", jetstream=True)
    operator.account("poor", jetstream=False)
    stranger.account("shop", jetstream=True)
    server = start(operator.config())
    ours = operator.user("shop", tmp_path / "ours.creds")
    assert use(f"{server.url}?creds_file={ours}") == {"orders"}
    assert "the server refused the login" in refused(
        f"{server.url}?creds_file={stranger.user('shop', tmp_path / 'stranger.creds')}"
    )
    expired = operator.user("shop", tmp_path / "expired.creds", ends_s=time.time() - 3600)
    assert re.search(r"expired\.creds has expired on \d{4}-", refused(f"{server.url}?creds_file={expired}"))
    poor = operator.user("poor", tmp_path / "poor.creds")
    assert "JetStream not enabled for account" in refused(f"{server.url}?creds_file={poor}")
    monkeypatch.setenv("STREAMS_NATS_CREDS", ours.read_text())
    assert use(server.url) == {"orders"}


def test_credentials_that_expire_at_work_are_renewed_from_their_file_or_end_the_work(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = Operator()
    operator.account("shop", jetstream=True)
    server = start(operator.config())
    file = tmp_path / "shop.creds"

    monkeypatch.setattr(client, "REFUSED_S", 0.5)

    async def run() -> str:
        operator.user("shop", file, ends_s=time.time() + 6)
        log = JetStreamLog(f"{server.url}?creds_file={file}")
        await log.open()
        try:
            operator.user("shop", file)
            async with asyncio.timeout(PATIENCE_S):
                while not log._connection.reconnects:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                await log.topics()
                operator.user("shop", file, ends_s=time.time() - 60)
                await log._connection._client.force_reconnect()
                while True:
                    try:
                        await log.topics()
                    except LogUnavailable:
                        await asyncio.sleep(0.05)
                    except ConfigurationError as error:
                        return str(error)
        finally:
            await log.close()

    assert re.search(r"can't connect again: creds_file=.*shop\.creds has expired on", asyncio.run(run()))


# ── accounts and permissions ────────────────────────────────────────────────────────────────────────────────────────


def test_an_app_in_an_account_is_not_seen_from_another(start: Start) -> None:
    server = start(
        "accounts {\n"
        "  A { jetstream: enabled, users: [ {user: a, password: a} ] }\n"
        "  B { jetstream: enabled, users: [ {user: b, password: b} ] }\n"
        "  C { users: [ {user: c, password: c} ] }\n}\n"
    )
    at = f"127.0.0.1:{server.port}"

    async def topics(user: str) -> tuple[str, set[str]]:
        log = JetStreamLog(f"nats://{user}:{user}@{at}")
        await log.open()
        try:
            return log.identity, set(await log.topics())
        finally:
            await log.close()

    assert use(f"nats://a:a@{at}") == {"orders"}
    (ours, _), (theirs, seen) = asyncio.run(topics("a")), asyncio.run(topics("b"))
    assert seen == set()
    assert ours != theirs
    assert "JetStream not enabled for account" in refused(f"nats://c:c@{at}")


def documented(app: str, topics: list[str]) -> str:
    """The permissions that docs/nats.md says are enough."""
    text = (ROOT / "docs" / "nats.md").read_text()
    [block] = re.findall(r"```hocon\n(permissions.*?)```", text, re.DOTALL)
    found: str = block.replace("shop", app)
    return found.replace('"orders.*"', ", ".join(f'"{topic}.*"' for topic in topics))


def test_the_permissions_that_the_documentation_lists_are_enough(start: Start, tmp_path: Path) -> None:
    permissions = documented("wordcount", ["lines"])
    server = start(f"authorization {{ users: [ {{user: w, password: s3cr3t, {permissions} }} ] }}")
    url = f"nats://w@127.0.0.1:{server.port}"
    secret = {"STREAMS_NATS_PASSWORD": "s3cr3t"}
    sent = ran(tmp_path, "send", "lines", "-A", str(WORDCOUNT), "--log", url, given="one two one\n", **secret)
    assert sent.returncode == 0, sent.stderr
    worked = ran(tmp_path, "worker", "-A", str(WORDCOUNT), "--log", url, "--until-idle", **secret)
    assert worked.returncode == 0, worked.stderr
    assert "s3cr3t" not in sent.stderr + worked.stdout + worked.stderr
    assert [line for line in server.said().splitlines() if "Violation" in line and "$SYS" not in line] == []


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("$JS.API.STREAM.INFO.*", "publish to $JS.API.STREAM.INFO.S-=group"),
        ("$JS.API.CONSUMER.CREATE.>", "publish to $JS.API.CONSUMER.CREATE."),
        ("$JS.API.CONSUMER.MSG.NEXT.>", "publish to $JS.API.CONSUMER.MSG.NEXT."),
        ("S.shop.>", "publish to S.wordcount."),
        ("_INBOX.>", "subscribe to _INBOX."),
        ("S.=news.shop", "S.=news.wordcount"),
    ],
)
def test_a_permission_that_is_missing_is_named_and_ends_the_worker(
    start: Start, tmp_path: Path, missing: str, named: str
) -> None:
    text = documented("wordcount", ["lines"])
    missing = missing.replace("shop", "wordcount")
    assert f'"{missing}"' in text
    narrow = text.replace(f'"{missing}"', '"nothing"')
    server = start(
        "authorization { users: [\n"
        f"  {{user: all, password: p}}\n  {{user: narrow, password: s3cr3t, {narrow} }}\n] }}"
    )
    at = f"127.0.0.1:{server.port}"
    sent = ran(tmp_path, "send", "lines", "-A", str(WORDCOUNT), "--log", f"nats://all:p@{at}", given="one\n")
    assert sent.returncode == 0, sent.stderr
    url, secret = f"nats://narrow@{at}", {"STREAMS_NATS_PASSWORD": "s3cr3t"}
    worked = ran(tmp_path, "worker", "-A", str(WORDCOUNT), "--log", url, "--until-idle", **secret)
    assert worked.returncode == 2, worked.stderr
    assert named in worked.stderr.splitlines()[-1]
    assert "have to allow" in worked.stderr.splitlines()[-1]
    assert "Traceback" not in worked.stderr
    assert "s3cr3t" not in worked.stderr


# ── what else is wrong ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for host, words in (("127.0.0.1:1", "refused|Connect call failed"), ("no-such-host.invalid", "can't connect")):
        worked = ran(
            tmp_path, "worker", "-A", str(WORDCOUNT), "--log", f"nats://shop:s3cr3t@{host}?request_timeout_ms=1500"
        )
        assert worked.returncode == 1
        [line] = [line for line in worked.stderr.splitlines() if line.startswith("streams: error: ")]
        assert re.search(words, line)
        assert "is the server running, and is that its address?" in line
        assert "s3cr3t" not in worked.stderr


def test_a_wrong_password_ends_a_worker_with_one_line_and_nothing_shows_it(start: Start, tmp_path: Path) -> None:
    server = start("authorization { user: shop, password: right }")
    url = f"nats://shop:s3cr3t@127.0.0.1:{server.port}"
    for words in (("worker", "-A", str(WORDCOUNT)), ("explain", "-A", str(WORDCOUNT)), ("doctor",), ("topics",)):
        said = ran(tmp_path, *words, "--log", url)
        assert "s3cr3t" not in said.stdout + said.stderr
        if words[0] in ("worker", "topics"):
            assert said.returncode == 2, said.stderr
            assert said.stderr.count("the server refused the login") == 1
    traced = ran(tmp_path, "worker", "-A", str(WORDCOUNT), "--log", url, STREAMS_TRACEBACK="1")
    assert "s3cr3t" not in traced.stderr
