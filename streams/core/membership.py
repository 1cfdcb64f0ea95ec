"""A worker's place among the workers of its app: who should run which task.

What must live here: the protocol and the plain data in its signatures.  What must not: how workers find each other
(a connector), how tasks are divided (``core.assignment``), how they are run (``runtime.worker``).

Advice only.  What keeps a task safe is the fence in its commits: the log refuses a worker that acts on old advice.

    assignments() ──▶ Assignment ──▶ the worker starts and stops tasks ──▶ report(held, ready) ──▶ assignments() …
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class TaskRef(NamedTuple):
    """Names a task on a log.

    group: the app that it belongs to (for a delivery, at its target, the outbox).  slot: its number within the group,
    never given to another task: a log may keep the checkpoint of each slot in a place of its own, so that it has one
    writer.  name: the same for ever, and unique on the log.
    """

    group: str
    slot: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Member:
    """What a worker says of itself when it joins.

    name: the same after a restart, so that a worker which comes back soon finds its tasks again; "" makes one up.
    version, fingerprint: of the topology that it runs.  Members that differ share no tasks.
    address: ``host:port`` where it answers other workers; "" for nowhere.
    stored: tasks whose state lies on its disk from a former life.
    """

    name: str = ""
    version: int = 1
    fingerprint: str = ""
    address: str = ""
    stored: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Assignment:
    """What this worker should do from now on.

    active: the tasks to run.  standby: tasks whose state to follow, without running them.
    addresses: by task, where the worker that runs it answers; tasks of workers without an address are missing.
    """

    active: frozenset[str] = frozenset()
    standby: frozenset[str] = frozenset()
    addresses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be divided.  stateful: names of the tasks that keep state.  standbys: followers of each of those."""

    tasks: Sequence[TaskRef]
    stateful: frozenset[str] = frozenset()
    standbys: int = 0


@dataclass(frozen=True, slots=True)
class OutOfTouch:
    """A worker isn't heard as a member by its log.

    server: whose answers it misses, as a person knows it, without secrets.  since_s: by ``time.monotonic``, when the
    first request that wasn't answered was sent.  why: what was seen last, in a few words.  out: its session is over, so
    that others may have its tasks: that it has none left isn't how it should be.
    """

    server: str
    since_s: float
    why: str
    out: bool = False


class Membership(Protocol):
    """A worker's membership, from the first assignment on.  Each of a log that many workers share passes
    ``streams.testing`` MembershipContract."""

    def assignments(self) -> AsyncIterator[Assignment]:
        """What to do, each time that it changes; an empty one as soon as the worker knows that it is no longer a
        member.  Joins at the first step.  Raises ConfigurationError, LogUnavailable."""
        ...

    def report(self, held: Collection[str], ready: Collection[str]) -> None:
        """Tell the others what this worker runs now, and of which tasks it has the state, up to date or nearly.

        Called after each change.  Doesn't block.  A task that was taken away is given to its next owner only when
        its former one no longer reports it, so that it has committed by then.
        """
        ...

    def out_of_touch(self) -> OutOfTouch | None:
        """Whether the log has stopped to answer this member; None while it answers.

        It says so from the first request without an answer until the worker is heard as a member again: after that the
        assignment is a right one.  A membership that sends requests at a beat notices a server that stands still after
        a beat, not only when the request times out.  Doesn't block and sends nothing: health asks, also in an outage.
        """
        ...

    async def close(self) -> None:
        """Leave, so that the others take over at once.  Called when every task has been released."""
        ...
