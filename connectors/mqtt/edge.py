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
from streams.connectors.mqtt.errors import Refused
from streams.connectors.mqtt.events import Connected
from streams.connectors.mqtt.intake import MqttIntake
from streams.connectors.mqtt.outlet import MqttOutlet
from streams.connectors.mqtt.place import check_filters, check_template, parse_location
from streams.connectors.mqtt.reasons import Reason
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
        "round (mosquitto, NATS) or payloads differ, and as long as it keeps the session; what its sender publishes at "
        "QoS 0 comes at that",
    ),
    2: Derived(
        Guarantee.EXACTLY_ONCE,
        "QoS 2: journaled with its packet id, then acknowledged, as long as the broker keeps the session; what its "
        "sender publishes at a lower QoS comes at that",
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

    sessions_lost: how often a broker had lost a session of ours, or may have, as far as this worker has seen.
    """

    def __init__(self, url: str) -> None:
        self._place = parse_location(url)
        self.url = self._place.config.shown
        self.sessions_lost = 0
        self._overruns = 0  # of connections that were followed by another one
        self._connections: dict[str, Connection] = {}
        self._said_expiry = False

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
        try:
            self._check(probe.connected)
        finally:
            await probe.close()

    def _check(self, broker: Connected) -> None:
        """Raises Refused if it can't do what the URL asks for: else the first message would find out."""
        if broker.maximum_qos < self._place.qos:
            raise Refused(
                f"{self.url}: the broker takes messages up to QoS {broker.maximum_qos} only; write "
                f"qos={broker.maximum_qos}, and `streams explain` says what holds then",
                Reason.QOS_NOT_SUPPORTED,
            )
        if self._place.retain and not broker.retain_available:
            raise Refused(f"{self.url}: the broker retains no messages; leave out retain", Reason.RETAIN_NOT_SUPPORTED)

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
        return MqttIntake(self._place, f"{self._named(group)}-{partition}", wanted, state, self._lost, self._connected)

    async def outlet(self, target: TopicSpec, group: str, partition: int, state: bytes | None) -> MqttOutlet:
        name = f"{self._named(group)}-{partition}"
        return MqttOutlet(self._place, name, target.address, state, self._lost, self._connected)

    def _named(self, group: str) -> str:
        return f"{self._place.client_id}.{group}" if self._place.client_id else group

    def counters(self) -> Mapping[str, tuple[str, int]]:
        lost = "Sessions that the broker had lost, or may have, with what was sent meanwhile."
        overruns = "Messages that a broker sent although as many as receive_maximum weren't acknowledged yet."
        counted = self._overruns + sum(each.overruns for each in self._connections.values())
        return {
            "streams_mqtt_sessions_lost": (lost, self.sessions_lost),
            "streams_mqtt_overruns": (overruns, counted),
        }

    def _lost(self) -> None:
        self.sessions_lost += 1

    def _connected(self, client_id: str, connection: Connection) -> None:
        """Told of each connection whose session is to be kept."""
        if client_id in self._connections:
            self._overruns += self._connections[client_id].overruns
        self._connections[client_id] = connection
        kept_s, wanted_s = connection.connected.session_expiry_s, self._place.config.session_expiry_s
        if kept_s < wanted_s and not self._said_expiry:
            self._said_expiry = True
            logger.warning(
                "%s: the broker keeps sessions for %d s, not for session_expiry_s=%d: what waits there while no worker "
                "runs is lost after that; have it keep them for longer",
                self.url,
                kept_s,
                wanted_s,
            )
