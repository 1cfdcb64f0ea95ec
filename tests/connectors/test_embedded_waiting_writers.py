"""A disk that fails once while several wait for it: each of them is told, and none is taken for stored."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from streams.connectors.embedded.flusher import Flusher
from streams.errors import CommitUnknown, LogUnavailable


class Disk:
    """A disk whose first sync fails, when it is let go, and whose others don't."""

    def __init__(self) -> None:
        self.syncs = 0
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def sync(self, number: int) -> None:
        self.syncs += 1
        self.begun.set()
        assert self.may_end.wait(120)
        if self.syncs == 1:
            raise LogUnavailable("the disk gave up")


def test_writers_that_wait_behind_a_sync_that_fails_fail_with_it() -> None:
    # What they wrote went to the same file: a second sync that succeeds says nothing of it (the kernel has dropped the
    # pages that it couldn't write).
    async def run() -> None:
        disk = Disk()
        with ThreadPoolExecutor(1) as executor:
            flusher = Flusher("embedded:x", executor, disk.sync, lambda: 1)
            first = [flusher.submit({}) for _ in range(2)]
            await asyncio.get_running_loop().run_in_executor(None, disk.begun.wait, 120)
            behind = [flusher.submit({}) for _ in range(3)]
            disk.may_end.set()
            found = await asyncio.gather(*first, *behind, return_exceptions=True)
            assert [type(each) for each in found] == [CommitUnknown] * 5
            assert disk.syncs == 1
            await flusher.submit({})  # by now it is the log's turn to be opened anew; the flusher itself goes on
            assert disk.syncs == 2

    asyncio.run(run())
