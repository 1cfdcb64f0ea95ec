"""The peers in Python, each in this process on the real broker; runs in an environment of its own for each.

    quixstreams   exactly once; StreamingDataFrame, state in RocksDB with a changelog
    faust         exactly once; an agent, a table in memory with a changelog
    bytewax       its Kafka source and sink; it has no exactly-once to Kafka: at least once, with recovery to SQLite and
                  an epoch each interval.  It takes no group offsets.

Settings that aren't named here are the peer's defaults.
"""

# These packages are installed in the peers' environments only.
# mypy: disable-error-code="arg-type,call-arg,import-not-found,import-untyped,misc,no-any-return"
# mypy: disable-error-code="no-untyped-call,no-untyped-def,type-arg,untyped-decorator"

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.benchmarks.common import work


def quixstreams(options: argparse.Namespace, meter: work.Meter) -> None:
    from quixstreams import Application

    with tempfile.TemporaryDirectory(prefix="streams-bench-") as folder:
        app = Application(
            broker_address=options.bootstrap,
            consumer_group=options.name,
            auto_offset_reset="earliest",
            commit_interval=options.commit_interval,
            processing_guarantee="exactly-once",
            state_dir=folder,
            loglevel="ERROR",
        )
        source = app.topic(options.input, key_deserializer="bytes", value_deserializer="json")
        target = app.topic(options.output, key_serializer="bytes", value_serializer="json")

        def count(order: dict[str, Any], state: Any) -> int:
            if not meter.running:
                meter.begin()
            seen: int = state.get("n", 0) + 1
            state.set("n", seen)
            return seen

        frame = app.dataframe(source).apply(count, stateful=True)
        frame.to_topic(target)
        app.run(count=options.messages)  # the last checkpoint is committed when it returns
        meter.end()


def faust(options: argparse.Namespace, meter: work.Meter) -> None:
    import faust as peer

    class Order(peer.Record, serializer="json"):
        id: int
        user: str
        item: str
        quantity: int
        price: float
        time: int

    class LargeOrder(peer.Record, serializer="json"):
        id: int
        user: str
        item: str
        quantity: int
        price: float
        time: int
        note: str
        lines: list  # of dicts: a nested Record costs it more

    app = peer.App(
        options.name,
        broker=f"kafka://{options.bootstrap}",
        store="memory://",
        processing_guarantee="exactly_once",
        broker_commit_interval=options.commit_interval,
        topic_partitions=options.partitions,
        topic_replication_factor=1,
        topic_allow_declare=True,
        web_enabled=False,
    )
    kinds = {"small": Order, "large": LargeOrder}
    source = app.topic(options.input, key_type=bytes, key_serializer="raw", value_type=kinds[options.size])
    out = app.topic(
        options.output,
        partitions=options.partitions,
        key_type=bytes,
        key_serializer="raw",
        value_type=int,
        value_serializer="json",
    )
    counts = app.Table("counts", default=int, partitions=options.partitions, key_type=str, value_type=int)
    done = asyncio.Event()

    async def committed() -> None:
        """Wait for the commit that holds the last order."""
        while True:
            places = [place for place in app.consumer.assignment() if place.topic == options.input]
            offsets = [app.consumer._committed_offset[place] for place in places]
            if places and sum(offset or 0 for offset in offsets) >= options.messages:
                return
            await asyncio.sleep(0.02)

    @app.agent(source)
    async def count(orders: Any) -> None:
        seen = 0
        async for event in orders.events():
            meter.begin()
            user = event.value.user
            counts[user] = number = counts[user] + 1
            await out.send(key=event.key, value=number)
            seen += 1
            if seen == options.messages:
                done.set()

    async def run() -> None:
        worker = asyncio.create_task(app.start())
        finished = asyncio.create_task(done.wait())
        await asyncio.wait([worker, finished], return_when=asyncio.FIRST_COMPLETED)
        if worker.done() and worker.exception():
            worker.result()
        await finished
        await committed()
        meter.end()
        await app.stop()
        await worker

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    app.loop = loop
    loop.run_until_complete(run())


def bytewax(options: argparse.Namespace, meter: work.Meter) -> None:
    import bytewax.operators as op
    from bytewax.connectors.kafka import KafkaSinkMessage
    from bytewax.connectors.kafka import operators as kop
    from bytewax.dataflow import Dataflow
    from bytewax.recovery import RecoveryConfig, init_db_dir
    from bytewax.testing import run_main

    decode = work.decoder(options.size)

    def decoded(message: Any) -> Any:
        if not meter.running:
            meter.begin()
        return message.key, decode(message.value), message.timestamp[1]

    def count(seen: int | None, item: Any) -> tuple[int, tuple[bytes, int, int]]:
        number = (seen or 0) + 1
        return number, (item[0], number, item[2])

    def encoded(pair: Any) -> Any:
        key, number, timestamp = pair[1]
        return KafkaSinkMessage(key, work.encode(number), timestamp=timestamp)

    flow = Dataflow("orders")
    source = kop.input("in", flow, brokers=[options.bootstrap], topics=[options.input], tail=False)
    keyed = op.key_on("key", op.map("decode", source.oks, decoded), lambda item: item[1].user)
    counts = op.stateful_map("count", keyed, count)
    kop.output("out", op.map("encode", counts, encoded), brokers=[options.bootstrap], topic=options.output)
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as folder:
        init_db_dir(Path(folder), 1)
        run_main(
            flow, epoch_interval=timedelta(seconds=options.commit_interval), recovery_config=RecoveryConfig(folder)
        )
        meter.end()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=["bytewax", "quixstreams", "faust"])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--name", required=True, help="of the app and its group")
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--size", choices=list(work.TYPES), default="small")
    parser.add_argument("--messages", type=int, required=True, help="0: until SIGTERM, quixstreams only")
    parser.add_argument("--commit-interval", type=float, required=True, help="in seconds")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    meter = work.Meter()
    {"bytewax": bytewax, "quixstreams": quixstreams, "faust": faust}[options.peer](options, meter)
    if options.messages:
        meter.report(options.messages)


if __name__ == "__main__":
    main()
