"""``streams worker``: run an app until it is stopped."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from streams.cli.options import AppOption, LogOption

__all__ = ["worker"]


def worker(
    app: AppOption,
    log: LogOption = None,
    port: Annotated[
        int | None, typer.Option(help="Serve health, metrics and tables on this port (0: any).", min=0, max=65535)
    ] = None,
    host: Annotated[str, typer.Option(help="The address for --port.")] = "127.0.0.1",
    advertise: Annotated[
        str,
        typer.Option(
            envvar="STREAMS_ADVERTISE",
            metavar="HOST[:PORT]",
            help="Where other workers reach --host and --port, when that is another address (containers).",
        ),
    ] = "",
    name: Annotated[
        str,
        typer.Option(
            envvar="STREAMS_WORKER_NAME",
            help="Of this worker, one for each: back under it soon, it finds its tasks again.",
        ),
    ] = "",
    processes: Annotated[int, typer.Option(help="Worker processes; more than one needs a log that can be shared.")] = 1,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Stop once everything on the log is processed and committed.")
    ] = False,
    liveness_timeout: Annotated[
        str,
        typer.Option(
            envvar="STREAMS_LIVENESS_TIMEOUT",
            metavar="DURATION",
            help="A task without progress for so long while records wait is stuck: unhealthy, and fails the worker.",
        ),
    ] = "2m",
    stop_timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="How long tasks may take to commit when the worker is stopped.")
    ] = "8s",
    uvloop: Annotated[bool, typer.Option(help="Use uvloop where it is installed.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Warnings and errors only.")] = False,
) -> None:
    """Run an app.

    SIGTERM or Ctrl-C: the tasks commit and let go, then the worker ends with status 0. Once more: it ends at once.
    Nothing is lost either way, nor by a crash: the next start goes on from the last commit.
    Status 1: the app failed. Status 2: it could not be started as asked.
    """
    from streams.cli.load import load_app
    from streams.cli.progress import RestoreProgress
    from streams.core.duration import parse_duration_ms
    from streams.runtime.places import check_worker_name
    from streams.runtime.process import Settings, check_processes, run_worker, set_up_logging

    set_up_logging(logging.WARNING if quiet else logging.INFO)
    found = load_app(app)
    url = found.resolve_log_url(log)
    check_processes(url, processes)
    settings = Settings(
        log_url=url,
        host=host,
        port=port,
        advertise=advertise,
        name=check_worker_name(name),
        until_idle=until_idle,
        liveness_timeout_s=parse_duration_ms(liveness_timeout, "--liveness-timeout") / 1000,
        stop_timeout_s=parse_duration_ms(stop_timeout, "--stop-timeout") / 1000,
        uvloop=uvloop,
    )
    with RestoreProgress(quiet=quiet) as progress:
        run_worker(found, settings, progress)
