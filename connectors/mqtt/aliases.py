"""Topic aliases of MQTT 5: a number in place of a topic, for one connection and one direction (section 3.3.2.3.4).

What must live here: which number stands for which topic.  What must not: anything that outlives the connection.
"""

from __future__ import annotations

from streams.connectors.mqtt.encoder import encode_publish, publish_bytes
from streams.connectors.mqtt.errors import ProtocolError
from streams.connectors.mqtt.packets import MQTT_5, Publish
from streams.connectors.mqtt.properties import write_properties
from streams.connectors.mqtt.reasons import Reason

__all__ = ["AliasesIn", "AliasesOut"]

_LONGER = 5  # bytes, by an alias


class AliasesIn:
    """The broker's."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._topics: dict[int, str] = {}

    def resolve(self, packet: Publish) -> None:
        """Give the message its topic, and take the alias off it.  Raises ProtocolError."""
        alias = packet.properties.pop("topic_alias")
        if not 0 < alias <= self._maximum:
            raise ProtocolError(f"PUBLISH with topic alias {alias} of {self._maximum}", Reason.TOPIC_ALIAS_INVALID)
        if packet.topic:
            self._topics[alias] = packet.topic
        elif alias in self._topics:
            packet.topic = self._topics[alias]
        else:
            raise ProtocolError(f"PUBLISH with topic alias {alias}, which stands for nothing yet")


class AliasesOut:
    """Ours.  When all are in use, the one given out longest ago takes on the next topic."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._aliases: dict[str, int] = {}

    def encode(self, packet: Publish, most_bytes: int) -> bytes:
        """The message as it is to be sent, without an alias where only so it isn't too long.  Raises Unsendable."""
        alias, raw = self._aliases.get(packet.topic), b""
        if alias is None:
            wire = encode_publish(packet, MQTT_5)
            if len(wire) + _LONGER > most_bytes:
                return wire
            alias, raw = self._given_to(packet.topic), packet.topic.encode()
        if packet.properties:
            properties = write_properties({**packet.properties, "topic_alias": alias}, "p")
        else:
            properties = b"\x03\x23" + alias.to_bytes(2, "big")
        wire = publish_bytes(packet, raw, properties)
        return wire if len(wire) <= most_bytes else encode_publish(packet, MQTT_5)

    def _given_to(self, topic: str) -> int:
        alias = len(self._aliases) + 1
        if alias > self._maximum:
            alias = self._aliases.pop(next(iter(self._aliases)))
        self._aliases[topic] = alias
        return alias
