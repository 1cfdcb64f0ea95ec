"""Apache Kafka's jars: fetched from Maven Central once, kept in ``.kafka/`` at the top of the tree.

What lives here: finding Java and Maven, fetching what ``pom.xml`` names, and the command line of a Java program that
uses it.  What must not: anything about a broker's life (``broker.py``).

The folder's name holds a digest of the pom, so a changed pom fetches anew.  A fetch fills a folder beside it and
renames it when it is complete: an interrupted fetch leaves nothing that looks like one.  A lock keeps two test runs
from fetching at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.brokers.unavailable import Unavailable

POM = Path(__file__).with_name("pom.xml")
CACHE = Path(__file__).resolve().parents[3] / ".kafka"
FETCH_TIMEOUT_S = 300

JVM_OPTIONS = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=INFO")
"""Small and quick to start: three brokers, the tests and their workers share a small machine."""


def java_command(main_class: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
    """The command that runs a class of the jars.  Fetches them first, if need be; ``Unavailable`` if that can't be."""
    return [program("java"), *JVM_OPTIONS, *options, "-cp", ":".join(map(str, jars())), main_class, *arguments]


def program(name: str) -> str:
    """The full path of a program of the machine, or ``Unavailable``."""
    found = shutil.which(name)
    if found is None:
        hint = {"java": "install Java 17 or later", "mvn": "install Maven", "openssl": "install openssl"}[name]
        raise Unavailable(f"no Kafka broker for the tests: {name} is not on the PATH ({hint})")
    return found


@cache
def jars() -> tuple[Path, ...]:
    """All jars, in an order that stays the same: an archive of classes holds for one class path alone."""
    return tuple(sorted(library().glob("*.jar")))


@contextmanager
def locked() -> Iterator[None]:
    """Alone with ``.kafka/``, among all processes that write there."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def library() -> Path:
    """The folder of the jars, complete.  Blocks while it is fetched, by this process or by another one."""
    folder = CACHE / hashlib.sha256(POM.read_bytes()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    with locked():
        if not folder.is_dir():
            _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    program("java")
    mvn = program("mvn")
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        jars = Path(scratch, "jars")
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        command = [mvn, "--quiet", "--batch-mode", "--file", str(POM), *goal]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=FETCH_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"no Kafka broker for the tests: Maven took more than {FETCH_TIMEOUT_S} s") from None
        if done.returncode != 0:
            said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
            reason = said[0][:300] if said else f"exit status {done.returncode}"
            raise Unavailable(f"no Kafka broker for the tests: Maven could not fetch the jars: {reason}")
        jars.rename(folder)
