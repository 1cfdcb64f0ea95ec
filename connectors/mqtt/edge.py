"""An MQTT broker as an edge: topics that are subscribed to and published on.

What must live here: what each quality of service promises, and which client ids there are.  What must not: receiving
(``intake``), sending (``outlet``).

Each partition of a source, and each of an outbox, is a client of its own, whose id never changes: the broker keeps its
session while nobody is connected, and whoever takes the task over resumes it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from uuid import uuid4

from streams.connectors.mqtt.connection import Connection
from streams.connectors.mqtt.intake import MqttIntake
from streams.connectors.mqtt.outlet import MqttOutlet
from streams.connectors.mqtt.place import check_filters, check_template, parse_location
from streams.core.capability import Derived, Guarantee
from streams.core.log import TopicSpec
from streams.errors import ServiceUnavailable

__all__ = ["MqttEdge"]

logger = logging.getLogger("streams")

IN = {
    0: Derived(Guarantee.AT_MOST_ONCE, "QoS 0: what is sent while nobody listens, or gets lost, is not seen"),
    1: Derived(
        Guarantee.EXACTLY_ONCE,
        "QoS 1: journaled, then acknowledged; what comes again is known by its packet id, where the broker's ids go "
        "round (mosquitto, NATS) or payloads differ, and as long as it keeps the session",
    ),
    2: Derived(
        Guarantee.EXACTLY_ONCE,
        "QoS 2: journaled with its packet id, then acknowledged, as long as the broker keeps the session",
    ),
}
OUT = {
    0: Derived(Guarantee.AT_MOST_ONCE, "outbox; QoS 0: nothing goes out twice, and what is under way may get lost"),
    1: Derived(Guarantee.AT_LEAST_ONCE, "outbox; QoS 1: what wasn't acknowledged is published again"),
    2: Derived(
        Guarantee.EXACTLY_ONCE,
        "outbox; QoS 2: packet ids are committed before, and the handshake is resumed, as long as the broker keeps the "
        "session",
    ),
}


class MqttEdge:
    """An ``Edge``.

    sessions_lost: how often a broker had lost a session of ours, as far as this worker has seen.
    """

    def __init__(self, url: str) -> None:
        self._place = parse_location(url)
        self.url = self._place.config.shown
        self.sessions_lost = 0

    async def open(self) -> None:
        """See that the broker lets us in.  One that can't be reached now is waited for later, by who needs it:
        what goes out lies in the outbox until then.  Raises Refused and other ConfigurationErrors."""
        config = self._place.config
        try:
            name = self._named(f"streams-{uuid4().hex[:14]}")
            probe = await Connection.open(config, config.session(name, clean_start=True))
        except ServiceUnavailable as error:
            logger.warning("%s; it is tried again", error)
            return
        await probe.close()

    async def close(self) -> None:
        """Connections belong to intakes and outlets."""

    def guarantee(self, *, written: bool) -> Derived:
        return (OUT if written else IN)[self._place.qos]

    def check(self, topic: TopicSpec, *, written: bool) -> None:
        if written:
            check_template(topic.address)
        else:
            check_filters(topic.address)

    async def intake(self, source: TopicSpec, group: str, partition: int, state: bytes | None) -> MqttIntake:
        # Several share the messages out among them; each keeps its share while it is away.
        share = f"$share/{self._named(group)}/" if source.partitions > 1 else ""
        wanted = {share + each: self._place.qos for each in check_filters(source.address)}
        return MqttIntake(self._place, f"{self._named(group)}-{partition}", wanted, state, self._lost)

    async def outlet(self, target: TopicSpec, group: str, partition: int, state: bytes | None) -> MqttOutlet:
        return MqttOutlet(self._place, f"{self._named(group)}-{partition}", target.address, state, self._lost)

    def _named(self, group: str) -> str:
        return f"{self._place.client_id}.{group}" if self._place.client_id else group

    def counters(self) -> Mapping[str, tuple[str, int]]:
        text = "Sessions that the broker had lost, with what was sent meanwhile."
        return {"streams_mqtt_sessions_lost": (text, self.sessions_lost)}

    def _lost(self) -> None:
        self.sessions_lost += 1
