"""Several worker processes of one app on this machine, and the process that looks after them.

    parent ──▶ child 0, 1, … : ``streams worker`` each, in a process group of its own, its lines marked ``[i] ``
       signal to the parent      ──▶ passed on to every child; when all have ended, their status
       a child fails (status > 0) ──▶ the others are stopped, and its status is ours: what failed it fails them all
       a child is killed          ──▶ started again, a little later each time; five times within a minute is a failure
       the parent is killed       ──▶ the children see the end of their stdin, commit and leave

What must live here: starting, watching and ending processes.  What must not: what a worker does (``runtime.process``).
The children share nothing: what divides the tasks among them is the log, as with workers on several machines.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

__all__ = ["SUPERVISED", "Supervisor", "leave_with_parent"]

SUPERVISED = "STREAMS_SUPERVISED"
"""In the environment of a child: its stdin ends when its parent does."""
KILLS_MAX = 5
KILLS_WITHIN_S = 60.0
FIRST_PAUSE_S = 0.5
GRACE_S = 5.0
"""On top of what a worker gives itself to stop."""
LINE_BYTES_MAX = 2**20
STOPS = (signal.SIGTERM, signal.SIGINT)
"""What we send first.  A child that it kills had just been started and had nothing to commit."""


def leave_with_parent() -> None:
    """In a child: stop as on SIGTERM when the parent has gone.  Called once, before the work begins."""
    if os.environ.pop(SUPERVISED, "") == "1":
        threading.Thread(target=_watch_parent, daemon=True, name="parent").start()


def _watch_parent() -> None:
    while os.read(0, 1024):
        pass
    # The parent read what we print: a line into a broken pipe would fail what is only to commit and leave.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.kill(os.getpid(), signal.SIGTERM)


@dataclass(slots=True)
class _Child:
    number: int
    command: Sequence[str]
    process: asyncio.subprocess.Process | None = None
    pipes: list[asyncio.Task[None]] = field(default_factory=list)
    kills: deque[float] = field(default_factory=deque)


class Supervisor:
    """Runs one process for each command.

    stop_timeout_s: what each gives itself to stop.  first_pause_s: before a killed one is started again; doubled each
    time.
    """

    def __init__(
        self, commands: Sequence[Sequence[str]], stop_timeout_s: float, *, first_pause_s: float = FIRST_PAUSE_S
    ) -> None:
        self._children = [_Child(number, command) for number, command in enumerate(commands)]
        self._stop_timeout_s = stop_timeout_s
        self._first_pause_s = first_pause_s
        self._status = 0
        self._stopping: asyncio.Event

    def run(self) -> int:
        """Blocks until every child has ended.  The status to end with: 0, or that of the first one that failed."""
        return asyncio.run(self._run())

    async def _run(self) -> int:
        self._stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in STOPS:
            loop.add_signal_handler(number, self._pass_on, number)
        try:
            async with asyncio.TaskGroup() as group:
                last = group.create_task(self._end_the_slow())
                watched = [group.create_task(self._watch(child)) for child in self._children]
                await asyncio.wait(watched)
                last.cancel()
        finally:
            for child in self._children:  # an error in here must leave nobody behind
                _signal(child, signal.SIGKILL)
            for number in STOPS:
                loop.remove_signal_handler(number)
        return self._status

    def _pass_on(self, number: int) -> None:
        self._stopping.set()
        for child in self._children:
            _signal(child, number)

    def _fail(self, status: int) -> None:
        """The first failure decides the status, and stops the others."""
        if self._status == 0:
            self._status = status
        if not self._stopping.is_set():
            self._pass_on(signal.SIGTERM)

    async def _end_the_slow(self) -> None:
        """A worker ends itself when its stop takes too long; this is for one that can't."""
        await self._stopping.wait()
        await asyncio.sleep(self._stop_timeout_s + GRACE_S)
        for child in self._children:
            _signal(child, signal.SIGKILL)

    async def _watch(self, child: _Child) -> None:
        """One child's life, through all its restarts."""
        while not self._stopping.is_set():
            status = await self._live(child)
            if status > 0:
                self._fail(status)
            elif status < 0 and not self._stopping.is_set():
                await self._after_a_kill(child, -status)
            else:
                if status < 0 and -status not in STOPS:
                    self._fail(128 - status)
                return

    async def _live(self, child: _Child) -> int:
        """Start a child and wait for its end: its status, or minus the number of the signal that killed it."""
        child.process = process = await asyncio.create_subprocess_exec(
            *child.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, SUPERVISED: "1"},
            process_group=0,  # else a Ctrl-C would reach it twice, which means: at once
            limit=LINE_BYTES_MAX,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        if self._stopping.is_set():
            _signal(child, signal.SIGTERM)
        pipes = [
            asyncio.create_task(_mark(process.stdout, sys.stdout, child.number)),
            asyncio.create_task(_mark(process.stderr, sys.stderr, child.number)),
        ]
        status = await process.wait()
        child.process = None
        # What it started and left behind may keep the pipes open for ever.
        _, open_ = await asyncio.wait(pipes, timeout=1.0)
        for pipe in open_:
            pipe.cancel()
        if process.stdin is not None:
            process.stdin.close()
        return status

    async def _after_a_kill(self, child: _Child, number: int) -> None:
        """Wait before the next start; or give up."""
        now = asyncio.get_running_loop().time()
        child.kills.append(now)
        while now - child.kills[0] > KILLS_WITHIN_S:
            child.kills.popleft()
        name = signal.Signals(number).name if number in {each.value for each in signal.Signals} else str(number)
        if len(child.kills) >= KILLS_MAX:
            _say(
                f"error: worker {child.number} was killed by {name}, {KILLS_MAX} times within {KILLS_WITHIN_S:g} s; "
                f"look for what kills it (memory?)"
            )
            self._fail(128 + number)
            return
        pause_s = self._first_pause_s * 2 ** (len(child.kills) - 1)
        _say(f"worker {child.number} was killed by {name}; starting it again in {pause_s:g} s")
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()


def _signal(child: _Child, number: int) -> None:
    if child.process is not None and child.process.returncode is None:
        with suppress(ProcessLookupError):  # it has just ended
            child.process.send_signal(number)


async def _mark(pipe: asyncio.StreamReader, to: IO[str], number: int) -> None:
    """Copy lines, each with the number of its worker before it."""
    mark = f"[{number}] "
    while True:
        try:
            line = await pipe.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            line = end.partial
        except asyncio.LimitOverrunError as error:
            line = await pipe.read(error.consumed)  # a line without an end goes on in the next piece
        if not line:
            return
        with suppress(OSError, ValueError):  # a full disk, or a reader that has gone: the worker works on
            to.write(mark + line.decode(errors="replace").rstrip("\n") + "\n")
            to.flush()


def _say(line: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"streams: {line}\n")
        sys.stderr.flush()
