"""FastStream on the real server; runs in an environment of its own.

A subscriber that pulls in batches of 500 from a durable consumer, and a publisher into a stream, as its documentation
has it: at least once, with the counts in a dict that is gone when it stops.  Orders are decoded by it, as dicts (a
Struct or a model costs it more); settings that aren't named here are its defaults.
"""

# The package is installed in the peer's environment only.
# mypy: disable-error-code="import-not-found,untyped-decorator"

from __future__ import annotations

import argparse
import asyncio
import logging
from collections import defaultdict
from typing import Any

import uvloop

from tests.benchmarks.common import work


async def keyed(options: argparse.Namespace, meter: work.Meter) -> None:
    from faststream.nats import JStream, NatsBroker, PullSub

    broker = NatsBroker(options.server, logger=None)
    source = JStream(options.input, declare=False)
    target = JStream(options.output, declare=False)
    counts: dict[str, int] = defaultdict(int)
    done = asyncio.Event()
    seen = 0

    @broker.subscriber(f"{options.input}.0", stream=source, durable=options.name, pull_sub=PullSub(batch_size=500))
    @broker.publisher(f"{options.output}.0", stream=target)
    async def count(order: dict[str, Any]) -> dict[str, Any]:
        nonlocal seen
        if not seen:
            meter.begin()
        user = order["user"]
        counts[user] += 1
        seen += 1
        if seen == options.messages:
            done.set()
        return {"user": user, "count": counts[user]}

    await broker.start()
    await done.wait()
    await broker.stop()  # on leaving, what is under way is published and acknowledged
    meter.end()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["keyed"])
    parser.add_argument("--server", required=True)
    parser.add_argument("--name", required=True, help="of its consumer")
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--size", choices=list(work.TYPES), default="small")
    parser.add_argument("--messages", type=int, required=True)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    meter = work.Meter()
    uvloop.run(keyed(options, meter))
    meter.report(options.messages)


if __name__ == "__main__":
    main()
