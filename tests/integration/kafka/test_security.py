"""Getting in to a broker that lets nobody in unasked, and one clear line each time that it doesn't."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
import uvloop
from aiokafka.protocol.metadata import MetadataRequest

from streams.connectors.kafka.config import KafkaConfig, parse_url
from streams.connectors.kafka.log import KafkaLog
from streams.connectors.kafka.security import connection_settings, explain_connection_error, open_connection
from streams.core.log import Commit, TopicSpec
from streams.core.membership import Member, TaskRef, Wanted
from streams.core.record import Position, TopicPartition
from streams.errors import ConfigurationError, LogUnavailable, StreamsError
from streams.testing.log_scenarios import append, values_of
from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.kafka.certificates import Authority
from tests.brokers.kafka.secured import USERS, Listener, Resource, SecuredKafka, token
from tests.brokers.ports import free_port

PASSWORD = USERS["alice"]
PATIENCE_MS = 2_000


def config_for(broker: SecuredKafka, listener: Listener = "SASL_SSL", query: str = "", **environ: str) -> KafkaConfig:
    """A configuration for a listener.  ``query``: settings, where ``{ca}`` and such stand for the broker's files."""
    security = {"SASL_PLAINTEXT": "sasl", "SASL_SSL": "sasl_tls", "SSL": "tls"}[listener]
    given = query.format(
        ca=broker.authority.certificate,
        stranger=broker.stranger.certificate,
        certificate=broker.client_certificate,
        key=broker.client_key,
    )
    url = f"kafka://{broker.address(listener)}?connect_timeout_ms={PATIENCE_MS}&{given}"
    return parse_url(url if "security=" in url else f"{url}&security={security}", environ)


async def brokers_of(config: KafkaConfig) -> int:
    """Connect, ask something, hang up: the number of brokers that the cluster has."""
    connection = await open_connection(config, *config.servers[0])
    try:
        response = await connection.send(MetadataRequest([]))
        return len(response.brokers)
    finally:
        await connection.close()


def refusal(config: KafkaConfig, kind: type[StreamsError] = ConfigurationError) -> str:
    """The line that is said when a connection can't be had, at the latest when the time for one is over."""

    async def attempt() -> None:
        # Far above PATIENCE_MS: what is waited for without end fails here.
        async with asyncio.timeout(60):
            await brokers_of(config)

    with pytest.raises(StreamsError) as caught:
        asyncio.run(attempt())
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert "\n" not in message
    assert not [word for word in (*USERS.values(), "hunter2") if word in message]
    host, port = config.servers[0]
    assert f"{host}:{port}" in message
    return message


# ── getting in ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("listener", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"])
def test_each_mechanism_gets_in_with_and_without_encryption(
    kafka_secured: SecuredKafka, listener: Listener, mechanism: str
) -> None:
    if mechanism == "OAUTHBEARER":
        who, environ = "", {"STREAMS_KAFKA_TOKEN": token("alice")}
    else:
        who, environ = "&user=alice", {"STREAMS_KAFKA_PASSWORD": PASSWORD}
    ca = "&ca_file={ca}" if listener == "SASL_SSL" else ""
    config = config_for(kafka_secured, listener, f"mechanism={mechanism}{who}{ca}", **environ)
    assert asyncio.run(brokers_of(config)) == 1


def test_a_client_certificate_gets_in(kafka_secured: SecuredKafka) -> None:
    config = config_for(kafka_secured, "SSL", "ca_file={ca}&cert_file={certificate}&key_file={key}")
    assert asyncio.run(brokers_of(config)) == 1


def test_an_encrypted_key_is_opened_by_its_password(kafka_secured: SecuredKafka, tmp_path: Path) -> None:
    locked = locked_key(kafka_secured, tmp_path)
    (tmp_path / "key-password").write_text("opensesame\n")
    query = f"ca_file={{ca}}&cert_file={{certificate}}&key_file={locked}&key_password_file={tmp_path}/key-password"
    assert asyncio.run(brokers_of(config_for(kafka_secured, "SSL", query))) == 1


def locked_key(broker: SecuredKafka, folder: Path) -> Path:
    locked = folder / "locked.key"
    command = ["openssl", "rsa", "-aes256", "-in", str(broker.client_key), "-out", str(locked)]
    subprocess.run([*command, "-passout", "pass:opensesame"], check=True, capture_output=True)
    return locked


def test_a_password_with_punctuation_gets_in_from_a_url_and_from_a_file(
    kafka_secured: SecuredKafka, tmp_path: Path
) -> None:
    password = USERS["bob"]
    host = kafka_secured.address("SASL_PLAINTEXT")
    query = f"security=sasl&mechanism=SCRAM-SHA-256&connect_timeout_ms={PATIENCE_MS}"
    (tmp_path / "password").write_text(password + "\n")
    (tmp_path / "bob.toml").write_text(f'user = "bob"\npassword = """{password}"""\n')
    (tmp_path / "bob.toml").chmod(0o600)
    urls = [
        f"kafka://bob:{quote(password, safe='')}@{host}?{query}",
        f"kafka://bob@{host}?{query}&password={quote(password, safe='')}",
        f"kafka://bob@{host}?{query}&password_file={tmp_path}/password",
        f"kafka://{host}?{query}&config={tmp_path}/bob.toml",
    ]
    for url in urls:
        assert asyncio.run(brokers_of(parse_url(url, {}))) == 1


def test_a_token_file_is_read_again_at_each_connection(kafka_secured: SecuredKafka, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(token("alice", lifetime_s=-60))
    config = config_for(kafka_secured, query=f"mechanism=OAUTHBEARER&ca_file={{ca}}&token_file={path}")
    assert "refuses the token" in refusal(config)
    path.write_text(token("alice") + "\n")
    assert asyncio.run(brokers_of(config)) == 1


def test_a_new_certificate_is_taken_up_without_a_new_configuration(kafka_secured: SecuredKafka, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(kafka_secured.stranger.certificate.read_bytes())
    config = config_for(kafka_secured, query=f"mechanism=PLAIN&user=alice&password={PASSWORD}&ca_file={path}")
    assert "ca_file" in refusal(config)
    path.write_bytes(kafka_secured.authority.certificate.read_bytes())
    os.utime(path, ns=(1, 1))  # the files are of one size and may be of one moment
    assert asyncio.run(brokers_of(config)) == 1


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Puts a user's function into a module; returns what ``token_provider`` is to be."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(body: str) -> str:
        name = f"provider_{abs(hash(body))}"
        (tmp_path / f"{name}.py").write_text(body)
        return f"{name}:get"

    return write


@pytest.mark.parametrize("how", ["def", "async def"])
def test_a_users_function_provides_tokens(
    kafka_secured: SecuredKafka, provider: Callable[[str], str], how: str
) -> None:
    path = provider(f"{how} get():\n    return {token('alice')!r}\n")
    config = config_for(kafka_secured, query=f"mechanism=OAUTHBEARER&ca_file={{ca}}&token_provider={path}")
    assert asyncio.run(brokers_of(config)) == 1


# ── not getting in ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_wrong_password_is_said_with_the_user_and_what_to_check(kafka_secured: SecuredKafka, mechanism: str) -> None:
    config = config_for(kafka_secured, "SASL_PLAINTEXT", f"mechanism={mechanism}&user=alice&password=hunter2")
    said = refusal(config)
    assert "refuses user 'alice'" in said
    assert f"check user, password and mechanism={mechanism}" in said


@pytest.mark.parametrize("bad", ["nonsense", token("alice", lifetime_s=-60)], ids=["nonsense", "too old"])
def test_a_refused_token_is_noticed(kafka_secured: SecuredKafka, bad: str) -> None:
    config = config_for(kafka_secured, query="mechanism=OAUTHBEARER&ca_file={ca}", STREAMS_KAFKA_TOKEN=bad)
    said = refusal(config)
    assert "refuses the token" in said
    assert bad not in said


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (
            "def get():\n    raise OSError('401 for hunter2 of idp')",
            LogUnavailable,
            "gave no token (OSError: 401 for *** of",
        ),
        ("def get():\n    return 7", ConfigurationError, "returned int where a token is wanted"),
        ("def get():\n    return ' '", ConfigurationError, "returned str where a token is wanted"),
    ],
)
def test_a_provider_without_a_token_is_named(
    kafka_secured: SecuredKafka, provider: Callable[[str], str], body: str, kind: type[StreamsError], said: str
) -> None:
    path = provider(body)
    query = "mechanism=OAUTHBEARER&ca_file={ca}&cert_file={certificate}&key_file={key}&key_password=hunter2"
    message = refusal(config_for(kafka_secured, query=f"{query}&token_provider={path}"), kind)
    assert said in message
    assert path in message


def test_a_mechanism_that_the_broker_does_not_have_is_said_with_those_that_it_has() -> None:
    broker = SecuredKafka({"sasl.enabled.mechanisms": "PLAIN"})
    with broker:
        config = config_for(broker, "SASL_PLAINTEXT", f"mechanism=SCRAM-SHA-256&user=alice&password={PASSWORD}")
        assert "doesn't have mechanism=SCRAM-SHA-256; it has PLAIN" in refusal(config)


LOGIN = f"mechanism=PLAIN&user=alice&password={PASSWORD}"


@pytest.mark.parametrize(
    ("listener", "query", "kind", "said"),
    [
        ("SASL_PLAINTEXT", "security=plaintext", LogUnavailable, "wants a login; then use security=sasl"),
        ("SASL_SSL", "security=tls&ca_file={ca}", LogUnavailable, "wants a login; then use security=sasl_tls"),
        ("SASL_SSL", "security=plaintext", ConfigurationError, "encrypts on this port; use security=tls"),
        ("SASL_SSL", f"security=sasl&{LOGIN}", ConfigurationError, "encrypts on this port; use security=sasl_tls"),
        ("SASL_PLAINTEXT", "security=tls&ca_file={ca}", ConfigurationError, "doesn't encrypt on this port"),
        ("SASL_PLAINTEXT", f"security=sasl_tls&{LOGIN}", ConfigurationError, "use security=sasl"),
        ("SSL", "security=tls&ca_file={ca}", ConfigurationError, "wants a certificate: give cert_file and key_file"),
        ("SSL", f"security=sasl_tls&{LOGIN}&ca_file={{ca}}", ConfigurationError, "give cert_file and key_file"),
        (
            "SSL",
            f"security=sasl_tls&{LOGIN}&ca_file={{ca}}&cert_file={{certificate}}&key_file={{key}}",
            ConfigurationError,
            "wants no login on this port; use security=tls",
        ),
        ("SASL_SSL", f"{LOGIN}&ca_file={{stranger}}", ConfigurationError, "authority that isn't trusted here; name"),
        ("SASL_SSL", LOGIN, ConfigurationError, "authority that isn't trusted here; name the authority's by ca_file"),
    ],
)
def test_the_wrong_kind_of_security_is_said_with_the_right_one(
    kafka_secured: SecuredKafka, listener: Listener, query: str, kind: type[StreamsError], said: str
) -> None:
    assert said in refusal(config_for(kafka_secured, listener, query), kind)


def test_a_login_where_none_is_wanted_is_said(kafka: KafkaBroker) -> None:
    config = parse_url(f"kafka://{kafka.bootstrap}?connect_timeout_ms={PATIENCE_MS}&security=sasl&{LOGIN}", {})
    assert "wants no login on this port; use security=plaintext" in refusal(config)


def test_a_certificate_for_another_host_is_refused_unless_asked_for(
    kafka_secured: SecuredKafka, tmp_path: Path
) -> None:
    """Through a listener of our own: what counts is the name that we asked for."""
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.sign("elsewhere", names="DNS:kafka.example")

    async def check() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        upstream = kafka_secured.ports["SASL_PLAINTEXT"]
        async with await asyncio.start_server(
            lambda r, w: relay(r, w, upstream), "127.0.0.1", 0, ssl=context
        ) as server:
            port = server.sockets[0].getsockname()[1]
            url = f"kafka://127.0.0.1:{port}?security=sasl_tls&{LOGIN}&ca_file={authority.certificate}"
            with pytest.raises(ConfigurationError, match="for another address than this; use a name in it"):
                await brokers_of(parse_url(url, {}))
            with pytest.raises(ConfigurationError, match="for another name than this; use a name in it"):
                await brokers_of(parse_url(url.replace("127.0.0.1", "localhost", 1), {}))
            assert await brokers_of(parse_url(f"{url}&check_hostname=false", {})) == 1

    asyncio.run(check())


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Between a client and a port, until either is done."""
    theirs, ours = await asyncio.open_connection("127.0.0.1", port)

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()

    pumps = [asyncio.create_task(pump(reader, ours)), asyncio.create_task(pump(theirs, writer))]
    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    for one in pumps:
        one.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)
    for end in (writer, ours):
        end.close()


# ── nobody there ──────────────────────────────────────────────────────────────────────────────────────────────────────


def plain(host: str, port: int, query: str = "") -> KafkaConfig:
    return parse_url(f"kafka://{host}:{port}?connect_timeout_ms={PATIENCE_MS}{query}", {})


def test_nobody_listens() -> None:
    assert "refuses connections; check that it runs" in refusal(plain("127.0.0.1", free_port()), LogUnavailable)


def test_nobody_knows_the_name() -> None:
    said = refusal(plain("no-such-host.invalid", 9092), LogUnavailable)
    assert "isn't known by this name" in said
    assert "DNS" in said


@pytest.mark.parametrize("security", ["", "&security=tls"])
def test_a_port_that_says_nothing(security: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = refusal(plain("127.0.0.1", server.getsockname()[1], security), LogUnavailable)
    assert f"doesn't answer within {PATIENCE_MS} ms; check host and port" in said


def test_a_broker_that_hangs(kafka_own: KafkaBroker) -> None:
    kafka_own.pause()
    assert "doesn't answer within" in refusal(plain("127.0.0.1", kafka_own.port), LogUnavailable)
    kafka_own.resume()


@pytest.mark.parametrize(
    ("security", "said"), [("", "isn't a Kafka broker: it begins with b'HTTP'"), ("&security=tls", "doesn't speak TLS")]
)
def test_a_port_of_something_else(security: str, said: str) -> None:
    async def check() -> str:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.to_thread(refusal, plain("127.0.0.1", port, security))

    assert said in asyncio.run(check())


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("ca_file={here}/none", "ca_file={here}/none can't be read: No such file or directory"),
        ("ca_file={here}", "ca_file={here} can't be read: Is a directory"),
        ("ca_file={here}/text", "ca_file={here}/text holds no certificates in PEM"),
        ("cert_file={here}/none", "cert_file={here}/none can't be read: No such file or directory"),
        ("cert_file={certificate}&key_file={here}/none", "key_file={here}/none can't be read"),
        ("cert_file={certificate}&key_file={here}/text", "key_file={here}/text: there is no certificate or key in PEM"),
        ("cert_file={certificate}", "cert_file={certificate}: there is no certificate or key in PEM in it"),
        ("cert_file={certificate}&key_file={here}/ca.key", "the key isn't that of the certificate in cert_file="),
        ("cert_file={certificate}&key_file={here}/locked.key", "the key is encrypted; give key_password_file"),
        (
            "cert_file={certificate}&key_file={here}/locked.key&key_password=hunter2",
            "key_password doesn't open the key",
        ),
        (
            "cert_file={certificate}&key_file={key}&key_password_file={here}/none",
            "key_password_file={here}/none can't be",
        ),
    ],
)
def test_a_bad_file_is_named_with_its_setting(
    kafka_secured: SecuredKafka, tmp_path: Path, query: str, said: str
) -> None:
    (tmp_path / "text").write_text("no certificate\n")
    (tmp_path / "ca.key").write_bytes((kafka_secured.authority.folder / "ca.key").read_bytes())
    locked_key(kafka_secured, tmp_path)
    names = {"here": tmp_path, "certificate": kafka_secured.client_certificate, "key": kafka_secured.client_key}
    with pytest.raises(ConfigurationError) as caught:
        connection_settings(parse_url(f"kafka://b?security=tls&{query.format(**names)}", {}))
    assert said.format(**names) in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("mechanism=PLAIN", "mechanism=PLAIN needs a user: give it by user in the URL, the environment variable"),
        (
            "mechanism=PLAIN&user=ada",
            "needs a password: give it by password in the URL, the environment variable STREAMS",
        ),
        ("mechanism=PLAIN&user=ada&env=SHOP", "the environment variable SHOP_PASSWORD, password_file=/path, or in the"),
        ("mechanism=OAUTHBEARER", "mechanism=OAUTHBEARER needs a token"),
        ("mechanism=PLAIN&user=ada&password_file={here}/none", "password_file={here}/none can't be read: No such file"),
        ("mechanism=PLAIN&user=ada&password_file={here}/empty", "password_file={here}/empty is empty"),
        (
            "mechanism=PLAIN&user=ada&password_file={here}/binary",
            "password_file={here}/binary can't be read: it is not",
        ),
        (
            "mechanism=OAUTHBEARER&token_provider=no_such_module_here:f",
            "token_provider=no_such_module_here:f: there is no",
        ),
        ("mechanism=OAUTHBEARER&token_provider=os:no_such", "module os has no 'no_such'"),
    ],
)
def test_a_missing_secret_is_said_with_where_it_may_be(tmp_path: Path, query: str, said: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError) as caught:
        connection_settings(parse_url(f"kafka://b?security=sasl&{query.format(here=tmp_path)}", {}))
    assert said.format(here=tmp_path) in str(caught.value)


def test_a_secret_file_that_everybody_can_read_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "password"
    path.write_text("hunter2")
    config = parse_url(f"kafka://ada@b?security=sasl&mechanism=PLAIN&password_file={path}", {})
    with caplog.at_level(logging.WARNING, "streams"):
        path.chmod(0o600)
        connection_settings(config)
        assert not caplog.records
        path.chmod(0o644)
        for _ in range(3):
            connection_settings(config)
    (record,) = caplog.records
    assert f"password_file={path} can be read by every user" in record.getMessage()
    assert "hunter2" not in caplog.text


def test_words_of_others_lose_their_secrets_and_their_line_breaks() -> None:
    config = parse_url("kafka://ada:hunter2@b?security=sasl&mechanism=PLAIN", {})
    assert explain_connection_error(OSError(5, "bad hunter2\nhere"), config, "b", 1) == (
        "kafka://b:9092: broker b:1 can't be reached (bad *** here); check host and port, and the network"
    )


# ── the log ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_log_opens_where_a_login_is_wanted_and_closes_before_its_loop(
    kafka_secured: SecuredKafka, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def check() -> str:
        log = KafkaLog(config_for(kafka_secured, query=f"{LOGIN}&ca_file={{ca}}"))
        await log.open()
        await log.close()
        return log.identity

    # uvloop refuses to close over a TLS connection that is still about to end.
    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(check()) == kafka_secured.cluster_id


@pytest.mark.parametrize(
    ("query", "kind", "said"),
    [
        ("mechanism=PLAIN&user=alice&password=hunter2", ConfigurationError, "refuses user 'alice'"),
        ("mechanism=OAUTHBEARER&token=hunter2", ConfigurationError, "refuses the token"),
        ("security=plaintext", LogUnavailable, "as one does that wants a login"),
    ],
)
def test_a_log_that_cannot_be_opened_says_why(
    kafka_secured: SecuredKafka, query: str, kind: type[StreamsError], said: str
) -> None:
    async def check() -> None:
        log = KafkaLog(config_for(kafka_secured, "SASL_PLAINTEXT", query))
        try:
            await log.open()
        finally:
            await log.close()

    with pytest.raises(kind, match=said):
        asyncio.run(check())


# ── ACLs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

ACLS: list[tuple[Resource, str, tuple[str, ...], bool]] = [
    ("topic", "{app}.", ("all",), True),
    ("topic", "{topic}", ("read", "write", "describe", "describe_configs", "create"), False),
    ("transactional_id", "{app}.", ("write",), True),
    ("group", "{app}", ("read",), False),
]
"""What docs/kafka.md says that a user needs."""


async def whole_life(log: KafkaLog, app: str, topic: str) -> None:
    """All that an app asks of its log."""
    task = TaskRef(app, 1, f"{app}.orders-0")
    at, changelog = TopicPartition(topic, 0), TopicPartition(f"{app}.counts.changelog", 0)
    between = TopicPartition(f"{app}.by-customer.repartition", 0)
    await log.open()
    try:
        specs = [TopicSpec(topic), TopicSpec(changelog.topic, 1, "changelog", compact=True)]
        await log.create_topics([*specs, TopicSpec(between.topic, 1, "repartition")])
        await log.append([append(at, b"1", b"2")])
        writer = await log.fence(task)
        assert (await values_of(log, at))[:2] == [b"1", b"2"]
        written = [append(one, b"3") for one in (at, changelog, between)]
        await writer.commit(Commit(b"checkpoint", written, {at: Position.at(2)}))
        await writer.close()
        assert await log.checkpoint(task) == b"checkpoint"
        membership = log.membership(app, Member(), Wanted([task]))
        async with asyncio.timeout(30):
            async for assignment in membership.assignments():
                if assignment.active:
                    break
        await membership.close()
        await log.trim({between: Position.at(1)})
        await log.forget([task])
        await log.delete_topics([changelog.topic, between.topic])
    finally:
        await log.close()


def test_an_app_works_with_the_acls_that_are_documented_and_names_each_that_is_missing(
    kafka_secured: SecuredKafka, unique: Callable[[str], str]
) -> None:
    app, topic = unique("shop"), unique("orders")
    config = config_for(kafka_secured, "SASL_PLAINTEXT", LOGIN)
    needed = {"topic": "an ACL for the topic", "group": "an ACL for the group", "transactional_id": "transactional ids"}
    for resource, name, operations, prefix in ACLS:
        with pytest.raises(ConfigurationError, match=f"not allowed.*{needed[resource]}"):
            asyncio.run(whole_life(KafkaLog(config), app, topic))
        kafka_secured.grant("alice", resource, name.format(app=app, topic=topic), *operations, prefix=prefix)
    asyncio.run(whole_life(KafkaLog(config), app, topic))
