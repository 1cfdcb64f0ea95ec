"""``streams doctor``: is this machine fit to run a worker?  One line for each check."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from streams.cli.failures import FAILED
from streams.cli.options import AsJson, LogOption, log_url_of
from streams.cli.output import json_line

__all__ = ["doctor"]

NEEDED = ("msgspec", "orjson", "rocksdict", "aiohttp", "prometheus-client", "croniter", "typer", "rich")
OPTIONAL = {"uvloop": "the event loop is slower without it"}
FREE_BYTES_WARN = 2 * 2**30
FREE_BYTES_FAIL = 100 * 2**20
OPEN_FILES_WARN = 4096


class Check(NamedTuple):
    """One finding."""

    name: str
    result: Literal["ok", "warn", "fail"]
    text: str


def doctor(log: LogOption = None, json: AsJson = False) -> int:
    """Check Python, packages, the log, its folder, disk and limits."""
    checks = list(_checks(log_url_of(log)))
    if json:
        json_line([check._asdict() for check in checks])
    else:
        for check in checks:
            print(f"{check.result:<4}  {check.name}: {check.text}")
    return FAILED if any(check.result == "fail" for check in checks) else 0


def _checks(url: str) -> Iterator[Check]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", "ok" if sys.version_info >= (3, 11) else "fail", f"{python}; 3.11 or later is needed")
    for name in NEEDED:
        yield _package(name, "fail", "install it: pip install --upgrade streams-log")
    for name, loss in OPTIONAL.items():
        yield _package(name, "warn", loss)
    yield from _log(url)
    yield _open_files()


def _package(name: str, missing: Literal["warn", "fail"], advice: str) -> Check:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        return Check(name, missing, f"not installed; {advice}")


def _log(url: str) -> Iterator[Check]:
    from streams.connectors.embedded.config import parse_url
    from streams.connectors.embedded.lock import read_holder
    from streams.connectors.registry import open_log
    from streams.errors import StreamsError

    try:
        open_log(url)
    except StreamsError as error:
        yield Check("log", "fail", str(error))
        return
    if not url.startswith("embedded:"):
        yield from _answers(url)
        return
    folder = Path(parse_url(url).path).absolute()
    try:
        holder = read_holder(folder)
    except StreamsError as error:
        yield Check("log", "fail", str(error))
    else:
        yield Check("log", "ok", f"{url}, {'held by ' + holder.describe() if holder else 'held by nobody'}")
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    yield _writable(folder, nearest)
    if nearest.is_dir():
        yield _free_disk(nearest)


def _answers(url: str) -> list[Check]:
    """Whether the log's servers let us in, and what they say of power failures."""
    import asyncio
    import time

    from streams.connectors.registry import open_log
    from streams.core.telling import TellsOfPowerFailures
    from streams.errors import StreamsError

    async def try_it() -> list[Check]:
        log = open_log(url)
        began = time.monotonic()
        try:
            await log.open()
            found = await log.topics()
            took_ms = (time.monotonic() - began) * 1000
            checks = [Check("log", "ok", f"{log.url} answers, {len(found)} topics seen, in {took_ms:.0f} ms")]
            if isinstance(log, TellsOfPowerFailures):
                told = await log.power_failure("")
                checks.append(Check("power failure", "ok" if told.safe else "warn", told.text))
        finally:
            await log.close()
        return checks

    try:
        return asyncio.run(try_it())
    except StreamsError as error:
        return [Check("log", "fail", str(error))]


def _writable(folder: Path, nearest: Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        return Check("log folder", "fail", f"{nearest} can't be written ({error.strerror}); choose another with --log")
    return Check("log folder", "ok", f"{folder} can be {'written' if nearest == folder else 'created'}")


def _free_disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    result: Literal["ok", "warn", "fail"] = (
        "fail" if free < FREE_BYTES_FAIL else "warn" if free < FREE_BYTES_WARN else "ok"
    )
    advice = "" if result == "ok" else "; a full disk stops the log (nothing committed is lost): free some"
    return Check("disk", result, f"{free / 2**30:.1f} GiB free at {folder}{advice}")


def _open_files() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES_WARN:
        return Check(
            "open files", "warn", f"limit {soft}; each task's store keeps files open: raise it with ulimit -n 65536"
        )
    return Check("open files", "ok", f"limit {'none' if soft == resource.RLIM_INFINITY else soft}, pid {os.getpid()}")
