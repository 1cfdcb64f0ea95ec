"""Kafka's classes, loaded once and kept: an archive that a broker's Java maps into its memory when it starts.

What must live here: making the archive, and finding it.  What must not: a broker's life (``broker.py``), the jars
themselves (``jars.py``).

A Java that starts a broker reads, checks and links seven thousand classes, which is most of the work until the broker
answers.  Java can write them down as they are then (class-data sharing).  ``make_archive`` starts one broker for this
alone, once for a machine: the archive stands beside the jars in ``.kafka/``, and its name holds a digest of what it is
made of.  Without an archive everything works as with it.  A Java that makes none leaves an empty file, so that nobody
tries again.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tests.brokers.kafka.jars import CACHE, JVM_OPTIONS, jars, locked, program

__all__ = ["archive_options", "archive_path", "make_archive"]

STOP_TIMEOUT_S = 300.0
"""Java writes the archive while it ends."""


def archive_options() -> tuple[str, ...]:
    """What Java is told so that it uses the archive: nothing where there is none."""
    path = archive_path()
    if not path.is_file() or not path.stat().st_size:
        return ()
    # An archive that doesn't fit is passed over, and without a word: it is no concern of any test.
    return ("-Xshare:auto", f"-XX:SharedArchiveFile={path}", "-Xlog:disable", "-Xlog:all=error:stderr")


def make_archive() -> None:
    """Make the archive if there is none yet.  Blocks while this or another process does."""
    if archive_path().exists():
        return
    with locked():
        if not archive_path().exists():
            _make(archive_path())


@cache
def archive_path() -> Path:
    """Where the archive is, or would be.  Java refuses one of other jars (by path, time and size) or another Java."""
    java = subprocess.run(
        [program("java"), "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    made_of = [java.stderr, *JVM_OPTIONS]
    made_of += [f"{jar} {jar.stat().st_size} {jar.stat().st_mtime_ns}" for jar in jars()]
    return CACHE / f"{hashlib.sha256(chr(10).join(made_of).encode()).hexdigest()[:16]}.jsa"


def _make(path: Path) -> None:
    # Imported here: a broker asks this module for the archive.
    from tests.brokers.kafka.broker import KafkaBroker

    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        made = Path(scratch, "made.jsa")
        with KafkaBroker(java_options=(f"-XX:ArchiveClassesAtExit={made}",)) as broker:
            broker.create_topic("orders")
            broker.stop(timeout_s=STOP_TIMEOUT_S)
        made.touch()
        made.rename(path)
