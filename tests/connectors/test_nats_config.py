"""URLs of logs on JetStream."""

from __future__ import annotations

import pytest

from streams.connectors.jetstream.config import parse_url
from streams.errors import ConfigurationError


def test_a_url_names_servers_who_we_are_and_settings() -> None:
    config = parse_url("nats://shop:s%3Acret@one,two:4333?replicas=3&tls=yes&creds_file=/a/b.creds")
    assert config.servers == ("nats://one:4222", "nats://two:4333")
    assert (config.user, config.password, config.replicas, config.tls) == ("shop", "s:cret", 3, True)
    assert config.creds_file == "/a/b.creds"
    assert config.shown == "nats://one:4222,two:4333"


def test_the_password_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMS_NATS_PASSWORD", "hidden")
    assert parse_url("nats://shop@one").password == "hidden"
    assert "hidden" not in repr(parse_url("nats://shop@one").shown)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nats://", "is no server"),
        ("nats://one:port", "is no server"),
        ("nats://one?replicas=9", "replicas=9: a number from 1 to 5"),
        ("nats://one?session_timeout_ms=1", "session_timeout_ms=1"),
        ("nats://one?replica=3", "replica is no setting.*replicas"),
        ("nats://one?tls=maybe", "tls is no setting, or not so"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_there_is(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        parse_url(url)


def test_files_that_are_not_there_are_named_before_anything_is_sent() -> None:
    with pytest.raises(ConfigurationError, match=r"/nowhere/a\.creds can't be read"):
        parse_url("nats://one?creds_file=/nowhere/a.creds").client()
    with pytest.raises(ConfigurationError, match="ca_file"):
        parse_url("nats://one?ca_file=/nowhere/ca.pem").client()
