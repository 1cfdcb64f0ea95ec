"""What has done its service on an app's stream: former checkpoints, outputs that their topic has taken in.

What must live here: freeing it.  What must not: compaction.
"""

from __future__ import annotations

from streams.connectors.jetstream.api import Api
from streams.connectors.jetstream.names import app_stream, out_filter, pos_subject, token
from streams.core.membership import TaskRef

__all__ = ["Upkeep"]

INTERVAL_MS = 20_000


class Upkeep:
    """Frees what isn't needed any more.  An output goes a while after its topic's stream has it: that acknowledges
    before it is on the disk, and would ask for it again after a power failure."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._done_ms = 0
        self._taken: dict[tuple[str, str], int] = {}

    async def run(self, tasks: set[TaskRef], sources: set[tuple[str, str]], now_ms: int) -> None:
        """``tasks`` that commit here; ``sources``: (topic, group) that outputs go by."""
        if now_ms - self._done_ms < INTERVAL_MS:
            return
        self._done_ms = now_ms
        for task in tasks:
            await self._api.purge(app_stream(task.group), pos_subject(task.group, task.slot), keep=1)
        for topic, group in sources:
            stream = await self._api.stream(token(topic))
            for source in (stream or {}).get("sources") or ():
                if source["name"] != app_stream(group):
                    continue
                before, self._taken[topic, group] = self._taken.get((topic, group), 0), source.get("seq", 0)
                if before:
                    await self._api.purge(app_stream(group), out_filter(group, topic), before=before + 1)
