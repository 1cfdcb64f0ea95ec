"""Progress of restores on stderr: a bar on a terminal, plain lines elsewhere.

Short restores show nothing: a start that takes no time should look like one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["RestoreProgress"]

LINE_EVERY_S = 2.0
WORTH_SHOWING = 100_000
"""Records from which on a restore is worth a bar or a line."""


class RestoreProgress:
    """Called with (task, done, total); a context manager that leaves the terminal as it was."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        worth_showing: int = WORTH_SHOWING,
    ) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._clock = clock
        self._worth_showing = worth_showing
        self._bars: Progress | None = None
        self._ids: dict[str, TaskID] = {}
        self._begun: dict[str, float] = {}
        self._said: dict[str, float] = {}

    @property
    def drawing(self) -> bool:
        """A bar is on the terminal."""
        return self._bars is not None

    def __enter__(self) -> RestoreProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def __call__(self, task: str, done: int, total: int) -> None:
        if self._quiet or total < self._worth_showing:
            return
        if self._terminal:
            self._draw(task, done, total)
        else:
            self._say(task, done, total)

    def _draw(self, task: str, done: int, total: int) -> None:
        bars = self._bars
        if bars is None:
            if done >= total:
                return
            bars = self._bars = _bars()
            bars.start()
        if task not in self._ids:
            self._ids[task] = bars.add_task(task, total=total)
        bars.update(self._ids[task], completed=done)
        if all(each.finished for each in bars.tasks):
            self._close()

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = None
        self._ids.clear()

    def _say(self, task: str, done: int, total: int) -> None:
        now = self._clock()
        begun = self._begun.setdefault(task, now)
        if done < total and now - self._said.get(task, begun) < LINE_EVERY_S:
            return
        self._said[task] = now
        rate = done / (now - begun) if now > begun else 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        speed = f", {rate:,.0f}/s" if rate else ""
        with suppress(OSError):  # what can't be told must not fail the restore that it tells of
            sys.stderr.write(f"streams: restoring {task}: {done:,} of {total:,} records{speed}{left}\n")


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import ProgressColumn as Column
    from rich.progress import Task as Bar
    from rich.text import Text

    class Rate(Column):
        def render(self, task: Bar) -> Text:
            return Text(f"{task.speed:,.0f} records/s" if task.speed else "")

    return Progress(
        TextColumn("restoring {task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
