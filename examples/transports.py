"""Three transports, one abstraction: readings come by MQTT; hot ones go to JetStream, Kafka and a subject of NATS.

Each topic is named by its URL and is otherwise a topic like any other.  What comes by MQTT is journaled on the app's
log before it is acknowledged; what goes out leaves through an outbox.  In a test nobody needs a broker.

Run it with ``python examples/transports.py``; it prints:

    archived: [('oven', 95.0)]
    kept for a week: [('oven', 95.0)]
    alerts: [('oven', 'oven: 95.0 °C')]
"""

from dataclasses import dataclass

from streams import App
from streams.testing import TestDriver


@dataclass
class Reading:
    sensor: str
    celsius: float


@dataclass
class Alert:
    text: str


def to_alert(reading: Reading) -> Alert:
    return Alert(f"{reading.sensor}: {reading.celsius} °C")


app = App("plant")

plant = "mqtt://broker.local/plant/+/temperature"
readings = app.topic(plant, qos=2, value=Reading, key=lambda m: m.topic.split("/")[1])
alerts = app.topic("nats://localhost/alerts.{key}", value=Alert)  # a subject of core NATS
archive = app.topic("jetstream://localhost/archive", value=Reading)  # a stream of JetStream
history = app.topic("kafka://localhost:9092/history", value=Reading, partitions=12, retention="7d")

hot = app.stream(readings).filter(lambda r: r.celsius > 90)
hot.to(archive)
hot.to(history)
hot.map(to_alert).to(alerts)

if __name__ == "__main__":
    with TestDriver(app) as t:
        t.send(readings, Reading("oven", 95.0), key="plant/oven/temperature")
        t.send(readings, Reading("hall", 20.0), key="plant/hall/temperature")
        print("archived:", [(key, r.celsius) for key, r in t.outputs(archive)])
        print("kept for a week:", [(key, r.celsius) for key, r in t.outputs(history)])
        print("alerts:", [(key, a.text) for key, a in t.outputs(alerts)])
