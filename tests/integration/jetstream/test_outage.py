"""A nats-server that is away for longer than a session: workers wait for it at low cost, say so, and come back."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.brokers.nats.server import NatsServer
from tests.integration.desk import PATIENCE_S, at_work

WORDCOUNT = Path(__file__).resolve().parents[3] / "examples" / "wordcount.py"
SHARE = 0.2
"""Of a core: the most that a worker may take while it has nothing to do but to wait."""


def url_of(server: NatsServer) -> str:
    return f"{server.url}?session_timeout_ms=2000&request_timeout_ms=1000&ping_interval_ms=500"


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_server_that_is_away_for_longer_than_a_session_is_waited_for(
    nats_own: NatsServer, tmp_path: Path, how: str
) -> None:
    with at_work(WORDCOUNT, url_of(nats_own), tmp_path) as desk:
        desk.send("one two one\n")
        desk.until(lambda: desk.counted() == 3, "three words are counted")
        (nats_own.kill if how == "killed" else nats_own.pause)()
        desk.until(lambda: desk.disconnected(nats_own.url), "it says that it is disconnected")
        desk.until(desk.idle, "its session is over")
        desk.until(lambda: "lost the connection" in desk.said(), "it knows that the server is gone")
        assert desk.share(4.0) < SHARE
        assert desk.disconnected(nats_own.url), "a worker without tasks says so, too"
        (nats_own.start if how == "killed" else nats_own.resume)()
        desk.until(desk.healthy, "it is healthy again")
        desk.send("one\n")
        desk.until(lambda: desk.counted() == 4, "a fourth word is counted")
        desk.process.send_signal(signal.SIGTERM)
        assert desk.process.wait(PATIENCE_S) == 0, desk.said()


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_worker_ends_while_its_server_is_away(nats_own: NatsServer, tmp_path: Path, how: str) -> None:
    with at_work(WORDCOUNT, url_of(nats_own), tmp_path) as desk:
        (nats_own.kill if how == "killed" else nats_own.pause)()
        desk.until(desk.idle, "its session is over")
        desk.process.send_signal(signal.SIGTERM)
        assert desk.process.wait(PATIENCE_S) == 0, desk.said()
        assert "didn't come to an end" not in desk.said()
