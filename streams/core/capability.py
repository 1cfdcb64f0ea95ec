"""What a connector can do, and the guarantee that follows.

What must live here: the facts that a connector declares and the rules that derive a guarantee from them.
What must not: any connector.  The guarantee of an edge is computed from declared capabilities, never claimed;
asking for more than can be had raises and names the capability that is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from streams.errors import GuaranteeError

GuaranteeName = Literal["exactly_once", "at_least_once"]


class Guarantee(Enum):
    """How often the effects of one record are seen, in order of strength."""

    AT_MOST_ONCE = "at most once"
    AT_LEAST_ONCE = "at least once"
    EXACTLY_ONCE = "exactly once"


class Durability(Enum):
    """What an acknowledgement survives."""

    PROCESS = "the process"
    POWER = "power failure"
    NONE = "nothing"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a log, source or sink declares of itself.  Each field is a promise that its contract suite checks.

    replayable: records can be read again from a position.
    ordered: records of a partition come in one order, the same at each reading.
    durable: what an acknowledged write survives.
    transactional: outputs, changelog and checkpoint are committed as one.
    fences: a claim makes every later write of the former owner fail.
    deduplicates: for how long a repeated write is recognised: never, within a window, or for ever.
    resumes_handshake: a delivery that was cut off goes on where it stood (MQTT QoS 2).
    delivered_position: the target says up to where it has been written.
    detects_recreation: a topic that was deleted and created again is told from the old one.
    expires_by_timestamp: retention goes by the records' own timestamps, and not by when they were appended.
    """

    replayable: bool = False
    ordered: bool = False
    durable: Durability = Durability.NONE
    transactional: bool = False
    fences: bool = False
    deduplicates: Literal["never", "window", "forever"] = "never"
    resumes_handshake: bool = False
    delivered_position: bool = False
    detects_recreation: bool = False
    expires_by_timestamp: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest writes that a log takes.  The runtime commits earlier rather than meet one of the first two.

    max_commit_records: records of topics in one commit.  What a single record expands to may still be above it; the log
    packs it into blocks then.
    max_packed_records: on a log where only records of users' topics count towards the former, and internal ones go
    packed: how many of these.  None: they count as the others do.
    max_commit_bytes: bytes of keys and values in one commit.
    max_record_bytes: bytes of one record's key, value and headers.
    tombstones_kept_ms: for how long a compacted topic keeps deletes, on a log that can't tell up to which position they
    are gone (``Log.compaction_floor``); None on one that can.
    """

    max_commit_records: int = 200_000
    max_packed_records: int | None = None
    max_commit_bytes: int = 64 * 2**20
    max_record_bytes: int = 16 * 2**20
    tombstones_kept_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Derived:
    """The guarantee of one edge and the reason in words."""

    guarantee: Guarantee
    why: str


def derive_source(capabilities: Capabilities) -> Derived:
    """The guarantee of reading: from a source into the app's commit."""
    if not capabilities.replayable:
        return Derived(Guarantee.AT_MOST_ONCE, "not replayable: what arrives while no worker runs is not seen")
    if not capabilities.ordered:
        return Derived(Guarantee.AT_LEAST_ONCE, "replayable, but not in a fixed order")
    return Derived(Guarantee.EXACTLY_ONCE, "read from a position that is committed with the effects")


def derive_commit(capabilities: Capabilities, asked: GuaranteeName) -> Derived:
    """The guarantee of writing on the app's own log."""
    if not capabilities.transactional:
        return Derived(Guarantee.AT_LEAST_ONCE, "not transactional: outputs and positions are written one by one")
    if not capabilities.fences:
        return Derived(Guarantee.AT_LEAST_ONCE, "no fencing: a stale owner can still write")
    if asked == "at_least_once":
        return Derived(Guarantee.AT_LEAST_ONCE, "by choice: outputs leave as they are computed and may repeat")
    return Derived(Guarantee.EXACTLY_ONCE, "outputs, changelog and positions in one fenced commit")


def derive_sink(capabilities: Capabilities) -> Derived:
    """The guarantee of delivering from the outbox to a target outside the app's log."""
    if capabilities.transactional and capabilities.fences and capabilities.delivered_position:
        return Derived(Guarantee.EXACTLY_ONCE, "outbox; records and delivered position in one fenced write")
    if capabilities.resumes_handshake:
        return Derived(Guarantee.EXACTLY_ONCE, "outbox; the hand-over is resumed where it stood")
    if capabilities.deduplicates == "forever":
        return Derived(Guarantee.EXACTLY_ONCE, "outbox; the target recognises a repeated write")
    if capabilities.deduplicates == "window":
        return Derived(Guarantee.AT_LEAST_ONCE, "outbox; a repeat is recognised only within the target's time window")
    return Derived(Guarantee.AT_LEAST_ONCE, "outbox; the target doesn't recognise a repeated write")


def require(asked: GuaranteeName, edge: str, derived: Derived) -> None:
    """Raise ``GuaranteeError`` when an edge can't give what the app asks for."""
    if asked == "exactly_once" and derived.guarantee is not Guarantee.EXACTLY_ONCE:
        raise GuaranteeError(
            f"{edge}: exactly once can't be had ({derived.why}); choose guarantee='at_least_once' for the app, "
            f"or another connector"
        )
