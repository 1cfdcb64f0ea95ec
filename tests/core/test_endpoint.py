"""Where an agent answers: what a URL says, what may stand in it, and what is promised."""

from __future__ import annotations

import pytest

from streams.core.capability import Guarantee
from streams.core.endpoint import Endpoint, promises
from streams.errors import ConfigurationError


def endpoint(url: str, timeout_ms: int = 10, pending: int = 1) -> Endpoint:
    return Endpoint.at("settle", url, timeout_ms=timeout_ms, pending=pending)


def test_a_url_is_a_server_with_its_settings_and_an_address_on_it() -> None:
    found = endpoint("nats://shop:pa%2Fss@a:1,b:2/bank.settle?tls=yes&ca_file=/etc/ca.pem")
    assert found.server == "nats://shop:pa%2Fss@a:1,b:2?tls=yes&ca_file=/etc/ca.pem"
    assert found.address == found.pattern == "bank.settle"


def test_an_endpoint_is_shown_without_who_we_are() -> None:
    for url in ("nats://shop:secret@a:1/bank.settle?tls=yes", "nats://secret@a:1/bank.settle"):
        assert endpoint(url).shown == "nats://a:1/bank.settle"


def test_the_key_is_the_word_that_stands_in_its_place() -> None:
    found = endpoint("nats://a/bank.{key}.settle.>")
    assert found.pattern == "bank.*.settle.>"
    assert found.key_in("bank.x1.settle.now.please") == "x1"
    assert endpoint("nats://a/bank.settle").key_in("bank.settle") is None


@pytest.mark.parametrize(
    "url", ["bank.settle", "nats://a", "nats://a/", "nats:///bank.settle", "nats:a/b", "nats://user@/bank"]
)
def test_what_names_no_place_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"agent settle: .* is no place to answer at; write nats://"):
        endpoint(url)


def test_a_refused_url_keeps_its_password() -> None:
    with pytest.raises(ConfigurationError) as raised:
        endpoint("nats://shop:secret@a:1")
    assert "secret" not in str(raised.value)
    assert "a:1" in str(raised.value)


@pytest.mark.parametrize("address", ["a.x{key}", "a.{key}.{key}", "a.{id}", "a.{}", "a.{key}s"])
def test_a_key_is_one_whole_word(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\{key\} may stand for one whole word"):
        endpoint(f"nats://a/{address}")


@pytest.mark.parametrize(("timeout_ms", "pending"), [(0, 1), (1, 0)])
def test_limits_are_more_than_nothing(timeout_ms: int, pending: int) -> None:
    with pytest.raises(ConfigurationError, match="more than 0"):
        endpoint("nats://a/b", timeout_ms, pending)


def test_exactly_once_is_promised_only_to_who_asks_again_under_an_id() -> None:
    found = {way: derived.guarantee for way, derived in promises(7)}
    assert found == {"asked again under its id": Guarantee.EXACTLY_ONCE, "asked once": Guarantee.AT_MOST_ONCE}
    assert "last 7" in promises(7)[0][1].why


def test_the_least_that_is_more_than_nothing_is_accepted() -> None:
    endpoint = Endpoint.at("a", "nats://user:p@host:1/one/two?x=a://b", timeout_ms=1, pending=1)
    assert (endpoint.server, endpoint.address) == ("nats://user:p@host:1?x=a://b", "one/two")
    assert (endpoint.timeout_ms, endpoint.pending) == (1, 1)
