"""An app from MQTT to MQTT, for test_kill.py.  BROKER: mqtt://host:port.  SETTINGS: qos and version."""

from __future__ import annotations

import os

from streams import App

BROKER = os.environ.get("BROKER", "mqtt://localhost")
SETTINGS = os.environ.get("SETTINGS", "qos=2")

app = App("relay", partitions=1)
numbers = app.stream(app.topic(f"{BROKER}/in/+?{SETTINGS}", value=int))
numbers.to("seen")
numbers.to(app.topic(f"{BROKER}/out?{SETTINGS}", value=int))
