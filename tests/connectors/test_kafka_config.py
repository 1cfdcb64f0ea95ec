"""Settings of a Kafka log: from URL, environment and file, and what is said about those that can't be."""

from __future__ import annotations

import copy
import logging
import re
import traceback
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.connectors.kafka import config as config_module
from streams.connectors.kafka.config import KafkaConfig, Secret, parse_url, safe_url
from streams.errors import ConfigurationError

FOLDER = Path(config_module.__file__).parent
SECRET = "hunter2/+ä"
QUOTED = "hunter2%2F+%C3%A4"
SCRAM = "security=sasl_tls&mechanism=SCRAM-SHA-512"


def parsed(url: str, **environ: str) -> KafkaConfig:
    return parse_url(url, environ)


def refusal(url: str, **environ: str) -> str:
    """What is said about a URL that can't be.  It is one line, and no secret is in it or in its traceback."""
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url, environ)
    message = str(caught.value)
    assert "\n" not in message
    assert "hunter" not in "".join(traceback.format_exception(caught.value))
    return message


# ── URL ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("hosts", "servers"),
    [
        ("broker", [("broker", 9092)]),
        ("broker:9093", [("broker", 9093)]),
        ("broker/", [("broker", 9092)]),
        (
            "a.example:1,10.0.0.7,[::1]:3,[fe80::1]",
            [("a.example", 1), ("10.0.0.7", 9092), ("::1", 3), ("fe80::1", 9092)],
        ),
    ],
)
def test_brokers_are_named_with_or_without_a_port(hosts: str, servers: list[tuple[str, int]]) -> None:
    config = parsed(f"kafka://{hosts}")
    assert list(config.servers) == servers
    assert parsed(config.url) == config


@pytest.mark.parametrize(
    "hosts", ["", ",", "a,,b", "a:b", "a:0", "a:65536", "a:9092:9092", "::1", "[::1", "a b", "/topic"]
)
def test_what_is_no_broker_is_refused(hosts: str) -> None:
    assert "host:9092" in (said := refusal(f"kafka://{hosts}")) or "host:port" in said or "host-1:9092" in said


@pytest.mark.parametrize("url", ["kafka:broker", "kafka", "embedded:./data", "http://broker:9092", ""])
def test_a_url_of_something_else_is_refused(url: str) -> None:
    assert "write kafka://host:9092" in refusal(url)


def test_a_topic_does_not_belong_into_the_url_of_a_log() -> None:
    assert "before the question mark stand brokers only" in refusal("kafka://broker:9092/orders")


def test_settings_are_read_by_their_types() -> None:
    config = parsed("kafka://b?compression=LZ4&linger_ms=0&security=tls&check_hostname=no&acks=1&client_id=w-1")
    assert (config.compression, config.linger_ms, config.check_hostname, config.acks) == ("lz4", 0, False, "1")
    assert config.client_id == "w-1"


def test_a_name_and_a_password_before_the_brokers_are_decoded() -> None:
    config = parsed(f"kafka://ad%40a:{QUOTED}@broker?{SCRAM}")
    assert (config.user, config.password.reveal()) == ("ad@a", SECRET)


def test_a_plus_in_a_password_stays_a_plus() -> None:
    assert parsed(f"kafka://ada@broker?password={QUOTED}&{SCRAM}").password.reveal() == SECRET


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("linger=5", "did you mean linger_ms?"),
        ("sesion_timeout_ms=5", "did you mean session_timeout_ms?"),
        ("sasl.mechanism=PLAIN", "did you mean mechanism?"),
        ("security.protocol=SSL", "did you mean security?"),
        ("sasl_plain_password=hunter2", "did you mean password?"),
        ("group.instance.id=7", "a worker is named by --name"),
        ("xyz=hunter2", "there are acks, batch_bytes"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_name(setting: str, said: str) -> None:
    message = refusal(f"kafka://broker?{setting}")
    assert said in message
    assert repr(setting.partition("=")[0]) in message


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("linger_ms=soon", "linger_ms='soon' is not a whole number from 0 to"),
        ("linger_ms=-1", "linger_ms=-1 is not a whole number from 0"),
        ("batch_bytes=0", "batch_bytes=0 is not a whole number from 1"),
        ("request_timeout_ms=2147483648", "is not a whole number from 1 to 2147483647"),
        ("replication=0", "replication=0 keeps nothing"),
        ("compression=zip", "compression='zip' is not one of none, gzip, snappy, lz4, zstd; did you mean gzip?"),
        ("acks=2", "acks='2' is not one of all, 1, 0"),
        ("security=SASL_SSL", "did you mean sasl_tls?"),
        ("check_hostname=maybe", "check_hostname='maybe' is not true or false"),
        ("partitioner=murmur3", "not one of murmur2, round_robin, random, or module:function"),
        ("linger_ms=1&linger_ms=2", "linger_ms is given twice"),
        ("session_timeout_ms=1500", "heartbeat_interval_ms=1000 is more than half"),
        ("fetch_max_wait_ms=40000", "fetch_max_wait_ms=40000 is not below request_timeout_ms=30000"),
        ("max_commit_bytes=1000", "max_record_bytes=1000000 is above max_commit_bytes=1000"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_can(setting: str, said: str) -> None:
    assert said in refusal(f"kafka://broker?{setting}")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka://ada@b", "user is given, but security=plaintext doesn't log in; add security=sasl_tls"),
        ("kafka://ada@b?security=tls", "user is given, but security=tls doesn't log in; add security=sasl_tls"),
        ("kafka://b?password=hunter2", "password is given, but security=plaintext doesn't log in"),
        ("kafka://b?mechanism=PLAIN", "mechanism is given, but security=plaintext doesn't log in"),
        ("kafka://b?ca_file=ca.pem", "ca_file is given, but security=plaintext doesn't encrypt; add security=tls"),
        ("kafka://b?security=sasl&mechanism=PLAIN&ca_file=ca.pem", "doesn't encrypt; add security=sasl_tls"),
        ("kafka://b?security=sasl", "security=sasl needs a mechanism: one of PLAIN, SCRAM-SHA-256"),
        (f"kafka://b?{SCRAM}&token=hunter2", "token is given, but mechanism=SCRAM-SHA-512 makes no use of it"),
        ("kafka://ada@b?security=sasl&mechanism=OAUTHBEARER", "user is given, but mechanism=OAUTHBEARER makes no use"),
        (f"kafka://b?{SCRAM}&password=hunter2&password_file=f", "password and password_file say the same thing"),
        ("kafka://b?security=tls&key_file=k", "key_file needs cert_file"),
        ("kafka://b?security=tls&key_password=hunter2", "key_password needs cert_file"),
        ("kafka://b?security=sasl&mechanism=OAUTHBEARER&token_provider=f", "token_provider='f' is not module:callable"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_and_not_passed_over(url: str, said: str) -> None:
    assert said in refusal(url)


def test_every_setting_is_read_somewhere() -> None:
    # One that nobody reads would be a promise that nobody keeps.
    sources = [path for path in sorted(FOLDER.glob("*.py")) if path.name != "config.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    names = {one.name for one in fields(KafkaConfig)} - {"config", "env"}
    unread = {name for name in names if not re.search(rf"config\.{name}\b|\"{name}\"", text)}
    assert unread == {"password_file"}, "read by the name of the secret that it is for"


def test_the_guide_names_every_setting() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "kafka.md").read_text(encoding="utf-8")
    assert [one.name for one in fields(KafkaConfig)[1:] if f"`{one.name}`" not in guide] == []


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [
        "kafka://ada:hunter2",
        "kafka://ada:hunter2@",
        "kafka://ada:hun?ter2hunter@broker",
        "kafka://ada:12?hunter=@broker",
        "kafka://ada:12?hunter2@broker",
        "kafka://ada:12?a=hunter2@broker",
        "kafka://ada:hunter2@bro ker",
        "kafka://ada:hunter2@broker?linger=1",
        "kafka://ada:hunter2@broker?linger_ms=soon",
        "kafka://broker?password=hunter2&linger_ms=soon",
        "kafka://broker?passwort=hunter2&linger_ms=soon",
        "kafka:ada:hunter2@broker",
        "http://ada:hunter2@broker?password=hunter2",
    ],
)
def test_an_error_about_a_url_does_not_show_its_password(url: str) -> None:
    refusal(url)
    assert "hunter2" not in safe_url(url)


def test_a_password_with_bare_punctuation_is_explained() -> None:
    for url in ("kafka://ada:hun?ter2@broker", "kafka://ada:12?34@broker"):
        assert "written %40 %3A %2F %3F" in refusal(url)


def test_secrets_are_shown_nowhere() -> None:
    config = parsed(f"kafka://ada:hunter2@b?{SCRAM}&cert_file=c&key_password=hunter3&ca_file=/x/ca.pem&client_id=w")
    shown = [repr(config), str(config), f"{config}", str(asdict(config)), config.url, config.safe_url]
    shown += [repr(config.password), f"{config.password}", f"{config.password!s:>20}", repr(fields(config))]
    assert not [one for one in shown if "hunter" in one]
    assert config.safe_url == (
        "kafka://ada@b:9092?security=sasl_tls&mechanism=SCRAM-SHA-512&ca_file=/x/ca.pem&cert_file=c&client_id=w"
    )


def test_a_string_given_in_code_becomes_a_secret() -> None:
    config = KafkaConfig(
        servers=(("b", 1),),
        security="sasl",
        mechanism="PLAIN",
        user="ada",
        password="hunter2",  # type: ignore[arg-type]
    )
    assert "hunter2" not in repr(config)
    assert config.password.reveal() == "hunter2"


def test_a_secret_is_equal_to_its_like_and_survives_copies() -> None:
    secret = Secret("hunter2")
    assert secret == Secret("hunter2") != Secret("hunter3")
    assert secret != "hunter2"
    assert hash(secret) == hash(Secret("hunter2"))
    assert copy.deepcopy(secret) == secret
    assert bool(secret) is True
    assert bool(Secret()) is False
    assert "hunter2" not in repr(replace(parsed(f"kafka://a:hunter2@b?{SCRAM}"), linger_ms=7))


@given(
    user=st.text(max_size=8),
    password=st.text(min_size=1, max_size=8),
    client_id=st.text(min_size=1, max_size=8),
    linger_ms=st.integers(0, 99),
    check_hostname=st.booleans(),
)
def test_a_url_without_secrets_opens_the_same_settings(
    user: str, password: str, client_id: str, linger_ms: int, check_hostname: bool
) -> None:
    config = KafkaConfig(
        servers=(("b", 1), ("::1", 2)),
        security="sasl_tls",
        mechanism="PLAIN",
        user=user,
        password=Secret(password),
        client_id=client_id,
        linger_ms=linger_ms,
        check_hostname=check_hostname,
    )
    again = parse_url(config.safe_url, {})
    assert replace(again, password=config.password) == config
    assert not again.password


# ── environment ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_any_setting_can_be_in_the_environment_and_the_url_goes_before_it() -> None:
    environ = {"STREAMS_KAFKA_SECURITY": "sasl_tls", "STREAMS_KAFKA_MECHANISM": "PLAIN", "STREAMS_KAFKA_USER": "ada"}
    environ |= {"STREAMS_KAFKA_PASSWORD": "hunter2", "STREAMS_KAFKA_LINGER_MS": "7", "STREAMS_KAFKA_PORT": "tcp://x"}
    config = parsed("kafka://b?linger_ms=9", **environ)
    assert (config.security, config.user, config.password.reveal()) == ("sasl_tls", "ada", "hunter2")
    assert config.linger_ms == 9


def test_secrets_for_one_cluster_in_the_environment_do_not_disturb_another() -> None:
    environ = {"STREAMS_KAFKA_USER": "ada", "STREAMS_KAFKA_PASSWORD": "hunter2", "STREAMS_KAFKA_CA_FILE": "ca.pem"}
    environ |= {"STREAMS_KAFKA_TOKEN": "hunter3", "STREAMS_KAFKA_MECHANISM": "PLAIN"}
    assert parsed("kafka://b", **environ) == parsed("kafka://b")
    token = parsed("kafka://b?security=sasl&mechanism=OAUTHBEARER", **environ)
    assert (token.user, token.token.reveal()) == ("", "hunter3")


def test_two_clusters_have_their_secrets_under_different_prefixes() -> None:
    url = f"kafka://ada@b?{SCRAM}"
    environ = {"STREAMS_KAFKA_PASSWORD": "hunter2", "SHOP_PASSWORD": "hunter3"}
    assert parsed(url, **environ).password.reveal() == "hunter2"
    assert parsed(url + "&env=SHOP", **environ).password.reveal() == "hunter3"
    assert not parsed(url + "&env=", **environ).password


def test_a_bad_value_in_the_environment_is_refused_by_the_name_of_the_variable() -> None:
    assert refusal("kafka://b", STREAMS_KAFKA_LINGER_MS="soon").startswith("STREAMS_KAFKA_LINGER_MS: ")


# ── file ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "shop.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return str(path)


def test_a_file_gives_what_neither_url_nor_environment_does(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'security = "sasl_tls"\nmechanism = "SCRAM-SHA-256"\nuser = "ada"\npassword = "hunter2"\n'
        'ca_file = "ca.pem"\ncheck_hostname = false\nlinger_ms = 7\nacks = 1\nreplication = 2\nclient_id = "file"\n',
    )
    config = parsed(
        f"kafka://b?config={path}&replication=3", STREAMS_KAFKA_REPLICATION="4", STREAMS_KAFKA_CLIENT_ID="env"
    )
    assert (config.replication, config.client_id, config.linger_ms, config.acks) == (3, "env", 7, "1")
    assert (config.password.reveal(), config.check_hostname) == ("hunter2", False)
    assert config.ca_file == str(tmp_path / "ca.pem"), "files are named relative to the file that names them"
    assert parsed("kafka://b", STREAMS_KAFKA_CONFIG=path).password.reveal() == "hunter2"


@pytest.mark.parametrize(
    ("query", "environ", "expected"),
    [
        ("&password=url", {"STREAMS_KAFKA_PASSWORD": "env"}, ("url", "")),
        ("&password_file=url", {"STREAMS_KAFKA_PASSWORD": "env"}, ("", "url")),
        ("", {"STREAMS_KAFKA_PASSWORD": "env"}, ("env", "")),
        ("", {"STREAMS_KAFKA_PASSWORD_FILE": "env"}, ("", "env")),
        ("", {}, ("file", "")),
    ],
)
def test_the_first_place_that_has_a_password_settles_it(
    tmp_path: Path, query: str, environ: dict[str, str], expected: tuple[str, str]
) -> None:
    path = written(tmp_path, 'password = "file"\n')
    config = parse_url(f"kafka://ada@b?{SCRAM}&config={path}{query}", environ)
    assert (config.password.reveal(), config.password_file) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('linger_ms = "soon"', "linger_ms='soon' is not a whole number"),
        ("linger_ms = 1.5", "linger_ms is not a whole number"),
        ("password = [1]", "password is not text"),
        ('lingerms = "hunter2"', "did you mean linger_ms?"),
        ('password = "hunter2', "is not TOML"),
        ('config = "other.toml"', "config belongs in the URL"),
        ("[kafka]\nlinger_ms = 1", "there is no setting 'kafka'"),
    ],
)
def test_a_fault_in_the_file_is_refused_with_its_name(tmp_path: Path, text: str, said: str) -> None:
    message = refusal(f"kafka://b?config={written(tmp_path, text)}")
    assert said in message
    assert "shop.toml" in message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "can't be read: No such file or directory" in refusal(f"kafka://b?config={tmp_path}/none.toml")


def test_a_file_with_a_password_that_everybody_can_read_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(written(tmp_path, 'password = "hunter2"\n'))
    with caplog.at_level(logging.WARNING, "streams"):
        parsed(f"kafka://ada@b?{SCRAM}&config={path}")
        assert not caplog.records
        path.chmod(0o644)
        parsed(f"kafka://ada@b?{SCRAM}&config={path}")
    assert "can be read by every user of this machine" in caplog.text
    assert "hunter2" not in caplog.text
