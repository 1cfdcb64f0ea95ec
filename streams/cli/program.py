"""The program: every verb under one roof, and the one place that catches.

What must live here: the list of verbs, and what becomes of an error.  What must not: a verb, nor the import of one:
``streams --help`` and each verb would pay for all of them.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer import main as typer_main
from typer.core import TyperGroup
from typer.exceptions import Abort, Exit

from streams.cli.command import Verb, Verbs
from streams.cli.failures import FAILED, MISUSED, report, status_of

__all__ = ["VERBS", "Later", "command", "program", "run"]

program = typer.Typer(
    name="streams",
    cls=Verbs,
    help="Stream processing on a log: run an app, look into it, and into its log.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

VERBS = {
    "worker": "Run an app.",
    "topology": "Draw an app: what its tasks read, do, keep and write.",
    "explain": "Show the plan of an app: tasks, topics, stores, the guarantee of each edge and why.",
    "send": "Send records to a topic.",
    "tail": "Show the records of a topic: the last 10, or as asked for.",
    "topics": "List the topics of a log.",
    "tables": "Show tables: their names, rows, or the value of one key.",
    "lag": "Show where each task stands in each of its inputs: committed position, end, and the difference.",
    "reset": "Start an app over: drop its positions, tables, windows, timers and internal topics.",
    "new": "Make a project: an app with an agent, a table and a window, its tests, and a README.",
    "doctor": "Check Python, packages, the log, its folder, disk and limits.",
    "dev": "Run a NATS server with JetStream, for work on this machine.",
    "agents": "List an app's agents, or ask one.",
}
"""Each verb, the name of its module as well, with the first sentence of its help: the list is shown without them."""


class Later(Verb):
    """A verb whose module is imported once the verb is on the command line."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self.verb().make_context(info_name, args, parent, **extra)

    def verb(self) -> Any:
        """The command itself."""
        assert self.name is not None
        found = getattr(import_module(f"streams.cli.{self.name}"), self.name)
        if not isinstance(found, typer.Typer):
            verb, found = (
                found,
                typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None),
            )
            found.command(self.name, cls=Verb)(verb)
        return typer_main.get_command(found)


def command() -> TyperGroup:
    """The command line as typer carries it out."""
    group = typer_main.get_command(program)
    assert isinstance(group, TyperGroup)
    for name, text in VERBS.items():
        group.add_command(Later(name, help=text, rich_markup_mode=None))
    return group


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
    try:
        result = command().main(args=arguments, prog_name="streams", standalone_mode=False)
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
