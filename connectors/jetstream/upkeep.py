"""What has done its service on an app's stream: former checkpoints, outputs that their topic has taken in.

What must live here: freeing it, and seeing to it that topics do take in.  What must not: compaction.
"""

from __future__ import annotations

import logging

from streams.connectors.jetstream.api import Api
from streams.connectors.jetstream.names import app_stream, out_filter, pos_subject, token
from streams.connectors.jetstream.topics import Topics
from streams.core.membership import TaskRef

__all__ = ["Upkeep"]

logger = logging.getLogger("streams")

INTERVAL_MS = 20_000


class Upkeep:
    """Frees what isn't needed any more.  An output goes a while after its topic's stream has it: that acknowledges
    before it is on the disk, and would ask for it again after a power failure."""

    def __init__(self, api: Api, topics: Topics) -> None:
        self.written: set[TaskRef] = set()
        """Tasks whose checkpoint was written here since their former ones were freed.  Writers add to it."""
        self._api = api
        self._topics = topics
        self._done_ms = 0
        self._taken: dict[tuple[str, str], int] = {}

    async def run(self, now_ms: int) -> None:
        """Raises LogUnavailable; what wasn't freed by then is freed another time."""
        for topic, _ in list(self._topics.sources):
            stream = await self._api.stream(token(topic))
            if stream is not None:
                await self._topics.stalls.look(stream)
        if now_ms - self._done_ms < INTERVAL_MS:
            return
        self._done_ms = now_ms
        await self._free_checkpoints()
        for topic, group in list(self._topics.sources):
            stream = await self._api.stream(token(topic))
            if stream is None:
                logger.warning(
                    "topic %s is gone; what app %s writes to it waits in stream %s: create the topic again (a worker "
                    "that starts does), or stop writing to it",
                    topic,
                    group,
                    app_stream(group),
                )
            taking = [each for each in (stream or {}).get("sources") or () if each["name"] == app_stream(group)]
            if stream is not None and not taking:
                # Somebody wrote the stream's configuration at the same time as we, or from a file of their own.
                logger.warning("topic %s no longer took in what app %s writes; that is mended", topic, group)
                self._topics.sources.discard((topic, group))
                await self._topics.ensure_source(topic, group)
            for source in taking:
                before, self._taken[topic, group] = self._taken.get((topic, group), 0), source.get("seq", 0)
                if before:
                    await self._api.purge(app_stream(group), out_filter(group, topic), before=before + 1)

    async def _free_checkpoints(self) -> None:
        for task in list(self.written):  # tasks come and commit while the server is waited for
            self.written.discard(task)
            try:
                await self._api.purge(app_stream(task.group), pos_subject(task.group, task.slot), keep=1)
            except BaseException:
                self.written.add(task)
                raise
