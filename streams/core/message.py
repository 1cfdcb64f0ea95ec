"""One record as it came, for a function of the user's that finds its key.

What must live here: what is shown of a record whose topic says more than a name.  What must not: who shows it
(``operators.source``).
"""

from __future__ import annotations

from dataclasses import dataclass

from streams.core.record import Headers

__all__ = ["Message"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a transport, before it is decoded.

    topic: the MQTT topic or NATS subject that it came on.  key: what it has without a function: the topic, unless its
    sender named one.  value: as it is on the wire, None for a deletion.  timestamp: ms since the epoch.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: Headers = ()

    def header(self, name: str) -> bytes | None:
        """The first header of that name; None where there is none."""
        return next((content for each, content in self.headers if each == name), None)
