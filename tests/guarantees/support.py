"""What the guarantee tests share: workers as processes, and the log between their lives.

What must live here: starting, watching, killing and stopping ``streams worker``; writing and reading an embedded log
that no process holds.  What must not: an app (``apps/``), or what is expected of one (the tests).

A worker's progress is seen from outside by the log's witness, the file that holds the number of the last write that
was acknowledged: it grows with every commit, and reading it disturbs nobody.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

from streams.connectors.embedded import EmbeddedLog
from streams.connectors.embedded.witness import FILE_NAME, read_witness
from streams.core.checkpoint import decode_checkpoint
from streams.core.log import Append, TaskRef, TopicSpec
from streams.core.record import Records, TopicPartition
from streams.core.watermark import MARK_HEADER, Mark, encode_mark
from streams.testing.log_contract import read_all

T = TypeVar("T")
APPS = Path(__file__).with_name("apps")
PATIENCE_S = 120.0
"""How long a worker may take to do what is waited for; never how long a test takes."""
LOOK_EVERY_S = 0.01
"""Looking costs CPU of those who are looked at: every 2 ms it was a twentieth of a core."""
IDLE_S = 5.0
"""A worker that commits nothing for so long has nothing left to do."""

Row = tuple[str, Any, int]
"""A record of a test: key, value (plain JSON), time in ms."""


# ── workers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Worker:
    """One life of ``streams worker``.  Made by ``working``, which ends it in any case."""

    def __init__(self, app: str, log: Path, *options: str, settings: str = "", preexec: Any = None, **env: str) -> None:
        self.log = log
        # Not beside the log, whose disk may be full.
        self._errors = TemporaryFile()  # noqa: SIM115
        self._said = ""
        command = [sys.executable, "-m", "streams", "worker", "-A", str(APPS / app), *options]
        self.process = subprocess.Popen(
            [*command, "--log", f"embedded:{log}{settings}"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env},
            cwd=log.parent,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            preexec_fn=preexec,
        )

    @property
    def stderr(self) -> str:
        if not self._errors.closed:
            self._said = os.pread(self._errors.fileno(), 2**20, 0).decode(errors="replace")
        return self._said

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def commits(self) -> int:
        """How many writes of the log have been acknowledged so far."""
        return acknowledged(self.log)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until ``condition`` holds while the worker lives; fails with its last words if it ends before."""
        wait_for(lambda: condition() or not self.alive, what)
        assert self.alive, f"the worker ended with {self.process.returncode} before {what}:\n{self.stderr[-3000:]}"

    def until_commits(self, more: int) -> bool:
        """Wait until the log has acknowledged ``more`` writes from now on; False if nothing is left to commit."""
        target = self.commits() + more
        seen, since = self.commits(), time.monotonic()

        def reached_or_idle() -> bool:
            nonlocal seen, since
            now = self.commits()
            if now != seen:
                seen, since = now, time.monotonic()
            return now >= target or time.monotonic() - since > IDLE_S

        self.until(reached_or_idle, f"{more} more commits")
        return self.commits() >= target

    def until_working(self) -> None:
        """Wait until its tasks may run: everything that a start writes by itself is written."""
        self.until(lambda: " works on " in self.stderr, "it said that it works")

    def kill(self) -> None:
        """kill -9, now; fails if it had ended by itself."""
        assert self.alive, (
            f"the worker ended with {self.process.returncode} before it was killed:\n{self.stderr[-3000:]}"
        )
        self.process.kill()
        assert self.process.wait(PATIENCE_S) == -signal.SIGKILL

    def end(self) -> None:
        """Whatever it does: it is over.  ``stderr`` can still be read."""
        if self.alive:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        self._said = self.stderr
        self._errors.close()

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """The status that it ends with."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker didn't end within {timeout_s:g} s:\n{self.stderr[-3000:]}") from None

    def memory_bytes(self) -> int:
        """What it has in memory now (RSS)."""
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0


@contextmanager
def working(
    app: str, log: Path, *options: str, settings: str = "", preexec: Any = None, **env: str
) -> Iterator[Worker]:
    """A worker of ``apps/<app>`` on the log in the directory ``log``; killed on leaving if it still runs."""
    worker = Worker(app, log, *options, settings=settings, preexec=preexec, **env)
    try:
        yield worker
    finally:
        worker.end()


def finish(app: str, log: Path, *options: str, settings: str = "", **env: str) -> str:
    """Let a worker do all there is to do; it must end well.  Returns what it said."""
    with working(app, log, "--until-idle", *options, settings=settings, **env) as worker:
        assert worker.wait() == 0, worker.stderr[-3000:]
        return worker.stderr


def killed_at_random(worker: Worker, chance: random.Random, *, commits: int, delay_s: float = 0.03) -> None:
    """Kill the worker somewhere in its work: after up to ``commits`` commits, and then a moment more."""
    worker.until_commits(1 + chance.randrange(commits))
    time.sleep(chance.random() * delay_s)  # the moment to kill
    worker.kill()


def error_line(worker: Worker) -> str:
    """The one line in which a failed worker says what is wrong; there is no traceback."""
    lines = [line for line in worker.stderr.splitlines() if line.startswith("streams: error: ")]
    assert len(lines) == 1, worker.stderr
    assert "Traceback" not in worker.stderr, worker.stderr
    return lines[0]


def acknowledged(log: Path) -> int:
    return read_witness(str(log / FILE_NAME)) or 0


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Poll until ``condition`` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"gave up waiting for {what}"
        time.sleep(LOOK_EVERY_S)


# ── the log between two lives ───────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def opened(log: Path, settings: str = "") -> AsyncIterator[EmbeddedLog]:
    """The log, while no worker holds it."""
    found = EmbeddedLog(f"embedded:{log}{settings}")
    await found.open()
    try:
        yield found
    finally:
        await found.close()


def with_log(log: Path, work: Callable[[EmbeddedLog], Awaitable[T]], settings: str = "") -> T:
    """Run ``work`` on the log."""

    async def main() -> T:
        async with opened(log, settings) as found:
            return await work(found)

    return asyncio.run(main())


async def send(log: EmbeddedLog, topic: str, rows: Sequence[Row], partitions: int) -> None:
    """Append rows to a topic, each to the partition of its key, as ``Topic.send_many`` does."""
    await log.create_topics([TopicSpec(topic, partitions)])
    for first in range(0, len(rows), 20_000):
        parts: dict[int, Records] = {}
        for key, value, time_ms in rows[first : first + 20_000]:
            encoded = key.encode()
            part = parts.setdefault(log.partition_for(encoded, partitions), Records())
            part.keys.append(encoded)
            part.values.append(value if value is None or isinstance(value, bytes) else json.dumps(value).encode())
            part.timestamps.append(time_ms)
        await log.append([Append(TopicPartition(topic, at), part) for at, part in parts.items()])


async def send_watermark(log: EmbeddedLog, topic: str, partitions: int, time_ms: int) -> None:
    """Promise on every partition that nothing older comes, as ``Topic.send_watermark`` does."""
    mark = Records([None], [encode_mark(Mark("", time_ms))], [time_ms], [((MARK_HEADER, b""),)])
    await log.append([Append(TopicPartition(topic, at), mark) for at in range(partitions)])


async def raw_rows(log: EmbeddedLog, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """Every record of a topic as (key, value), partition by partition in order; watermarks left out."""
    found: list[tuple[bytes | None, bytes | None]] = []
    info = (await log.topics())[topic]
    for partition in range(info.spec.partitions):
        for batch in await read_all(log, TopicPartition(topic, partition)):
            headers = batch.records.headers or [None] * len(batch.records.keys)
            rows = zip(batch.records.keys, batch.records.values, headers, strict=True)
            found.extend((key, value) for key, value, header in rows if not _is_mark(header))
    return found


def _is_mark(headers: Iterable[tuple[str, bytes]] | None) -> bool:
    return any(name == MARK_HEADER for name, _ in headers or ())


async def rows(log: EmbeddedLog, topic: str) -> list[tuple[str, Any]]:
    """As ``raw_rows``, with keys and values decoded."""
    return [
        (key.decode() if key is not None else "", None if value is None else json.loads(value))
        for key, value in await raw_rows(log, topic)
    ]


async def by_key(log: EmbeddedLog, topic: str) -> dict[str, list[Any]]:
    """The values of each key of a topic, in order."""
    found: dict[str, list[Any]] = {}
    for key, value in await rows(log, topic):
        found.setdefault(key, []).append(value)
    return found


async def last_by_key(log: EmbeddedLog, topic: str) -> dict[bytes, bytes]:
    """What a compacted topic stands for: the last value of each key, without deleted ones."""
    found: dict[bytes, bytes] = {}
    for key, value in await raw_rows(log, topic):
        assert key is not None
        if value is None:
            found.pop(key, None)
        else:
            found[key] = value
    return found


async def lag(log: EmbeddedLog, app: str, topic: str) -> int:
    """How many records of ``topic`` the tasks that read it have not committed yet."""
    partitions = (await log.topics())[topic].spec.partitions
    ends = await log.bounds([TopicPartition(topic, at) for at in range(partitions)])
    left = sum(each.end.offset() for each in ends.values())
    for at in ends:
        stored = await log.checkpoint(TaskRef(app, 0, f"{app}.{topic}-{at.partition}"))
        position = decode_checkpoint(stored).position(at) if stored is not None else None
        left -= position.offset() if position is not None else 0
    return left


def assert_same(found: Mapping[Any, Any], expected: Mapping[Any, Any], what: str) -> None:
    """Fails with what is missing, too much or wrong, short enough to read."""
    missing = [key for key in expected if key not in found]
    extra = [key for key in found if key not in expected]
    wrong = [(key, found[key], expected[key]) for key in expected if key in found and found[key] != expected[key]]
    problem = f"missing {len(missing)}: {missing[:3]}; extra {len(extra)}: {extra[:3]}; wrong {len(wrong)}: {wrong[:2]}"
    assert found == expected, f"{what}: {problem:.2000}"
