"""Core NATS as an edge: subjects that are listened to and written, without JetStream.

What must live here: the connection that a location has, and what this transport can do.  What must not: receiving
(``intake``), sending (``outlet``).

NATS keeps nothing: who doesn't listen doesn't hear.  What has come is journaled; a message that goes out is confirmed
to have reached the server, and not that anybody listened.
"""

from __future__ import annotations

from streams.connectors.jetstream.client import Connection
from streams.connectors.jetstream.config import parse_url
from streams.connectors.nats.intake import NatsIntake
from streams.connectors.nats.outlet import NatsOutlet
from streams.connectors.nats.subjects import check_filter, check_template
from streams.core.capability import Derived, Guarantee
from streams.core.log import TopicSpec

__all__ = ["NatsEdge"]


class NatsEdge:
    """An ``Edge``.  One connection for everything at a location."""

    def __init__(self, url: str) -> None:
        config = parse_url(url)
        self.url = config.shown
        self._connection = Connection(self.url, config.client, timeout_s=config.request_timeout_ms / 1000)

    def guarantee(self, *, written: bool) -> Derived:
        if written:
            return Derived(Guarantee.AT_LEAST_ONCE, "outbox; the server has each message, and after a crash some twice")
        why = "at most once up to the journal: what is sent while nobody listens is not seen"
        return Derived(Guarantee.AT_MOST_ONCE, why)

    async def open(self) -> None:
        await self._connection.open()

    async def close(self) -> None:
        await self._connection.close()

    def check(self, topic: TopicSpec, *, written: bool) -> None:
        if written:
            check_template(topic.address)
        else:
            check_filter(topic.address)

    async def intake(self, source: TopicSpec, group: str, partition: int, state: bytes | None) -> NatsIntake:
        made = NatsIntake(self._connection)
        # Several share the messages out among them; one by itself needs no queue, and hears what its forerunner, which
        # may still be there, hears as well.
        await made.open(source.address, group if source.partitions > 1 else "")
        return made

    async def outlet(self, target: TopicSpec, group: str, partition: int, state: bytes | None) -> NatsOutlet:
        return NatsOutlet(self._connection, target.address)
