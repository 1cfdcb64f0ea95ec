"""``make soak``: the slow tests with all their rounds and fresh seeds, several times over, on a busy machine.

What must live here: the rounds, and the load beside them.  What must not: what is tested, or how often a test repeats
what it does (``tests/stages.py``).

    python tests/soak.py --rounds 3 -- -n 3 -m 'integration or guarantee or slow'

Each round draws its seed, says it, and hands it to the tests as GUARANTEE_SEED, so that a round can be repeated.  All
rounds run, whatever fails in one of them: what failed in any is listed at the end and makes the status 1.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET

# A process that keeps a core busy until the pipe to the one that started it ends, however that one ends.
BUSY = """
import os, sys
os.set_blocking(0, False)
while True:
    for _ in range(1_000_000):
        pass
    try:
        if os.read(0, 1) == b"":
            sys.exit()
    except BlockingIOError:
        pass
"""


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep so many cores busy inside of the block."""
    load = [subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE) for _ in range(loops)]
    try:
        yield
    finally:
        for each in load:
            each.kill()
            each.wait()


def failed_in(report: Path) -> list[str]:
    """The names of the tests that failed or broke in a JUnit report."""
    if not report.is_file():
        return ["the run itself: pytest wrote no report"]
    cases = ET.parse(report).iter("testcase")  # written by pytest a moment ago
    return [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/soak.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often to run everything (3)")
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="loops that keep cores busy (one a core)")
    parser.add_argument("pytest", nargs="*", help="what pytest is given")
    options = parser.parse_args()
    failures: list[str] = []
    with TemporaryDirectory() as folder, busy(options.busy):
        for number in range(1, options.rounds + 1):
            seed, began = os.environ.get("GUARANTEE_SEED") or str(random.SystemRandom().randrange(2**32)), time.time()
            print(f"==> round {number} of {options.rounds}: GUARANTEE_SEED={seed}", flush=True)
            report = Path(folder, f"{number}.xml")
            status = subprocess.run(
                [sys.executable, "-P", "-m", "pytest", f"--junitxml={report}", *options.pytest],
                env={**os.environ, "STREAMS_SOAK": "1", "GUARANTEE_SEED": seed},
                check=False,
            ).returncode
            found = failed_in(report) or ([f"the run itself: pytest ended with {status}"] if status else [])
            failures += [f"round {number} (GUARANTEE_SEED={seed}): {name}" for name in found]
            print(f"==> round {number}: {len(found)} failed, {time.time() - began:.0f} s", flush=True)
    print("\n".join(failures) or "nothing failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
