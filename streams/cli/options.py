"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AppOption", "AsJson", "ConfigOption", "LogOption", "OptionalApp", "log_url_of"]

AppOption = Annotated[
    str, typer.Option("--app", "-A", metavar="MODULE[:APP]", help="The app: a module (shop.app:app) or a .py file.")
]
OptionalApp = Annotated[
    str | None,
    typer.Option("--app", "-A", metavar="MODULE[:APP]", help="The app whose log and types to use."),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The TOML file that the app is made from, where it is (streams.apps.bridge).",
    ),
]
LogOption = Annotated[
    str | None,
    typer.Option("--log", metavar="URL", help="The log, as embedded:./data; else the app's, $STREAMS_LOG, ./.streams."),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON.")]


def log_url_of(log: str | None) -> str:
    """The URL of the log for a tool that has no app."""
    import os

    from streams.dsl.app import DEFAULT_LOG

    return log or os.environ.get("STREAMS_LOG") or DEFAULT_LOG
