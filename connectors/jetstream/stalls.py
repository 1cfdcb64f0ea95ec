"""Topics that have stopped to take in what an app writes, after an election.

What must live here: noticing, and what is done about it.  What must not: making sources (``topics``).

A topic's stream reads the app's through a consumer that its leader makes.  One that asks for it while the app's stream
has no leader waits half a minute for the answer and ten seconds and more before it asks again (the server's
``srcConsumerWaitTime``, ``calculateRetryBackoff``); outputs were seen to come 75 s late.  A new leader asks at once, so
the topic's is asked to step down.  A consumer that lives is heard every second, whether there is anything to take in or
not.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from streams.connectors.jetstream.api import Api, ApiError
from streams.errors import LogUnavailable

__all__ = ["Stalls"]

logger = logging.getLogger("streams")

SILENCE_S = 4.0
NS = 1_000_000_000


class Stalls:
    """Remembers since when a topic's leader is seen to hear nothing."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._since: dict[str, tuple[str, float]] = {}

    async def look(self, stream: dict[str, Any]) -> None:
        """``stream``: what the server says of a topic's.  Has it led anew once its leader has heard nothing of a source
        for a while, though that has a leader itself.  Raises LogUnavailable."""
        name, cluster = stream["config"]["name"], stream.get("cluster") or {}
        silent = [
            source["name"]
            for source in stream.get("sources") or ()
            if not 0 <= source.get("active", 0) < SILENCE_S * NS
        ]
        leader, now = cluster.get("leader", ""), time.monotonic()
        if not silent or not leader or not cluster.get("replicas"):
            self._since.pop(name, None)
            return
        before, since = self._since.setdefault(name, (leader, now))
        if before != leader:
            self._since[name] = leader, now
            return
        if now < since + SILENCE_S:
            return
        for source in silent:
            if not ((await self._api.stream(source)) or {}).get("cluster", {}).get("leader"):
                return
        del self._since[name]
        logger.info("stream %s has stopped to take in what %s holds; it is led anew", name, ", ".join(silent))
        try:
            await self._api.call(f"STREAM.LEADER.STEPDOWN.{name}")
        except (ApiError, LogUnavailable) as error:
            # Advice: it may be led anew already, or have nobody else to lead it.
            logger.info("stream %s isn't led anew: %s", name, error)
