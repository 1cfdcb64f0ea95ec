"""The ports that the tests' servers are given: free, and nobody else's."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.brokers.ports import BLOCK, LOWEST, free_port

ROOT = Path(__file__).resolve().parents[2]
COUNT = BLOCK + 10
"""More than a block has."""


def test_test_runs_side_by_side_are_never_given_the_same_port() -> None:
    code = (
        f"from tests.brokers.ports import free_port\nprint(*[free_port() for _ in range({COUNT})], flush=True)\ninput()"
    )
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as one,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as other,
    ):
        given = [free_port() for _ in range(COUNT)]
        for run in (one, other):
            assert run.stdout is not None
            given += [int(port) for port in run.stdout.readline().split()]
        one.communicate("\n")
        other.communicate("\n")
    assert len(given) == len(set(given)) == 3 * COUNT


def test_a_port_that_somebody_listens_on_is_passed_over() -> None:
    while (next_one := free_port() + 1) % BLOCK == LOWEST % BLOCK:
        """The one before was the last one of its block, and the next one is another block's."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", next_one))
        server.listen()
        assert free_port() != next_one
