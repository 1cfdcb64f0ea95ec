"""The floor: the same payloads in a bare loop, with the same codec and nothing around it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.benchmarks import workload
else:
    import workload


def codec(payloads: list[bytes], decode: Callable[[bytes], Any]) -> workload.Spent:
    """Decode and encode again; nothing is kept."""
    encode = workload.encode
    with workload.measured(len(payloads)) as spent:
        for payload in payloads:
            encode(decode(payload))
    return spent


def counts(payloads: list[bytes]) -> workload.Spent:
    """Decode and count in a dict."""
    decode = workload.decode_typed
    known: dict[str, int] = {}
    with workload.measured(len(payloads)) as spent:
        for payload in payloads:
            user = decode(payload).user
            known[user] = known.get(user, 0) + 1
    return spent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["typed", "dicts", "dict"])
    parser.add_argument("--messages", type=int, default=500_000)
    parser.add_argument("--users", type=int, default=10_000)
    options = parser.parse_args()
    orders = workload.orders(options.messages, options.users, each_once=options.users >= workload.MANY)
    payloads = [payload for _, payload in orders]
    if options.work == "dict":
        counts(payloads).report()
    else:
        codec(payloads, workload.decode_typed if options.work == "typed" else workload.decode_dict).report()


if __name__ == "__main__":
    main()
