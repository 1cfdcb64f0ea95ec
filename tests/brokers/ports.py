"""Ports of the loopback interface for servers that tests start.

What must live here: which port a server is given.  What must not: any server.

Two things have to hold.  A server that is stopped and started again finds its port free: it is below the range from
which outgoing connections get theirs (a client that tries to reach the stopped server may be given the server's own
port, be connected to itself, and keep the server from coming back).  And test runs that go on side by side, as the
workers of pytest-xdist do, are never given the same port, though a port that is given may be bound much later: each
process takes whole blocks of ports, by a lock on the block's file that lasts as long as the process does.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["free_port"]

LOWEST = 10_240
BLOCK = 128
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that no other call has given, in this process or another."""
    for port in _ports:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("all ports of 127.0.0.1 that tests may use are taken")


def _all() -> Iterator[int]:
    upper = int(RANGE.read_text().split()[0]) if RANGE.is_file() else 32_768
    blocks = range(LOWEST, max(upper, 2 * LOWEST) - BLOCK, BLOCK)
    folder = Path(tempfile.gettempdir(), f"streams-tests-ports-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    for block in random.sample(blocks, len(blocks)):
        # Never closed: the lock goes with the process, killed or not.  Programs that it starts don't inherit it.
        lock = os.open(folder / str(block), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        yield from range(block, block + BLOCK)


_ports = _all()
