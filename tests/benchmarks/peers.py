"""The peers, each in this process and without a broker; runs in an environment of its own.

    bytewax       a source that hands over lists of a thousand payloads, its operators, a sink that takes lists; keyed:
                  with recovery to SQLite and epochs of a second
    quixstreams   ``Application`` and ``StreamingDataFrame`` as they are; its consumer is given message objects, its
                  producer takes the bytes and drops them; keyed: state in RocksDB without a changelog, a checkpoint
                  each 0.1 s
    faust         a stream over a topic's channel, to which messages are delivered as its consumer does; what is sent is
                  serialised and dropped; keyed: a table in memory, its changelog sent the same way

So no peer pays for a network or a broker, which all of them would in use; ours writes and syncs a real log.
"""

# These packages are installed in the peers' environment only.
# mypy: disable-error-code="arg-type,call-arg,import-not-found,import-untyped,misc,no-any-return"
# mypy: disable-error-code="no-untyped-call,type-arg"

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.benchmarks import workload
else:
    import workload

Orders = list[tuple[bytes, bytes]]


def bytewax(work: str, orders: Orders) -> workload.Spent:
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
    from bytewax.outputs import DynamicSink, StatelessSinkPartition
    from bytewax.recovery import RecoveryConfig, init_db_dir
    from bytewax.testing import run_main

    payloads = [payload for _, payload in orders]

    class Partition(StatefulSourcePartition):
        def __init__(self, first: int | None) -> None:
            self.row = first or 0

        def next_batch(self) -> list[bytes]:
            if self.row >= len(payloads):
                raise StopIteration
            batch = payloads[self.row : self.row + workload.BLOCK_RECORDS]
            self.row += len(batch)
            return batch

        def snapshot(self) -> int:
            return self.row

    class Input(FixedPartitionedSource):
        def list_parts(self) -> list[str]:
            return ["0"]

        def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Partition:
            return Partition(resume_state)

    class Drop(StatelessSinkPartition):
        def write_batch(self, items: list[Any]) -> None:
            written.append(len(items))

    class Output(DynamicSink):
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Drop:
            return Drop()

    written: list[int] = []
    flow = Dataflow("orders")
    source = op.input("in", flow, Input())
    if work == "keyed":
        keyed = op.key_on("key", op.map("decode", source, workload.decode_typed), lambda order: order.user)
        counts = op.stateful_map("count", keyed, lambda seen, order: ((seen or 0) + 1, (seen or 0) + 1))
        op.output("out", op.map("encode", counts, lambda pair: workload.encode(pair[1])), Output())
    else:
        typed = work == "stateless-typed"
        decoded = op.map("decode", source, workload.decode_typed if typed else workload.decode_dict)
        large = op.filter("large", decoded, workload.is_large if typed else workload.is_large_dict)
        priced = op.map("priced", large, workload.priced if typed else workload.priced_dict)
        op.output("out", op.map("encode", priced, workload.encode), Output())
    with tempfile.TemporaryDirectory() as folder:
        recovery = None
        if work == "keyed":
            init_db_dir(Path(folder), 1)
            recovery = RecoveryConfig(folder)
        with workload.measured(len(orders)) as spent:
            run_main(flow, epoch_interval=timedelta(seconds=1), recovery_config=recovery)
    assert sum(written) in (len(orders), sum(1 for p in payloads if workload.is_large(workload.decode_typed(p))))
    return spent


class FakeMessage:
    """A message as Confluent's consumer hands it out."""

    __slots__ = ("_key", "_offset", "_value")

    def __init__(self, offset: int, key: bytes, value: bytes) -> None:
        self._offset, self._key, self._value = offset, key, value

    def topic(self) -> str:
        return "orders"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes:
        return self._value

    def timestamp(self) -> tuple[int, int]:
        return 1, workload.START_MS + self._offset

    def headers(self) -> None:
        return None

    def error(self) -> None:
        return None

    def leader_epoch(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self._value)


class FakeKafka:
    """Stands in for the librdkafka client under quixstreams' producer: takes everything and keeps nothing."""

    def __init__(self) -> None:
        self.sent = 0

    def produce(self, **_: Any) -> None:
        self.sent += 1

    def poll(self, timeout: float = 0) -> int:
        return 0

    def flush(self, timeout: float | None = None) -> int:
        return 0

    def _broker_available(self) -> None:
        pass

    def raise_if_broker_unavailable(self, timeout: float) -> None:
        pass


def quixstreams(work: str, orders: Orders) -> workload.Spent:
    from quixstreams import Application
    from quixstreams.models.topics import TopicConfig

    with tempfile.TemporaryDirectory() as folder:
        app = Application(
            broker_address="127.0.0.1:1",
            consumer_group="bench",
            commit_interval=0.1,
            use_changelog_topics=False,
            state_dir=folder,
            loglevel="ERROR",
        )
        manager = app._topic_manager

        def existing(topic: Any) -> Any:
            topic.broker_config = TopicConfig(
                num_partitions=1, replication_factor=1, extra_config={"retention.ms": "-1", "retention.bytes": "-1"}
            )
            return topic

        manager._get_or_create_broker_topic = existing
        source = app.topic("orders", key_deserializer="bytes", value_deserializer="json")
        target = app.topic("out", key_serializer="bytes", value_serializer="json")
        frame = app.dataframe(source)
        if work == "keyed":

            def count(order: dict[str, Any], state: Any) -> int:
                seen: int = state.get("n", 0) + 1
                state.set("n", seen)
                return seen

            frame = frame.apply(count, stateful=True)
        else:
            frame = frame.filter(workload.is_large_dict).apply(workload.priced_dict)
        frame.to_topic(target)

        client = FakeKafka()
        app._producer._producer = client
        consumer = app._consumer
        consumer._topics = {"orders": source}
        consumer.commit = lambda **_: []
        consumer._broker_available = lambda: None
        messages = iter([FakeMessage(offset, key, value) for offset, (key, value) in enumerate(orders)])
        consumer.poll = lambda timeout=None: next(messages)
        app._state_manager.init()
        for stream in app._dataframe_registry.get_stream_ids(topic_name="orders"):
            app._state_manager.on_partition_assign(stream_id=stream, partition=0, committed_offsets={"orders": -1001})
        composed = app._dataframe_registry.compose_all()
        app._processing_context.init_checkpoint()
        # The loop of Application._run_dataframe, as long as there are messages.
        with workload.measured(len(orders)) as spent:
            for _ in orders:
                app._process_message(composed)
                app._dataframe_registry.run_periodic_tasks()
                app._processing_context.commit_checkpoint()
                consumer.resume_backpressured()
            app._processing_context.commit_checkpoint(force=True)
        app._state_manager.close()
    assert client.sent == sum(1 for _, p in orders if work == "keyed" or workload.is_large(workload.decode_typed(p)))
    return spent


def faust(work: str, orders: Orders) -> workload.Spent:
    import faust as peer
    from faust.types import TP, Message, RecordMetadata

    class OrderRecord(peer.Record, serializer="json"):
        id: int
        user: str
        item: str
        quantity: int
        price: float
        time: int

    class PricedRecord(peer.Record, serializer="json"):
        id: int
        user: str
        total: float

    async def run() -> tuple[workload.Spent, int]:
        app = peer.App("bench", broker="kafka://127.0.0.1:1", store="memory://", topic_partitions=1)
        sent: list[int] = []
        place = RecordMetadata("out", 0, TP("out", 0), 0)

        class Producer:
            """Takes what is sent, as bytes, and keeps nothing."""

            async def send(self, topic: str, key: bytes, value: bytes, **_: Any) -> Any:
                sent.append(len(value))
                done = asyncio.get_running_loop().create_future()
                done.set_result(place)
                return done

            def send_soon(self, fut: Any) -> None:
                sent.append(0)
                fut.set_result(place)

        async def producer() -> Producer:
            return sink

        sink = Producer()
        app._producer = sink
        app.flow_control.resume()
        typed = work != "stateless-dicts"
        out = app.topic("out", key_type=bytes, key_serializer="raw", value_serializer="json")
        out._get_producer = producer
        counts = app.Table("counts", default=int, partitions=1, key_type=str, value_type=int)
        stream = app.stream(app.topic("orders", key_type=bytes, value_type=OrderRecord if typed else None))
        deliver_one = stream.channel.deliver

        async def deliver() -> None:
            tp = TP("orders", 0)
            for offset, (key, value) in enumerate(orders):
                message = Message("orders", 0, offset, 1.7e9, 1, [], key, value, None, tp=tp)
                message.generation_id = app.consumer_generation_id
                await deliver_one(message)

        with workload.measured(len(orders)) as spent:
            delivering = asyncio.create_task(deliver())
            left = len(orders)
            async for event in stream.events():
                order = event.value
                if work == "keyed":
                    counts[order.user] = seen = counts[order.user] + 1
                    await out.send(key=event.key, value=seen)
                elif typed:
                    if workload.is_large(order):
                        priced = PricedRecord(id=order.id, user=order.user, total=order.quantity * order.price)
                        await out.send(key=event.key, value=priced)
                elif workload.is_large_dict(order):
                    await out.send(key=event.key, value=workload.priced_dict(order))
                left -= 1
                if not left:
                    break
            await delivering
        return spent, len(sent)

    spent, sent = asyncio.run(run())
    print(sent, file=sys.stderr)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=["bytewax", "quixstreams", "faust"])
    parser.add_argument("work", choices=["stateless-typed", "stateless-dicts", "keyed"])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=10_000)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    orders = list(workload.orders(options.messages, options.users))
    {"bytewax": bytewax, "quixstreams": quixstreams, "faust": faust}[options.peer](options.work, orders).report()


if __name__ == "__main__":
    main()
