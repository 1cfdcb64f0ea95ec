"""Any log as a sink for apps on another log, unless it has sinks of its own.

The delivered position is kept at the target, as the checkpoint of the delivery task, and moves in the same fenced
commit as the records: so a delivery that is repeated finds out, and one by a stale owner is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from streams.core.capability import Capabilities
from streams.core.log import Append, Commit, Log, Sink, TaskRef, TaskWriter

__all__ = ["HasSinks", "LogSink", "LogSinkWriter", "sink_on"]


@runtime_checkable
class HasSinks(Protocol):
    """A foreign log that nobody can commit on, but that can be delivered to."""

    def sink(self, topic: str) -> Sink:
        """What delivers to a topic, which ``create_topics`` has seen to before."""
        ...


def sink_on(log: Log | HasSinks, topic: str) -> Sink:
    """What delivers to a topic of an opened log."""
    return log.sink(topic) if isinstance(log, HasSinks) else LogSink(log)


class LogSink:
    """A sink that delivers to an opened log."""

    def __init__(self, log: Log) -> None:
        self._log = log

    @property
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(self._log.capabilities, delivered_position=True)

    async def fence(self, task: TaskRef) -> LogSinkWriter:
        return LogSinkWriter(await self._log.fence(task))


class LogSinkWriter:
    """The right to deliver for one task."""

    def __init__(self, writer: TaskWriter) -> None:
        self._writer = writer

    @property
    def delivered(self) -> bytes | None:
        return self._writer.checkpoint

    async def deliver(self, appends: Sequence[Append], delivered: bytes) -> None:
        await self._writer.commit(Commit(delivered, appends))

    async def close(self) -> None:
        await self._writer.close()
