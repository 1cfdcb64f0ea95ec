"""URLs of MQTT brokers."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.connectors.mqtt.config import parse_url
from streams.connectors.mqtt.inflight import AGE
from streams.connectors.mqtt.packets import MQTT_3_1_1, MQTT_5, Will
from streams.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path"),
    [
        ("mqtt://broker", "mqtt", "broker", 1883, "/mqtt"),
        ("mqtts://broker", "mqtts", "broker", 8883, "/mqtt"),
        ("ws://broker", "ws", "broker", 80, "/mqtt"),
        ("wss://broker/", "wss", "broker", 443, "/mqtt"),
        ("ws://broker:9001/some/path", "ws", "broker", 9001, "/some/path"),
        ("mqtt://[::1]", "mqtt", "::1", 1883, "/mqtt"),
        ("mqtt://[::1]:5/", "mqtt", "::1", 5, "/mqtt"),
        ("mqtt://me:p@ss@10.0.0.1:5", "mqtt", "10.0.0.1", 5, "/mqtt"),
    ],
)
def test_a_url_says_where_the_broker_is(url: str, scheme: str, host: str, port: int, path: str) -> None:
    config = parse_url(url)
    assert (config.scheme, config.host, config.port, config.path) == (scheme, host, port, path)


def test_settings_reach_the_session() -> None:
    config = parse_url(
        "mqtt://me:a%20b@broker?version=3.1.1&keep_alive_s=5&session_expiry_s=60&receive_maximum=7&send_maximum=9"
        "&max_packet_bytes=5000&topic_aliases=0&answer_timeout_s=3"
    )
    assert config.version == MQTT_3_1_1
    will = Will("gone")
    session = config.session("client", clean_start=False, will=will)
    assert (session.client_id, session.version, session.clean_start, session.will) == (
        "client",
        MQTT_3_1_1,
        False,
        will,
    )
    assert (session.user, session.password) == ("me", b"a b")
    assert (session.keep_alive_s, session.session_expiry_s, session.answer_timeout_s) == (5, 60, 3)
    assert (session.receive_maximum, session.send_maximum, session.max_packet_bytes) == (7, 9, 5000)
    assert (session.topic_aliases_in, session.topic_aliases_out) == (0, 0)
    assert config.session("client", clean_start=True).session_expiry_s == 0


def test_what_is_in_flight_never_comes_of_the_age_at_which_it_is_forgotten() -> None:
    """Twice as many: a broker that overruns the window sends another one (mosquitto 2.0.11)."""
    session = parse_url("mqtt://b?receive_maximum=16384").session("c", clean_start=False)
    assert 2 * session.receive_maximum <= AGE


def test_in_3_1_1_no_more_is_in_flight_than_any_broker_takes() -> None:
    assert parse_url("mqtt://b").session("c", clean_start=True).send_maximum == 1000
    assert parse_url("mqtt://b?version=3.1.1").session("c", clean_start=True).send_maximum == 20
    assert parse_url("mqtt://b?version=3.1.1&send_maximum=50").session("c", clean_start=True).send_maximum == 50
    assert parse_url("mqtt://b").version == MQTT_5


def test_the_password_comes_from_the_url_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMS_MQTT_PASSWORD", "from env")
    file = tmp_path / "secret"
    file.write_text("from file\n")
    assert parse_url("mqtt://me@b").password == "from env"
    assert parse_url(f"mqtt://me@b?password_file={file}").password == "from file"
    assert parse_url(f"mqtt://me:from%2Furl@b?password_file={file}").password == "from/url"
    assert parse_url("mqtt://b").password is None
    with pytest.raises(ConfigurationError, match="without a user"):
        parse_url(f"mqtt://b?password_file={file}")
    with pytest.raises(ConfigurationError, match="password_file can't be read"):
        parse_url(f"mqtt://me@b?password_file={file}.none")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://broker", "begins with mqtt://"),
        ("broker", "begins with mqtt://"),
        ("mqtt://", "no broker"),
        ("mqtt://b:x", "no broker"),
        ("mqtt://b:70000", "no broker"),
        ("mqtt://b/topic", "topics aren't part"),
        ("mqtt://b?version=3.1", "version is no setting, or not so"),
        ("mqtt://b?keep_alive_s=x", "a number from 0 to 65535"),
        ("mqtt://b?receive_maximum=0", "a number from 1"),
        ("mqtt://b?receive_maximum=20000", "a number from 1 to 16384"),
        ("mqtt://b?retries=3", "retries is no setting"),
        ("mqtt://b?ca_file=x", "mqtts:// and wss://"),
    ],
)
def test_what_a_url_can_t_say_is_an_error_that_says_so(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_url(url)


@pytest.mark.parametrize("url", ["mqtt://me:hunter2@b?retries=3", "mqtt://me:hunter2@b:x", "http://me:hunter2@b"])
def test_no_error_shows_a_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url)
    assert "hunter2" not in str(caught.value)


def test_certificates_that_can_t_be_used_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    with pytest.raises(ConfigurationError, match="ca_file"):
        parse_url(f"mqtts://b?ca_file={missing}").tls()
    assert parse_url("mqtt://b").tls() is None
    assert parse_url("wss://b").tls() is not None
