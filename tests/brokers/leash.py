"""A broker's process ends with the tests that started it, however these end.

What must live here: that.  What must not: any broker.

Beside the process runs a little shell that waits for the end of a pipe whose other end only this process holds.
However this process ends, killed too, the shell kills the broker.  (PR_SET_PDEATHSIG would strike when the *thread*
ends that started the broker, and is Linux' own.)
"""

from __future__ import annotations

import subprocess

__all__ = ["Leash"]

WATCH = 'while read -r line; do :; done; kill -KILL "$1" 2>/dev/null'


class Leash:
    """Holds a process until it is let go of, which is when the process has ended."""

    def __init__(self, pid: int) -> None:
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, "broker-watch", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def let_go(self) -> None:
        """Before the process' number may be given to another one."""
        self._watch.kill()
        self._watch.wait()
        assert self._watch.stdin is not None
        self._watch.stdin.close()
