"""The edges: transports that can't be read again, and what is asked of a connector for one.

What must live here: protocols and the plain data in their signatures.  What must not: any implementation.

What comes in is **journaled**: an ingress task (``runtime.ingress``) owns a partition of a journal topic on the app's
log, stores what its ``Intake`` receives, and only then lets it acknowledge.  From there on it is read like any topic.

    transport ── receive ──▶ ingress task ── commit {records, the intake's state} ──▶ journal ──▶ tasks
        ▲                                                  │
        └───────────────────── stored ─────────────────────┘

What goes out lies in an outbox.  An egress task (``runtime.egress``) hands it to an ``Outlet``, a batch at a time.  No
position is kept at the other end, so the task's checkpoint has it, and beside it what the outlet needs to go on with a
batch that was under way.

    outbox ──▶ egress task ── send(batch) ──▶ transport
                    ▲              │
                    └─ checkpoint ◀┘ keep(state): the position before this batch, and how far it has got
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from streams.core.capability import Derived
from streams.core.log import TopicSpec
from streams.core.record import Records

__all__ = ["Edge", "Intake", "Keep", "Outlet", "Received"]

Keep = Callable[[bytes], Awaitable[None]]
"""Makes an outlet's state durable, an empty one being none, and where it ``keeps_first`` that the batch may be out;
returns when it is.  Raises Fenced: send nothing more."""


@dataclass(frozen=True, slots=True)
class Received:
    """What has come in.  records: in order, for the journal.  state: what the next owner has to know, in place of what
    was kept before; None leaves that as it is."""

    records: Records
    state: bytes | None = None


class Intake(Protocol):
    """Receives what comes for one partition of a source.  Belongs to one claim; of no use after an error."""

    @property
    def lost(self) -> int:
        """How many messages were dropped, as far as it can know, since it began."""
        ...

    async def receive(self, *, max_records: int, max_bytes: int, wait_s: float) -> Received | None:
        """What has come since the last call; None when nothing has within ``wait_s``.

        Called again once what it handed out last is ``stored``.  ``max_bytes`` may be overrun by a single record.
        Until the transport has answered, what it returns has no records: only states to be kept before that.  May be
        cancelled, at a stop; what has come is handed out all the same, after ``end``.
        Raises RetryableError (open another one), ConfigurationError, DataError.
        """
        ...

    async def stored(self) -> None:
        """Everything that was handed out so far is durable: acknowledge it."""
        ...

    async def end(self) -> None:
        """Let nothing more come.  What has come already is still handed out, until ``receive`` returns None."""
        ...

    async def close(self) -> None: ...


class Outlet(Protocol):
    """Sends the records of one task.  Belongs to one claim; of no use after an error."""

    @property
    def batch(self) -> int:
        """How many records it wants at once, at most."""
        ...

    @property
    def under_way(self) -> int:
        """How many records a former owner has begun to send and not finished: the first batch has to be these."""
        ...

    @property
    def keeps_first(self) -> bool:
        """Nothing goes out twice: ``send`` calls ``keep`` once it is connected and before the first record is out.  For
        what can't tell whether anything arrives; what gets lost from there on isn't sent again."""
        ...

    @property
    def connected(self) -> bool:
        """The transport has answered.  Until then a stop doesn't wait for ``send``."""
        ...

    @property
    def sent(self) -> int:
        """How many records of the last batch, from its first on, needn't be sent again after an error: those that the
        other end surely has, or all that went out where it ``keeps_first``.  Of no meaning while a state of the batch
        is kept."""
        ...

    @property
    def state(self) -> bytes | None:
        """What to keep while no batch is under way, with the position behind the last one; None for nothing."""
        ...

    async def send(self, records: Records, keep: Keep) -> None:
        """Send a batch; returns when the other end has it, as surely as the transport can tell.

        May be cancelled at any await.  Raises RetryableError (some of it may be out), ConfigurationError, DataError.
        """
        ...

    async def close(self) -> None: ...


class Edge(Protocol):
    """A transport at a location."""

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        ...

    def guarantee(self, *, written: bool) -> Derived:
        """What holds between the transport and the journal, or between the outbox and the transport."""
        ...

    async def open(self) -> None:
        """Connect.  Raises LogUnavailable, ConfigurationError."""
        ...

    async def close(self) -> None: ...

    def check(self, topic: TopicSpec, *, written: bool) -> None:
        """Raise ConfigurationError for an address that can't be read, or written."""
        ...

    async def intake(self, source: TopicSpec, group: str, partition: int, state: bytes | None) -> Intake:
        """Begin to receive for a partition of ``source``.  state: what the last owner left.  group: names the log, the
        app and the source, the same in each of its workers; that of the same app on another log is another one.
        Raises RetryableError, ConfigurationError."""
        ...

    async def outlet(self, target: TopicSpec, group: str, partition: int, state: bytes | None) -> Outlet:
        """What sends a partition of the outbox of ``target``.  Parameters and errors as of ``intake``."""
        ...
