"""An MQTT broker that is away: workers wait for it at low cost, say so, and come back."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.brokers.mqtt.server import Mosquitto
from tests.integration.desk import PATIENCE_S, at_work

SHARE = 0.2
"""Of a core: the most that a worker may take while it has nothing to do but to wait."""

APP = """
from streams import App

app = App("bridge")
heard = app.topic("{url}/in/+?keep_alive_s=1&answer_timeout_s=1", value=bytes)
app.stream(heard).to("kept")
"""


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_broker_that_is_away_is_waited_for_and_named(own_mosquitto: Mosquitto, tmp_path: Path, how: str) -> None:
    app = tmp_path / "bridge_app.py"
    app.write_text(APP.format(url=own_mosquitto.url))

    def leave() -> None:
        (own_mosquitto.kill if how == "killed" else own_mosquitto.pause)()

    with at_work(app, f"embedded:{tmp_path / 'log'}", tmp_path) as desk:
        desk.until(lambda: "receiving" in desk.get("/health")[1]["tasks"].values(), "it receives")
        leave()
        desk.until(lambda: desk.disconnected(own_mosquitto.url), "it says that it is disconnected")
        assert desk.share(4.0) < SHARE
        assert desk.disconnected(own_mosquitto.url), "it says so for as long as that lasts"
        (own_mosquitto.start if how == "killed" else own_mosquitto.resume)()
        desk.until(desk.healthy, "it is healthy again")
        assert "receiving" in desk.get("/health")[1]["tasks"].values()
        leave()
        desk.until(lambda: desk.disconnected(own_mosquitto.url), "it says that it is disconnected, again")
        desk.process.send_signal(signal.SIGTERM)
        assert desk.process.wait(PATIENCE_S) == 0, desk.said()
        assert "didn't come to an end" not in desk.said()
