"""Whether a task is still ours.

What must live here: that question.  What must not: claiming, or what is done then (``driver``, ``delivery``,
``egress``).
"""

from __future__ import annotations

import msgspec

from streams.core.checkpoint import Checkpoint, encode_checkpoint
from streams.core.log import Commit, Log, TaskRef, TaskWriter
from streams.errors import Fenced, PositionLost, TopicRecreated

__all__ = ["FENCED_PAUSE_S", "check_owner", "confirmed"]

FENCED_PAUSE_S = 2.0
"""How long a fenced task waits for the assignment that takes it away, before it claims again."""


async def check_owner(log: Log, task: TaskRef, stored: bytes | None, error: PositionLost | TopicRecreated) -> None:
    """Raise Fenced when the task's checkpoint isn't ``stored``, which was our last: another owner has committed since,
    and what was found is its doing, and right.  Raises LogUnavailable."""
    if await log.checkpoint(task) != stored:
        raise Fenced(f"another owner has claimed the task and gone on with it ({error})") from error


async def confirmed(writer: TaskWriter, checkpoint: Checkpoint) -> Checkpoint:
    """Commit the checkpoint again, which raises Fenced where somebody else has the task by now."""
    again = msgspec.structs.replace(checkpoint, number=checkpoint.number + 1)
    await writer.commit(Commit(encode_checkpoint(again)))
    return again
