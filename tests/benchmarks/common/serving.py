"""Contenders that serve until they are stopped.

What must live here: starting, stopping and waiting.  What must not: brokers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.common.environments import ROOT
from tests.benchmarks.common.runs import Command, Run

START_TIMEOUT_S = 90.0


@asynccontextmanager
async def serving(command: Command, run: Run, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The contender at work; on leaving it is stopped by SIGTERM, if it is still there.

    ``folder``: for its state.  RuntimeError if it has ended by itself meanwhile.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = await asyncio.create_subprocess_exec(
            *command(replace(run, messages=0), folder),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=said,
        )
        try:
            yield process
        finally:
            ended = process.returncode
            if ended is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), 30)
                except TimeoutError:
                    process.kill()
                    await process.wait()
            elif ended != -signal.SIGKILL:
                # Whatever failed here for want of it, this is why.
                said.seek(0)
                raise RuntimeError(f"{run.program} ended with status {ended}: {said.read()[-2000:]}")


async def until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - any condition
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise RuntimeError(f"{what}: not within {timeout_s:g} s") from None


def kill(process: asyncio.subprocess.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
