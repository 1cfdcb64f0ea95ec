"""Endpoints: where an agent answers whoever asks it over a transport, and what is promised there.

What must live here: an endpoint as declared, protocols, the promise in words.  What must not: any transport
(``connectors``), what becomes of a request (``runtime.serving``).

    client ── request ──▶ Service ── Call ──▶ inbox on the log ──▶ agent ── commit ──▶ Call.answer ──▶ client
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from streams.core.capability import Derived, Guarantee
from streams.core.urls import without_secrets
from streams.errors import ConfigurationError

__all__ = [
    "BAD_REQUEST",
    "BUSY",
    "FAILED",
    "TOO_LATE",
    "UNAVAILABLE",
    "Call",
    "Endpoint",
    "Service",
    "Take",
    "promises",
]

# Codes of errors, with the meaning that they have in HTTP.
BAD_REQUEST, BUSY, FAILED, UNAVAILABLE, TOO_LATE = 400, 429, 500, 503, 504

_KEY = "{key}"
_FIELD = re.compile(r"\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an agent answers.

    agent: its name.  server: the URL of the transport, with its settings.  address: where on it, with ``{key}`` for the
    word that is the request's key.  timeout_ms: for how long an answer is waited for.  pending: how many requests a
    worker has under way at once.
    """

    agent: str
    server: str
    address: str
    timeout_ms: int
    pending: int

    @classmethod
    def at(cls, agent: str, url: str, *, timeout_ms: int, pending: int) -> Endpoint:
        """An endpoint from ``<scheme>://[<user>@]<host>/<address>[?<settings>]``.  Raises ConfigurationError."""
        shown = without_secrets(url)
        scheme, mark, rest = url.partition("://")
        location, question, query = rest.partition("?")
        userinfo, at, place = location.rpartition("@")
        host, _, address = place.partition("/")
        if not (scheme and mark and host and address):
            raise ConfigurationError(
                f"agent {agent}: {shown!r} is no place to answer at; write nats://<host>:<port>/<subject>"
            )
        words = address.split(".")
        fields = _FIELD.findall(address)
        if fields not in ([], [_KEY]) or (fields and _KEY not in words):
            raise ConfigurationError(
                f"agent {agent}: {address!r}: {{key}} may stand for one whole word between dots, once"
            )
        if pending < 1 or timeout_ms < 1:
            raise ConfigurationError(f"agent {agent}: timeout and pending are more than 0")
        return cls(agent, f"{scheme}://{userinfo}{at}{host}{question}{query}", address, timeout_ms, pending)

    @property
    def shown(self) -> str:
        """Where it is, without secrets and settings."""
        server = without_secrets(self.server).partition("?")[0]
        scheme, _, place = server.partition("://")
        return f"{scheme}://{place.rpartition('@')[2]}/{self.address}"

    @property
    def pattern(self) -> str:
        """The address with a wildcard for the key."""
        return ".".join("*" if word == _KEY else word for word in self.address.split("."))

    def key_in(self, address: str) -> str | None:
        """The key in the address of a request; None where it has no place there."""
        words = self.address.split(".")
        return address.split(".")[words.index(_KEY)] if _KEY in words else None


class Call(Protocol):
    """A request as it came.  It is answered or refused once; neither blocks, nor fails where nobody waits."""

    @property
    def address(self) -> str: ...

    @property
    def payload(self) -> bytes: ...

    @property
    def waited_for(self) -> bool:
        """Whether it says where an answer would go."""
        ...

    def header(self, name: str) -> str | None:
        """Raises ValueError for one that is no text."""
        ...

    def answer(self, body: bytes) -> None: ...

    def refuse(self, code: int, why: str) -> None: ...


Take = Callable[[Endpoint, Call], None]


class Service(Protocol):
    """The endpoints of an app at one server.  A connection that is lost is made again, and listened on again."""

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        ...

    @property
    def slow(self) -> int:
        """How often the connection was lost while this process was behind with reading."""
        ...

    async def open(self, endpoints: Sequence[Endpoint], take: Take) -> None:
        """Listen; ``take`` gets each request, must not block.  Of all workers of the app one gets it.

        Raises LogUnavailable (try again), ConfigurationError.
        """
        ...

    async def end(self) -> None:
        """Listen no more.  When it returns, ``take`` has had everything that the server had sent to this worker."""
        ...

    async def close(self) -> None:
        """Send what is answered, and leave."""
        ...


def promises(remembered: int) -> list[tuple[str, Derived]]:
    """What a request may count on, by how it comes.  remembered: of how many a task knows the answer."""
    return [
        (
            "asked again under its id",
            Derived(
                Guarantee.EXACTLY_ONCE,
                f"where the client asks again with the same Nats-Msg-Id until it is answered: the effect is there "
                f"once, the answer is the same (a task remembers its last {remembered})",
            ),
        ),
        (
            "asked once",
            Derived(
                Guarantee.AT_MOST_ONCE,
                "no journal before the inbox: a request may be lost on its way; one that is answered is committed",
            ),
        ),
    ]
