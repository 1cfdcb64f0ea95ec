"""Outages, told once: a line for a server that is away, however many tasks notice it, and a line when it is back.

    task, delivery, ticker, membership …  ──failed(who, error)───▶  the first: a warning    each: debug
                                          ──works(server, who)──▶  the last who complained: it is back

What must live here: what is told, and when.  What must not: waiting, or trying again (``restarts``, ``driver``).

A server is told by the URL in the error's words, which every connector begins them with: an error without one, and one
that isn't about reaching something, is told as it comes.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass, field

from streams.errors import CommitUnknown, Fenced, LogUnavailable, ServiceUnavailable

__all__ = ["Outages", "server_in"]

logger = logging.getLogger("streams")

QUIET_S = 30.0
"""Between two lines about a server that comes and goes, as a cluster does of which one broker is away, or about which
something new is said: a disk that is full behind an outage is worth a line."""
REMINDED_S = 300.0
"""An outage that lasts is told again, since its cause may be another one by now."""
FORGOTTEN_S = 60.0
"""Longer than anybody waits between two attempts."""
OVER_S = 120.0
"""Nobody has complained for so long: what comes next is another outage, whoever forgot to say that it works."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s?;'\"()]+")
_DETAIL = re.compile(r"\b(task|group|topic) \S+|\d+")
"""What differs between two who say the same."""


def server_in(text: str) -> str:
    """The first URL in ``text``, without settings; "" for none."""
    found = _URL.search(text)
    return found[0].rstrip(":,./") if found is not None else ""


@dataclass(slots=True)
class _Outage:
    began: float
    complains: dict[str, float] = field(default_factory=dict)  # who, and when last
    why: str = ""
    told: float | None = None
    reasons: set[str] = field(default_factory=set)

    @property
    def seen(self) -> float:
        return max(self.complains.values())


class Outages:
    """The outages that a worker knows of, by server."""

    def __init__(self) -> None:
        self._open: dict[str, _Outage] = {}
        self._told: dict[str, float] = {}

    def failed(self, who: str, error: Exception) -> None:
        """``error`` keeps somebody from work.  who: names it and what it does now, the same each time,
        for the debug log and for ``works``."""
        server = server_in(str(error)) if isinstance(error, LogUnavailable | CommitUnknown | ServiceUnavailable) else ""
        if not server:
            logger.log(logging.INFO if isinstance(error, Fenced) else logging.WARNING, "%s: %s", who, error)
            return
        logger.debug("%s: %s", who, error)
        now = asyncio.get_running_loop().time()
        outage = self._open.get(server)
        if outage is None or now - outage.seen > OVER_S:
            outage = self._open[server] = _Outage(now)
        outage.complains[who], outage.why = now, str(error)
        last, reason = self._told.get(server, float("-inf")), _DETAIL.sub("", str(error))
        if now - last >= (QUIET_S if reason not in outage.reasons else REMINDED_S):
            outage.reasons.add(reason)
            lasts = f"; so for {now - outage.began:.0f} s" if outage.told is not None else ""
            logger.warning("%s; what needs it waits and tries again%s", error, lasts)
            self._told[server] = outage.told = now

    def lasting(self, server: str) -> tuple[float, str] | None:
        """For how many seconds a server, by its URL, is away, and what was last said of that; None where nobody has
        complained, or has for a while, as when its tasks have moved."""
        outage = self._open.get(server_in(server))
        now = asyncio.get_running_loop().time()
        if outage is None or now - outage.seen > FORGOTTEN_S:
            return None
        return now - outage.began, outage.why

    def works(self, server: str, who: str | None = None) -> None:
        """A server, by its URL, has done what ``who`` of ``failed`` asks of it; None: what everybody does.

        The outage is over when nobody is left who complains: that a broker hands messages out doesn't show that it
        takes any.  Somebody who hasn't been heard of for ``FORGOTTEN_S`` has gone.
        """
        if not self._open:  # nearly always
            return
        name = server_in(server)
        outage, now = self._open.get(name), asyncio.get_running_loop().time()
        if outage is None:
            return
        if who is not None and any(each != who and now - at <= FORGOTTEN_S for each, at in outage.complains.items()):
            outage.complains.pop(who, None)
            return
        del self._open[name]
        if outage.told is not None:
            logger.warning("%s is back, after %.0f s", name, now - outage.began)
