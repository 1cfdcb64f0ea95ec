"""A broker by hand: ``python -m tests.brokers.kafka [name=value ...]`` from the top of the tree.

Starts one broker with these settings, prints its bootstrap address, and stops it when its standard input ends (ctrl-D)
or on SIGTERM or ctrl-C.
"""

from __future__ import annotations

import signal
import sys

from tests.brokers.kafka.broker import KafkaBroker
from tests.brokers.unavailable import Unavailable


def main() -> int:
    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, ended)
    properties = dict(argument.split("=", 1) for argument in sys.argv[1:])
    try:
        with KafkaBroker(properties) as broker:
            print(broker.bootstrap, flush=True)
            sys.stdin.read()
    except KeyboardInterrupt:
        return 0
    except Unavailable as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
