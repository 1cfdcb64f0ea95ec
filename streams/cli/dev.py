"""``streams dev``: a NATS server with JetStream for local work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["dev"]

LOOK_S = 0.2


def dev(
    port: Annotated[
        int | None,
        typer.Option(help="Listen here; else on 4222, or on any free port if that is taken.", min=1, max=65535),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the data here; else it is gone when the server stops.", file_okay=False),
    ] = None,
    monitor: Annotated[
        int | None, typer.Option(help="Serve NATS' monitoring over HTTP on this port (0: any).", min=0, max=65535)
    ] = None,
    sync: Annotated[
        str,
        typer.Option(
            metavar="always|DURATION",
            help="When the disk is synced: always, before each acknowledgement, or every so often (the default: 2m).",
        ),
    ] = "",
) -> int:
    """Run a NATS server with JetStream, for work on this machine.

    It listens on 127.0.0.1 only, asks nobody who they are, and ends with this command: by Ctrl-C, SIGTERM, or when
    this is killed.
    """
    import signal
    from types import FrameType

    from streams.cli.failures import FAILED, report
    from streams.core.duration import parse_duration_ms
    from streams.errors import LogUnavailable
    from streams.runtime.dev_server import DevServer

    if sync and sync != "always":
        sync = f"{parse_duration_ms(sync, '--sync')}ms"
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    server = DevServer(port=port, monitor=monitor, store=store, sync=sync)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        with server:
            _say(server, kept=store is not None)
            while not stopped:
                if server.wait(LOOK_S):
                    report(LogUnavailable(f"nats-server has ended by itself: {server.last_words()}"))
                    return FAILED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(f"stopped{'' if store is None else f'; the data is in {server.store}'}", flush=True)
    return 0


def _say(server: object, *, kept: bool) -> None:
    from streams.runtime.dev_server import DevServer

    assert isinstance(server, DevServer)
    url = server.url
    print(f"nats-server {server.version} with JetStream: {url}")
    if server.monitor_url:
        print(f"  monitoring   {server.monitor_url}")
        url = f"'{url}?monitor_url={server.monitor_url}'"
    print(f"  data         {server.store}{'' if kept else ', gone at the end'}")
    print(f"  its own log  {server.log_file}")
    print("Next, in another terminal:")
    print(f"  streams worker -A MODULE --log {url}")
    print(f"  streams send TOPIC -A MODULE --log {url}")
    print("Ctrl-C stops it.", flush=True)
