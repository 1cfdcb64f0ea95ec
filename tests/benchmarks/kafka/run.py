"""Measures on one real broker, ours and the peers in turn, and writes docs/benchmarks-kafka.md:

    .venv/bin/python -m tests.benchmarks.kafka.run                                   everything; about an hour
    .venv/bin/python -m tests.benchmarks.kafka.run --rounds 1 --scale 0.1 --only keyed --program bare

from the top of the tree.  Each contender is a process of its own that reports the CPU time, threads included, from its
first record to after its last commit; the contenders of a row run one after the other, round by round (A B C A B C …),
so that a machine that gets slower or faster in between does so for all; what is shown are medians.  After each run the
outputs are read as a committed reader would: a contender with a wrong count has no figure.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.benchmarks.common.pages import Page, chosen_rows, chosen_scenarios, tables
from tests.benchmarks.common.rounds import Bench, take_rounds
from tests.benchmarks.common.rows import Results, Row
from tests.benchmarks.kafka import contenders, ground, scenarios
from tests.benchmarks.kafka.ground import Ground
from tests.benchmarks.kafka.rows import ROWS
from tests.brokers.kafka.broker import KafkaBroker

PAGE = Page(
    "kafka",
    "Kafka",
    ("aiokafka", "msgspec", "orjson", "rocksdict", "uvloop"),
    f"{', '.join(contenders.PACKAGES.values())}, {contenders.KAFKA_STREAMS} on Java",
)
SCENARIOS: dict[str, Callable[[Ground, Sequence[str], float, int], Coroutine[Any, Any, list[str]]]] = {
    "workers": scenarios.two_workers,
    "restore": scenarios.restore,
    "takeover": scenarios.takeover,
    "latency": scenarios.latency,
}


@contextmanager
def a_broker(bootstrap: str | None) -> Iterator[Ground]:
    if bootstrap is not None:
        yield Ground(bootstrap, None)
        return
    with KafkaBroker(ground.BROKER) as broker:
        yield Ground(broker.bootstrap, broker.pid)


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────


def page(rows: Sequence[Row], results: Results, rounds: int, more: Sequence[str]) -> str:
    lines = PAGE.head("One broker (Apache Kafka in KRaft mode, one node) runs on the same cores.")
    if rows:
        lines += [
            "## Keyed count, Kafka to Kafka, exactly once",
            "",
            "Orders in JSON are read from two partitions, counted under their user (10,000 of them), and each new "
            "count is written with the changelog and the group's offsets in one transaction an interval. The CPU time "
            "of the contender's own process counts, all threads included, from its first record to after its last "
            f"commit; medians of {rounds} round{'s' if rounds > 1 else ''}, the contenders in turn in each. After "
            "each run the outputs are read with read_committed and compared with what they must be; a contender whose "
            "outputs are wrong has no figure. All settings are the contender's defaults but for the commit interval.",
            "",
            "The bare loop is `getmany(1000)`, typed decode, a dict, encode and `send_batch`: no store, no fencing, no "
            "restore. Kafka Streams runs a processor with one thread on a RocksDB store with its cache on "
            "(`exactly_once_v2`); its just-in-time compiler and garbage collector count, and a second line leaves out "
            "the first third of the messages. Bytewax can't write to Kafka exactly once: it runs at least once, with "
            "recovery data on disk. What takes long gets fewer messages. The broker's CPU time is that of the whole "
            "run, the contender's start included, which weighs where messages are few.",
            "",
        ]
    return "\n".join([*lines, *tables(rows, results), *more]).rstrip() + "\n"


async def measure(options: argparse.Namespace, where: Ground, missing: dict[str, str]) -> str:
    rows = chosen_rows(options, ROWS)
    bench = Bench(where, contenders.command, options.scale, missing)
    await take_rounds(bench, rows, options.program, options.rounds)
    more: list[str] = []
    present = [each for each in options.program or contenders.PROGRAMS if each not in missing]
    for name in chosen_scenarios(options, SCENARIOS):
        print(f"scenario {name}", flush=True)
        more += await SCENARIOS[name](where, present, options.scale, options.scenario_rounds or options.rounds)
    return page(rows, bench.results, options.rounds, more)


def main() -> None:
    parser = PAGE.parser(ROWS, contenders.PROGRAMS, SCENARIOS)
    parser.add_argument("--scenario-rounds", type=int, help="as --rounds unless given")
    parser.add_argument("--bootstrap", help="a broker that runs already, whose CPU time isn't taken")
    options = parser.parse_args()
    missing = contenders.install(set(options.program or contenders.PROGRAMS))
    with a_broker(options.bootstrap) as where:
        PAGE.write(asyncio.run(measure(options, where, missing)), options)


if __name__ == "__main__":
    main()
