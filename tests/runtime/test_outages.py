"""What is told of a server that is away, in virtual time: once, not by each task, and again when it is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from streams.errors import CommitUnknown, Fenced, LogUnavailable, ServiceUnavailable, StoreUnavailable
from streams.runtime.outages import FORGOTTEN_S, OVER_S, QUIET_S, REMINDED_S, Outages, server_in
from streams.testing.loop import VirtualLoop

SERVER = "kafka://a:9092,b:9092"
AWAY = LogUnavailable(f"{SERVER}: broker a:9092 refuses connections; check that it runs and listens on this port")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[Callable[[Outages], Awaitable[None]]], list[str]]:
    """The lines that a person sees while something is played."""

    def play(scene: Callable[[Outages], Awaitable[None]]) -> list[str]:
        loop = VirtualLoop()
        try:
            with caplog.at_level(logging.INFO, "streams"):
                loop.run_until_complete(scene(Outages()))
        finally:
            loop.close()
        return caplog.messages

    return play


Said = Callable[[Callable[[Outages], Awaitable[None]]], list[str]]


def test_an_outage_is_one_line_for_all_who_notice_it_and_one_when_it_is_over(said: Said) -> None:
    async def scene(outages: Outages) -> None:
        for _ in range(20):
            for number in range(16):
                outages.failed(f"task {number} starts again from its last commit", AWAY)
            outages.failed("housekeeping waits", CommitUnknown(f"{SERVER}: no answer; it may be stored"))
            await asyncio.sleep(1)
        for _ in range(16):
            outages.works(f"{SERVER}?linger_ms=5")

    assert said(scene) == [f"{AWAY}; what needs it waits and tries again", f"{SERVER} is back, after 20 s"]


def test_outages_of_two_servers_are_two_lines_each(said: Said) -> None:
    async def scene(outages: Outages) -> None:
        outages.failed("x", AWAY)
        outages.failed("y", ServiceUnavailable("http://registry:8081 can't be reached"))
        outages.works("http://registry:8081")
        outages.works(SERVER)

    first, second, third, fourth = said(scene)
    assert first.startswith(SERVER)
    assert second.startswith("http://registry:8081 can't be reached")
    assert (third, fourth) == ("http://registry:8081 is back, after 0 s", f"{SERVER} is back, after 0 s")


def test_a_server_that_comes_and_goes_is_told_of_every_now_and_then(said: Said) -> None:
    async def scene(outages: Outages) -> None:
        for _ in range(100):
            outages.failed("x", AWAY)
            await asyncio.sleep(1)
            outages.works(SERVER)

    assert 2 <= len(said(scene)) <= 2 * (100 / QUIET_S + 1)


def test_an_outage_that_lasts_is_told_again_with_what_is_the_matter_by_then(said: Said) -> None:
    async def scene(outages: Outages) -> None:
        outages.failed("x", AWAY)
        for number in range(int(QUIET_S + REMINDED_S) + 1):
            await asyncio.sleep(1)
            outages.failed("x", LogUnavailable(f"{SERVER}: task shop.x-{number}: no space is left"))

    _, other, again = said(scene)
    assert "no space is left" in other
    assert other.endswith(f"so for {QUIET_S:.0f} s")
    assert "no space is left" in again
    assert again.endswith(f"so for {QUIET_S + REMINDED_S:.0f} s")


def test_what_nobody_complains_of_any_more_is_over_though_nobody_says_so(said: Said) -> None:
    async def scene(outages: Outages) -> None:
        for _ in range(2):
            outages.failed("x", AWAY)
            await asyncio.sleep(OVER_S + 1)

    assert len(said(scene)) == 2


def test_what_is_no_outage_of_a_server_is_told_as_it_comes(said: Said) -> None:
    async def scene(outages: Outages) -> None:
        for _ in range(2):
            outages.failed("task x", StoreUnavailable("the disk is full"))
            outages.failed("task x", LogUnavailable("embedded:log: the disk is full"))
            outages.failed("task x", Fenced(f"{SERVER}: another owner has taken over"))

    assert len(said(scene)) == 6


def test_the_debug_log_names_everybody(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        outages = Outages()
        for number in range(16):
            outages.failed(f"task {number}", AWAY)

    with caplog.at_level(logging.DEBUG, "streams"):
        asyncio.run(scene())
    assert sum(line.startswith("task ") for line in caplog.messages) == 16


@pytest.mark.parametrize(
    ("text", "server"),
    [
        (str(AWAY), SERVER),
        ("nats://[::1]:4222: it doesn't answer", "nats://[::1]:4222"),
        ("delivery x: kafka://a:1?linger_ms=5: broken", "kafka://a:1"),
        ("mqtt://broker", "mqtt://broker"),
        ("embedded:log: the disk is full", ""),
        ("", ""),
    ],
)
def test_a_server_is_known_by_the_url_in_the_words(text: str, server: str) -> None:
    assert server_in(text) == server


def test_a_server_is_away_from_the_first_complaint_until_it_works_or_nobody_asks_for_it_any_more(said: Said) -> None:
    async def scene(outages: Outages) -> None:
        assert outages.lasting(SERVER) is None
        outages.failed("x", AWAY)
        await asyncio.sleep(5)
        assert outages.lasting(f"{SERVER}?linger_ms=5") == (5, str(AWAY))
        outages.works(SERVER)
        assert outages.lasting(SERVER) is None
        outages.failed("x", AWAY)
        await asyncio.sleep(FORGOTTEN_S + 1)
        assert outages.lasting(SERVER) is None

    said(scene)


def test_an_outage_lasts_until_the_last_one_who_complained_gets_through(said: Said) -> None:
    async def scene(outages: Outages) -> None:
        for _ in range(10):
            outages.failed("egress", AWAY)
            outages.failed("task", AWAY)
            outages.works(SERVER, "ingress")  # has never complained
            outages.works(SERVER, "task")
            await asyncio.sleep(1)
            assert outages.lasting(SERVER) is not None
        away = outages.lasting(SERVER)
        assert away is not None
        assert away[0] == 10, "it didn't begin anew"
        outages.works(SERVER, "egress")
        assert outages.lasting(SERVER) is None

    assert said(scene)[1:] == [f"{SERVER} is back, after 10 s"]


def test_one_who_complained_and_has_gone_holds_nobody_up(said: Said) -> None:
    async def scene(outages: Outages) -> None:
        outages.failed("task that moves away", AWAY)
        outages.failed("task", AWAY)
        await asyncio.sleep(FORGOTTEN_S + 1)
        outages.failed("task", AWAY)
        outages.works(SERVER, "task")
        assert outages.lasting(SERVER) is None

    assert said(scene)[-1] == f"{SERVER} is back, after {FORGOTTEN_S + 1:.0f} s"
