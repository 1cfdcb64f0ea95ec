"""Settings of an embedded log, and the URL that carries them.

What must live here: names, defaults, parsing.  What must not: touching the disk.

    embedded:./data                  a directory relative to where the process runs
    embedded:/var/lib/shop           an absolute one (embedded:///var/lib/shop is the same)
    embedded:./data?durable=false    with settings, by the names of ``EmbeddedConfig``
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from urllib.parse import parse_qsl, unquote

from streams.errors import ConfigurationError

__all__ = ["EmbeddedConfig", "parse_url"]


@dataclass(frozen=True, slots=True)
class EmbeddedConfig:
    """How an embedded log is kept.

    path: the directory; created with its parents.
    durable: a commit that returned survives a power failure (one fsync for all commits that wait together).
        False: it survives the death of the process only.
    accept_loss: open a log whose acknowledged tail is missing, and go on from what is left.  For one opening.
    max_record_bytes, max_commit_bytes: see ``Limits``.
    tombstone_retention_ms: how long a tombstone stays in a compacted topic, so that slow readers see it.
    compaction_min_bytes: a compacted topic isn't touched before so many bytes are new in a partition.
    compaction_max_keys: keys held in memory by one pass of compaction.
    """

    path: str
    durable: bool = True
    accept_loss: bool = False
    max_record_bytes: int = 128 * 2**20
    max_commit_bytes: int = 128 * 2**20
    tombstone_retention_ms: int = 24 * 3600 * 1000
    compaction_min_bytes: int = 4 * 2**20
    compaction_max_keys: int = 1_000_000

    @property
    def url(self) -> str:
        return f"embedded:{self.path}"


def _boolean(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return known[text.lower()]


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


_READ: dict[str, tuple[Callable[[str], bool | int], str]] = {
    "bool": (_boolean, "true or false"),
    "int": (_count, "a whole number"),
}


def parse_url(url: str) -> EmbeddedConfig:
    """The settings in ``url``.  Raises ConfigurationError that names what isn't understood."""
    scheme, colon, rest = url.partition(":")
    if scheme != "embedded" or not colon:
        raise ConfigurationError(f"{url!r} is not the URL of an embedded log; write embedded:./directory")
    location, _, query = rest.partition("?")
    path = unquote(location.removeprefix("//"))
    if not path:
        raise ConfigurationError(f"{url!r} names no directory; write embedded:./directory")
    known = {one.name: str(one.type) for one in fields(EmbeddedConfig) if one.name != "path"}
    settings: dict[str, bool | int] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise ConfigurationError(f"{url!r}: there is no setting {name!r}; there are {', '.join(sorted(known))}")
        read, wanted = _READ[known[name]]
        try:
            settings[name] = read(text)
        except (KeyError, ValueError):
            raise ConfigurationError(f"{url!r}: {name}={text!r} is not {wanted}") from None
    return EmbeddedConfig(path, **settings)  # type: ignore[arg-type]
