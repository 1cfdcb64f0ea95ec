"""The program: every verb under one roof, and the one place that catches.

What must live here: the list of verbs, and what becomes of an error.  What must not: a verb.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer import main as typer_main
from typer.exceptions import Abort, Exit

from streams.cli.agents import agents
from streams.cli.dev import dev
from streams.cli.doctor import doctor
from streams.cli.explain import explain
from streams.cli.failures import FAILED, MISUSED, report, status_of
from streams.cli.lag import lag
from streams.cli.new import new
from streams.cli.reset import reset
from streams.cli.send import send
from streams.cli.tables import tables
from streams.cli.tail import tail
from streams.cli.topics import topics
from streams.cli.topology import topology
from streams.cli.worker import worker

__all__ = ["program", "run"]

program = typer.Typer(
    name="streams",
    help="Stream processing on a log: run an app, look into it, and into its log.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_VERBS: list[tuple[str, Callable[..., Any]]] = [
    ("worker", worker),
    ("topology", topology),
    ("explain", explain),
    ("send", send),
    ("tail", tail),
    ("topics", topics),
    ("tables", tables),
    ("lag", lag),
    ("reset", reset),
    ("new", new),
    ("doctor", doctor),
    ("dev", dev),
]
for _name, _verb in _VERBS:
    program.command(_name)(_verb)
program.add_typer(agents, name="agents")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"streams {version('streams-log')}")
        except PackageNotFoundError:
            print("streams, not installed")
        raise Exit


@program.callback()
def _options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show tracebacks with errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if traceback:
        os.environ["STREAMS_TRACEBACK"] = "1"


def run(arguments: list[str]) -> int:
    """Carry out a command line; returns the status to end with."""
    if "--traceback" in arguments:  # wherever it stands: one adds it behind the command that failed
        os.environ["STREAMS_TRACEBACK"] = "1"
        arguments = [argument for argument in arguments if argument != "--traceback"]
    command = typer_main.get_command(program)
    try:
        result = command.main(args=arguments, prog_name="streams", standalone_mode=False)
    except Exit as ended:
        return ended.exit_code
    except (Abort, KeyboardInterrupt):
        print("streams: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does; the interpreter must not complain about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # noqa: BLE001 - the last line of defence: told in one line, with a status
        return _failed(error)
    return result if isinstance(result, int) else 0


def _failed(error: Exception) -> int:
    show = getattr(error, "format_message", None)  # the parser's own errors
    if show is not None:
        context = getattr(error, "ctx", None)
        help_line = f"; see `{context.command_path} --help`" if context is not None else ""
        print(f"streams: error: {' '.join(show().split()).rstrip('.')}{help_line}", file=sys.stderr)
        return MISUSED
    report(error)
    return status_of(error) or FAILED
