"""Records as messages on a subject.

What must live here: what a record looks like as a message, and that it has reached the server.  What must not: what is
delivered when (``runtime.delivery``).
"""

from __future__ import annotations

from collections.abc import Sequence

from streams.connectors.jetstream.client import Connection
from streams.connectors.jetstream.messages import rows_of
from streams.connectors.nats.subjects import fill
from streams.core.capability import Capabilities
from streams.core.log import Append, TaskRef
from streams.errors import DataError

__all__ = ["NatsOutlet"]


class NatsOutlet:
    """A ``Sink`` without a memory: whoever delivers keeps the position."""

    def __init__(self, connection: Connection, template: str) -> None:
        self._connection = connection
        self._template = template

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    async def fence(self, task: TaskRef) -> NatsOutletWriter:
        return NatsOutletWriter(self._connection, self._template)


class NatsOutletWriter:
    """Publishes in order, and waits until the server has it."""

    def __init__(self, connection: Connection, template: str) -> None:
        self._connection = connection
        self._template = template

    @property
    def delivered(self) -> bytes | None:
        return None

    async def deliver(self, appends: Sequence[Append], delivered: bytes) -> None:
        """Raises LogUnavailable (some of it may be out), DataError for a message that is too large."""
        connection = self._connection
        most = connection.server.get("max_payload", 2**20)
        out: list[bytes] = []
        for append in appends:
            for row, message in enumerate(rows_of(append.records)):
                subject = fill(self._template, append.records.keys[row])
                lines, payload = message
                if len(lines) + len(payload) > most:
                    raise DataError(
                        f"{connection.url}: {subject}: a message of {len(payload)} bytes, and the server takes {most} "
                        f"(max_payload)"
                    )
                out.append(_message(subject, lines, payload))
        await connection.write(b"".join(out))
        await connection.flush()

    async def close(self) -> None:
        """The connection is the edge's."""


def _message(subject: str, lines: bytes, payload: bytes) -> bytes:
    head = b"NATS/1.0\r\n%b\r\n" % lines
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), len(head), len(head) + len(payload), head, payload)
