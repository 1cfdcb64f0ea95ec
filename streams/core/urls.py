"""URLs of logs, fit to be shown.

What must live here: what of a URL is secret.  What must not: what its parts mean (a connector's ``config``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qsl, quote

__all__ = ["pairs_of", "quoted", "without_secrets"]

_SECRET = re.compile(r"(password|passwd|passwort|pwd|secret|token|credentials?|api_?key)$", re.IGNORECASE)


def pairs_of(query: str) -> list[tuple[str, str]]:
    """Names and values behind a question mark, decoded.  A plus is itself: as a space it would change a password."""
    return parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)


def quoted(text: str) -> str:
    """A value as it may stand behind a question mark."""
    return quote(text, safe="/:.,_-*{}>")


def _plain(name: str) -> bool:
    return not _SECRET.search(name)


def without_secrets(url: str, keep: Callable[[str], bool] = _plain) -> str:
    """``url`` without its secrets, whatever it looks like, one that can't be parsed too.

    Gone are the password before the host and those settings that ``keep`` doesn't want, by default whatever is called a
    password, token or the like.  In a URL of NATS a user without a password may be a token, and is gone as well.
    """
    scheme, mark, rest = url.partition("://" if "://" in url else ":")
    location, _, query = rest.partition("?")
    userinfo, at, place = location.rpartition("@")
    cut = "@" in query and not at
    if mark == "://":
        # Where a password with a bare ? was cut in two, or its host was forgotten, it looks like a port.
        hosts, slash, path = place.partition("/")
        no_port = r":(?![^\[]*\]).*" if cut else r":(?!\d+$|[^\[]*\]).*"
        place = ",".join(re.sub(no_port, ":***", one) for one in hosts.split(",")) + ("" if cut else slash + path)
    kept = "&".join(f"{name}={quoted(value)}" for name, value in pairs_of(query) if keep(name) and not cut)
    user, colon, _ = userinfo.partition(":")
    user = "***" if scheme == "nats" and at and not colon else user
    return scheme + mark + user + at + place + ("?" + kept if kept else "")
