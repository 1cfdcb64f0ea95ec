"""URLs and settings of NATS."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.connectors.jetstream.config import NatsConfig, parse_url
from streams.core.secret import Secret
from streams.core.urls import without_secrets
from streams.errors import ConfigurationError

EMPTY: dict[str, str] = {}


def test_a_url_names_servers_who_we_are_and_settings() -> None:
    config = parse_url("nats://shop:s%3Acret@one,two:4333?replicas=3&tls=yes&ca_file=/a/ca.pem", EMPTY)
    assert config.servers == ("nats://one:4222", "nats://two:4333")
    assert (config.user, config.password.reveal(), config.replicas, config.tls) == ("shop", "s:cret", 3, "yes")
    assert config.ca_file == "/a/ca.pem"
    assert config.encrypted
    assert config.shown == "nats://one:4222,two:4333"


def test_the_environment_gives_what_the_url_leaves_out() -> None:
    around = {
        "STREAMS_NATS_PASSWORD": "hidden",
        "STREAMS_NATS_REPLICAS": "5",
        "STREAMS_NATS_CA_FILE": "/a/ca.pem",
        "STREAMS_NATS_TLS": "",
    }
    config = parse_url("nats://shop@one?replicas=3", around)
    assert (config.user, config.password.reveal(), config.replicas, config.ca_file) == (
        "shop",
        "hidden",
        3,
        "/a/ca.pem",
    )
    assert config.tls == "no"


def test_a_user_by_itself_is_a_token_as_natss_own_tools_have_it() -> None:
    config = parse_url("nats://s3cr3t@one", EMPTY)
    assert (config.user, config.token.reveal()) == ("", "s3cr3t")
    assert without_secrets("nats://s3cr3t@one:4222") == "nats://***@one:4222"


def test_the_url_decides_who_we_are_whatever_the_environment_holds() -> None:
    around = {"STREAMS_NATS_TOKEN": "t", "STREAMS_NATS_PASSWORD": "p"}
    config = parse_url("nats://one?creds_file=/a.creds", around)
    assert config.creds_file == "/a.creds"
    assert (config.token, config.password) == (Secret(), Secret())
    with pytest.raises(ConfigurationError, match="user and password and token are both given"):
        parse_url("nats://one", around)
    with pytest.raises(ConfigurationError, match="creds and nkey are both given"):
        parse_url("nats://one?creds_file=/a&nkey_file=/b", EMPTY)


def test_a_file_in_the_url_stands_before_a_secret_in_the_environment() -> None:
    config = parse_url("nats://one?token_file=/t", {"STREAMS_NATS_TOKEN": "t"})
    assert (config.token_file, config.token) == ("/t", Secret())


@pytest.mark.parametrize(
    "url",
    [
        "nats://shop:s3cr3t@one",
        "nats://s3cr3t@one",
        "nats://shop:s3cr3t",
        "nats://shop:p?s3cr3t@one",
        "nats://shop:12?s3cr3t@one",
        "nats://one?token=s3cr3t",
        "nats://one?password=s3cr3t",
        "nats://shop:s3cr3t@one?creds_file=/a",
        "nats://shop:s3cr3t@one:port",
        "nats://shop:s3cr3t@one?replicas=x",
    ],
)
def test_no_secret_shows_whatever_is_wrong_with_the_url(url: str) -> None:
    shown = []
    try:
        config: NatsConfig = parse_url(url, EMPTY)
        shown += [repr(config), str(config), config.shown]
    except ConfigurationError as error:
        shown.append(str(error))
    assert "s3cr3t" not in "".join(shown)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nats://", "is no server"),
        ("nats://one:port", "is no server"),
        ("nats://one:70000", "is no server"),
        ("nats://one?replicas=9", "replicas=9: a number from 1 to 5"),
        ("nats://one?session_timeout_ms=1", "session_timeout_ms=1"),
        ("nats://one?replica=3", "replica is no setting; did you mean replicas"),
        ("nats://one?color=red", "color is no setting; there are .*creds_file"),
        ("nats://one?tls=maybe", "tls=maybe: yes, no or first"),
        ("nats://one?replicas=3&replicas=1", "replicas is given twice"),
        ("nats://one?token=t", "token has no place behind the question mark; set STREAMS_NATS_TOKEN, or token_file"),
        ("nats://one?key_file=/k", "a key without its certificate"),
        ("nats://one?inbox_prefix=a..b", "inbox_prefix=a..b"),
        ("nats://one?monitor_url=one:8222", "write http://"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_there_is(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        parse_url(url, EMPTY)


def test_files_that_are_not_there_are_named_before_anything_is_sent(tmp_path: Path) -> None:
    for name in ("creds_file", "nkey_file", "token_file"):
        with pytest.raises(ConfigurationError, match=rf"{name}=/nowhere/a can't be read: No such file"):
            parse_url(f"nats://one?{name}=/nowhere/a", EMPTY).client()
    with pytest.raises(ConfigurationError, match="ca_file"):
        parse_url("nats://one?ca_file=/nowhere/ca.pem", EMPTY).client()
    empty = tmp_path / "empty"
    empty.write_text("")
    with pytest.raises(ConfigurationError, match="holds no user's JWT with its seed"):
        parse_url(f"nats://one?creds_file={empty}", EMPTY).client()
    with pytest.raises(ConfigurationError, match="nkey_file holds no seed"):
        parse_url(f"nats://one?nkey_file={empty}", EMPTY).client()
