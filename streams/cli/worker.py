"""``streams worker``: run an app until it is stopped."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, NamedTuple

import typer

from streams.cli.options import AppOption, ConfigOption, LogOption

__all__ = ["worker"]


def worker(
    app: AppOption,
    config: ConfigOption = None,
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
) -> int:
    """Run an app.

    SIGTERM or Ctrl-C: the tasks commit and let go, then the worker ends with status 0. Once more: it ends at once.
    Nothing is lost either way, nor by a crash: the next start goes on from the last commit.
    Status 1: the app failed. Status 2: it could not be started as asked.

    On a log that workers share, start as many workers as you like, here and elsewhere; --processes starts several at
    once, each with its own --port (counted up) and --name (with its number behind it), and ends with the first that
    fails. One that is killed is started again.
    """
    from streams.cli.load import load_app
    from streams.cli.progress import RestoreProgress
    from streams.connectors.registry import open_log
    from streams.core.duration import parse_duration_ms
    from streams.runtime.places import check_worker_name
    from streams.runtime.process import Settings, check_processes, run_worker, set_up_logging
    from streams.runtime.processes import leave_with_parent

    set_up_logging(logging.WARNING if quiet else logging.INFO)
    found = load_app(app, config)
    url = found.resolve_log_url(log)
    check_processes(url, processes)
    check_worker_name(name)
    if processes > 1:
        open_log(url)  # what is wrong with the URL is said once, not by each of them
        asked = _Options(
            app, config, log, host, port, advertise, name, until_idle, liveness_timeout, stop_timeout, uvloop, quiet
        )
        return _supervise(asked, processes)
    leave_with_parent()
    settings = Settings(
        log_url=url,
        host=host,
        port=port,
        advertise=advertise,
        name=name,
        until_idle=until_idle,
        liveness_timeout_s=parse_duration_ms(liveness_timeout, "--liveness-timeout") / 1000,
        stop_timeout_s=parse_duration_ms(stop_timeout, "--stop-timeout") / 1000,
        uvloop=uvloop,
    )
    with RestoreProgress(quiet=quiet) as progress:
        run_worker(found, settings, progress)
    return 0


class _Options(NamedTuple):
    app: str
    config: str | None
    log: str | None
    host: str
    port: int | None
    advertise: str
    name: str
    until_idle: bool
    liveness_timeout: str
    stop_timeout: str
    uvloop: bool
    quiet: bool


def _supervise(given: _Options, processes: int) -> int:
    from streams.core.duration import parse_duration_ms
    from streams.runtime.processes import Supervisor

    stop_timeout_s = parse_duration_ms(given.stop_timeout, "--stop-timeout") / 1000
    return Supervisor([_command(given, number) for number in range(processes)], stop_timeout_s).run()


def _command(given: _Options, number: int) -> list[str]:
    """The command line of one of several workers."""
    command = [sys.executable, "-m", "streams", "worker", "--app", given.app, "--host", given.host]
    if given.config is not None:
        command += ["--config", given.config]
    if given.log is not None:  # else it finds it as we did: what isn't on our command line isn't for everybody's eyes
        command += ["--log", given.log]
    if given.port is not None:
        command += ["--port", str(given.port + number if given.port else 0)]
    if given.advertise:
        command += ["--advertise", _counted(given.advertise, number)]
    if given.name:
        command += ["--name", f"{given.name}-{number}"]
    command += ["--liveness-timeout", given.liveness_timeout, "--stop-timeout", given.stop_timeout]
    command += ["--uvloop" if given.uvloop else "--no-uvloop"]
    return command + ["--until-idle"] * given.until_idle + ["--quiet"] * given.quiet


def _counted(advertise: str, number: int) -> str:
    host, _, port = advertise.rpartition(":")
    return f"{host}:{int(port) + number}" if host and port.isdecimal() else advertise
