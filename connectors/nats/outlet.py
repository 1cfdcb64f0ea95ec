"""Records as messages on a subject.

What must live here: what a record looks like as a message, and that it has reached the server.  What must not: what is
delivered when (``runtime.egress``).
"""

from __future__ import annotations

from streams.connectors.jetstream.client import Connection, above_max_payload
from streams.connectors.jetstream.messages import rows_of
from streams.connectors.nats.subjects import fill
from streams.core.edge import Keep
from streams.core.record import Records
from streams.errors import DataError

__all__ = ["NatsOutlet"]


class NatsOutlet:
    """An ``Outlet``: publishes in order, and waits until the server has it."""

    batch = 1000
    under_way = sent = 0
    keeps_first = False  # at least once is chosen: what a flush hasn't confirmed goes out again
    connected = True
    state = None

    def __init__(self, connection: Connection, template: str) -> None:
        self._connection = connection
        self._template = template

    async def send(self, records: Records, keep: Keep) -> None:
        """Raises LogUnavailable (some of it may be out), DataError for a message that is too large."""
        connection = self._connection
        most = connection.max_payload
        out: list[bytes] = []
        for key, (lines, payload) in zip(records.keys, rows_of(records), strict=True):
            subject = fill(self._template, key)
            head = b"NATS/1.0\r\n%b\r\n" % lines
            if len(head) + len(payload) > most:
                raise DataError(f"{connection.url}: {above_max_payload(subject, len(head) + len(payload), most)}")
            out.append(_message(subject, head, payload))
        await connection.write(b"".join(out))
        await connection.flush()

    async def close(self) -> None:
        """The connection is the edge's."""


def _message(subject: str, head: bytes, payload: bytes) -> bytes:
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), len(head), len(head) + len(payload), head, payload)
