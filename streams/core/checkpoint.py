"""Checkpoints: what a commit leaves for the next owner of a task.

What must live here: the checkpoint's contents, the claim, and the identity of commits, as pure functions.  What must
not: reading or writing one.

A claim is a commit without effects: {epoch + 1, the same positions}.  The history names, for the latest epochs, the
number of the first commit that each made: a store whose last commit isn't in it belongs to a log that lost its tail
(protocol 7).
"""

from __future__ import annotations

from typing import Any

import msgspec

from streams.core.batch import NEVER
from streams.core.record import Position, TopicPartition
from streams.core.watermark import InputState
from streams.errors import TopologyChanged

HISTORY = 64
"""How many epochs a checkpoint remembers; a store older than that is rebuilt."""


class Checkpoint(msgspec.Struct, frozen=True):
    """What a task goes on from.

    log_id, epoch, number: the identity of the commit that wrote it.
    history: (epoch, number of its first commit), the oldest first.  claims: for each of them what makes it unlike any
    other of the same epoch: after a lost tail the log may count the same epoch again.
    topology: version of the topology record under which it was written.
    positions: by "topic/partition", where reading goes on.  topics: topic → identity when first read.
    watermark: how far event time has come.  advancing: the watermark that closings in progress lead to, or None.
    inputs: by "topic/partition", the watermark state of each input.
    facts: small values of operators that belong to the task and not to a key (ticks of a timer), by name.
    """

    log_id: str
    epoch: int = 0
    number: int = 0
    history: tuple[tuple[int, int], ...] = ()
    claims: tuple[str, ...] = ()
    topology: int = 1
    positions: dict[str, Position] = {}
    topics: dict[str, str] = {}
    watermark: int = NEVER
    advancing: int | None = None
    inputs: dict[str, InputState] = {}
    facts: dict[str, Any] = {}

    def position(self, partition: TopicPartition) -> Position | None:
        return self.positions.get(partition_key(partition))

    @property
    def claim(self) -> str:
        """What the current owner's claim was called."""
        return self.claims[-1] if self.claims else ""

    def made(self, epoch: int, number: int, claim: str = "") -> bool:
        """True when commit ``number`` of ``epoch``, under ``claim``, is this checkpoint's or an ancestor of it."""
        for index, (made_epoch, first) in enumerate(self.history):
            if made_epoch == epoch:
                later = self.history[index + 1 :]
                last = later[0][1] - 1 if later else self.number
                same_claim = not claim or not self.claims or self.claims[index - len(self.history)] == claim
                return same_claim and first <= number <= last
        return False


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Checkpoint)


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    return _encoder.encode(checkpoint)


def decode_checkpoint(stored: bytes) -> Checkpoint:
    return _decoder.decode(stored)


def partition_key(partition: TopicPartition) -> str:
    """How a partition is named inside a checkpoint.  Topic names hold no slash."""
    return f"{partition.topic}/{partition.partition}"


def claimed(
    previous: Checkpoint | None, *, log_id: str, topology: int, claim: str = "", history: int = HISTORY
) -> Checkpoint:
    """The checkpoint that a claim commits: the next epoch, and everything else as the last owner left it.

    ``claim`` is a random name for it, a fact given by the runtime.  history: how many claims it knows at most.
    Raises TopologyChanged when a newer version of the app has owned the task: it was fenced, and is left alone.
    """
    if previous is None:
        return Checkpoint(log_id=log_id, epoch=1, number=1, history=((1, 1),), claims=(claim,), topology=topology)
    if previous.topology > topology:
        raise TopologyChanged(
            f"version {previous.topology} of the app has taken over, and this worker runs version {topology}; stop "
            f"it, or deploy the newer code"
        )
    epoch, number = previous.epoch + 1, previous.number + 1
    known = (*previous.history, (epoch, number))[-history:]
    claims = (*previous.claims, claim)[-history:]
    return msgspec.structs.replace(
        previous, log_id=log_id, epoch=epoch, number=number, history=known, claims=claims, topology=topology
    )
