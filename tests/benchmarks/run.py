"""Measures ours, the peers and the floor in turn, and writes docs/benchmarks.md:

    make bench                                                   everything; about half an hour
    .venv/bin/python tests/benchmarks/run.py --rounds 1 --messages 100000 --only keyed
    .venv/bin/python tests/benchmarks/run.py --memory            ten million keys too: memory, once

Each measurement is a process of its own that reports the CPU time of its work, threads included, without its start-up.
The contenders of a row run one after the other, round by round (A B C A B C …), so that a machine that gets slower or
faster in between does so for all; what is shown are medians.  The peers live in .venv-peers, which is made here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PEERS = ROOT / ".venv-peers"
PACKAGES = {"bytewax": "bytewax==0.21.1", "quixstreams": "quixstreams==3.28.0", "faust": "faust-streaming==0.15.3"}

USERS, MANY_USERS = 10_000, 1_000_000
MESSAGES = 2_000_000


@dataclass(frozen=True)
class Contender:
    """One column of a row.  share: of the row's messages it gets, since what takes long settles with fewer."""

    name: str
    program: str
    work: str
    users: int = USERS
    share: float = 1.0

    @property
    def peer(self) -> str | None:
        return self.program if self.program in PACKAGES else None


@dataclass(frozen=True)
class Bar:
    """What our figure is held to: at most ``times`` the other, or with ``faster`` at least so many times as fast."""

    other: str
    times: float
    faster: bool = False

    def judge(self, ours: float, other: float) -> tuple[str, str]:
        """The ratio and the bar, in words."""
        if self.faster:
            return f"{other / ours:.2f} × as fast", f"≥ {self.times:g} × {_met(other / ours >= self.times)}"
        return f"{ours / other:.2f} × its cost", f"≤ {self.times:g} × {_met(ours / other <= self.times)}"


def _met(yes: bool) -> str:
    return "✓" if yes else "missed"


@dataclass(frozen=True)
class Row:
    """A piece of work, who does it, and the bars.  The first contender is ours."""

    key: str
    title: str
    text: str
    contenders: Sequence[Contender]
    bars: Sequence[Bar]


FLOOR = Contender("floor", "floor", "typed", share=0.25)
KEYED = Contender("streams", "ours", "keyed")


def peers(work: str, **works: str) -> list[Contender]:
    return [
        Contender("bytewax", "bytewax", works.get("bytewax", work), share=0.25),
        Contender("quixstreams", "quixstreams", works.get("quixstreams", work), share=0.05),
        Contender("faust", "faust", works.get("faust", work), share=0.05),
    ]


ROWS = [
    Row(
        "stateless-typed",
        "embedded → filter → map → embedded, typed",
        "Orders are decoded into a struct, eight of nine pass, each becomes another struct, which is "
        "encoded. The floor decodes and encodes the same payloads in a bare loop. Quixstreams has no types and works "
        "on dicts; faust uses its records.",
        [
            Contender("streams", "ours", "stateless-typed"),
            FLOOR,
            *peers("stateless-typed", quixstreams="stateless-dicts"),
        ],
        [Bar("floor", 2.2), Bar("bytewax", 1.3, True), Bar("quixstreams", 8, True), Bar("faust", 12, True)],
    ),
    Row(
        "stateless-dicts",
        "embedded → filter → map → embedded, dicts",
        "The same without types. The floor uses the same codec: orjson to decode, msgspec to encode.",
        [
            Contender("streams", "ours", "stateless-dicts"),
            Contender("floor", "floor", "dicts", share=0.25),
            *peers("stateless-dicts"),
        ],
        [Bar("floor", 2.2), Bar("bytewax", 1.0, True), Bar("quixstreams", 8, True), Bar("faust", 12, True)],
    ),
    Row(
        "keyed",
        "embedded → count by key → embedded, exactly once each 0.1 s",
        "10,000 keys, typed; the new count of each order is written. The floor is the bare codec loop without "
        "counting. Bytewax keeps recovery data with epochs of a second, quixstreams its state in RocksDB without a "
        "changelog, faust its table in memory.",
        [KEYED, FLOOR, *peers("keyed")],
        [Bar("floor", 3.5), Bar("bytewax", 5, True), Bar("quixstreams", 9, True), Bar("faust", 14, True)],
    ),
    Row(
        "keyed-1m",
        "the same with a million keys",
        "Each key comes once, then at random. The plain loop decodes and counts in a dict: it writes nothing and keeps "
        "nothing, while ours writes every count, the changelog and the store.",
        [
            Contender("streams", "ours", "keyed", users=MANY_USERS),
            Contender("dict", "floor", "dict", users=MANY_USERS),
        ],
        [Bar("dict", 2.5)],
    ),
    Row(
        "agent",
        "an agent with a table, the same work as the count by key",
        "`async for` over the orders, a table read and written for each, and a result yielded.",
        [Contender("streams, agent", "ours", "agent"), KEYED],
        [Bar("streams", 1.6)],
    ),
    Row(
        "windowed",
        "windowed count",
        "Tumbling windows that make half as many pairs of key and window as there are orders: a million for two "
        "million. Each pair's final result is written when its window closes.",
        [Contender("streams, windowed", "ours", "windowed"), KEYED],
        [Bar("streams", 1.5)],
    ),
    Row(
        "restore",
        "restore a store from its changelog",
        "The store of the count with a million keys is removed; a worker starts, reads the changelog and has caught "
        "up. Nanoseconds are per record of the changelog.",
        [Contender("streams, restore", "ours", "restore", users=MANY_USERS)],
        [Bar("reading the changelog", 3)],
    ),
]


@dataclass
class Results:
    """Nanoseconds a message by row and contender, one for each round."""

    rounds: int
    messages: int
    ns: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    memory: str = ""

    def add(self, row: Row, contender: Contender, report: dict[str, Any]) -> None:
        known = self.ns.setdefault(row.key, {})
        for name, ns in {contender.name: report["ns"], **report["others"]}.items():
            known.setdefault(name, []).append(ns)

    def median(self, row: Row, name: str) -> float | None:
        figures = self.ns.get(row.key, {}).get(name)
        return statistics.median(figures) if figures else None


# ── running ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def install_peers() -> dict[str, str]:
    """Make .venv-peers with what can be installed; returns why the others can't."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        print(f"setting up {PEERS.name}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEERS)], check=True)
    missing = {}
    for name, package in PACKAGES.items():
        marker = PEERS / f".installed-{package}"
        if marker.exists():
            continue
        codecs = [f"msgspec=={version('msgspec')}", f"orjson=={version('orjson')}"]
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", package, *codecs], capture_output=True, text=True
        )
        if done.returncode == 0:
            marker.touch()
        else:
            last = done.stderr.strip().splitlines()[-1:] or ["pip failed"]
            missing[name] = f"{package} can't be installed here: {last[0]}"
            print(f"{name} is left out: {missing[name]}")
    return missing


def command(contender: Contender, folder: Path, messages: int) -> list[str]:
    amount = ["--messages", str(max(1000, round(messages * contender.share))), "--users", str(contender.users)]
    if contender.peer:
        python = str(PEERS / "bin" / "python")
        return [python, "-W", "ignore", str(HERE / "peers.py"), contender.program, contender.work, *amount]
    if contender.program == "floor":
        return [sys.executable, str(HERE / "floor.py"), contender.work, *amount]
    return [
        sys.executable,
        str(HERE / "ours.py"),
        contender.work,
        str(filled(folder, contender.users, messages)),
        *amount,
    ]


def filled(folder: Path, users: int, messages: int) -> Path:
    """A folder with a log that holds the orders; made once."""
    log = folder / f"orders-{messages}-{users}"
    if not log.exists():
        amount = ["--messages", str(messages), "--users", str(users)]
        subprocess.run([sys.executable, str(HERE / "ours.py"), "fill", str(log), *amount], check=True, cwd=ROOT)
    return log


def report_of(argv: list[str]) -> dict[str, Any]:
    """Run a contender; what it measured is its last line."""
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} failed:\n{done.stderr[-4000:]}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def measure(rows: Sequence[Row], rounds: int, messages: int, folder: Path, missing: dict[str, str]) -> Results:
    results = Results(rounds, messages, missing=missing)
    # A contender that stands in several rows is measured once a round.
    everybody = dict.fromkeys(each for row in rows for each in row.contenders if each.peer not in missing)
    for number in range(1, rounds + 1):
        for contender in everybody:
            report = report_of(command(contender, folder, messages))
            print(
                f"round {number}/{rounds}  {contender.name:18} {contender.work:16} {report['ns']:8.0f} ns", flush=True
            )
            for row in rows:
                if contender in row.contenders:
                    results.add(row, contender, report)
    return results


def measure_memory(folder: Path) -> str:
    """Ten million keys, each new, then done: the most memory that the worker's process had."""
    keys = 10_000_000
    contender = Contender("streams", "ours", "keyed", users=keys)
    report = report_of(command(contender, folder, keys))
    shutil.rmtree(filled(folder, keys, keys))
    return (
        f"{keys:,} distinct keys through the keyed count: at most {report['rss_mb']:,} MB of memory in the worker's "
        f"process (bar: 2,000 MB {_met(report['rss_mb'] < 2000)}), {report['ns']:.0f} ns a message."
    )


# ── showing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(row: Row, results: Results) -> list[str]:
    ours_name = row.contenders[0].name
    ours = results.median(row, ours_name)
    assert ours is not None, f"{row.key} was measured"
    bars = {bar.other: bar for bar in row.bars}
    lines = [
        "| | ns a message | ours against it | bar |",
        "| --- | ---: | --- | --- |",
        f"| **{ours_name}** | {ours:.0f} | | |",
    ]
    names = [each.name for each in row.contenders[1:]]
    names += [name for name in bars if name not in names]
    for name in names:
        other = results.median(row, name)
        if other is None:
            lines.append(f"| {name} | not measured | | |")
        else:
            lines.append(f"| {name} | {other:.0f} | {' | '.join(bars[name].judge(ours, other))} |")
    return lines


def machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("msgspec", "orjson", "rocksdict", "uvloop"))
    return (
        f"{os.cpu_count()} cores, {platform.system()} on {platform.machine()}, Python {platform.python_version()}, "
        f"{packages}; peers: {', '.join(PACKAGES.values())}"
    )


def page(rows: Sequence[Row], results: Results, argv: Sequence[str]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; this run:",
        "",
        "```console",
        f"$ .venv/bin/python tests/benchmarks/run.py {' '.join(argv)}".rstrip(),
        "```",
        "",
        f"Machine: {machine()}.",
        "",
        f"Medians of {results.rounds} round{'s' if results.rounds > 1 else ''}, {results.messages:,} messages for ours "
        "(a quarter of them for the floor and bytewax, a twentieth for quixstreams and faust, which take longer). "
        "Figures are nanoseconds of CPU time a message, all threads of the process included, its start-up not. They "
        "are of one machine at one time: what carries over is the ratios.",
        "",
        "Messages are orders of 95 bytes in JSON. Ours runs as it is deployed: a worker on an embedded log on disk, "
        "exactly once, a synced commit each 0.1 s with outputs, changelog and positions in it. The peers run in their "
        "own process without a broker: their input comes from memory and their output is dropped "
        "(`tests/benchmarks/peers.py` says how each is driven). So ours pays for a durable log and they don't.",
        "",
    ]
    for row in rows:
        lines += [f"## {row.title[0].upper()}{row.title[1:]}", "", row.text, "", *table(row, results), ""]
    if results.memory:
        lines += ["## Memory", "", results.memory, ""]
    for name, why in results.missing.items():
        lines += [f"Not measured: {name}. {why}", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure, and write docs/benchmarks.md.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=MESSAGES, help="for ours; the others get a fixed share of it")
    parser.add_argument("--only", action="append", choices=[row.key for row in ROWS], help="this row; may be repeated")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    parser.add_argument(
        "--memory", action="store_true", help="ten million keys as well; takes minutes and some GB of disk"
    )
    parser.add_argument("--out", type=Path, help="where the page goes; docs/benchmarks.md unless --only is given")
    options = parser.parse_args()
    rows = [row for row in ROWS if not options.only or row.key in options.only]
    wanted = any(each.peer for row in rows for each in row.contenders) and not options.no_peers
    missing = install_peers() if wanted else dict.fromkeys(PACKAGES, "left out by --no-peers")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as temporary:
        results = measure(rows, options.rounds, options.messages, Path(temporary), missing)
        if options.memory:
            results.memory = measure_memory(Path(temporary))
    text = page(rows, results, sys.argv[1:])
    out = options.out or (ROOT / "docs" / "benchmarks.md" if not options.only else None)
    if out is None:
        print(text)
    else:
        out.parent.mkdir(exist_ok=True)
        out.write_text(text)
        print(f"wrote {out} after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
