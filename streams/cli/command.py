"""What a verb is for typer: a command whose values are read without pydantic where that changes nothing.

What must live here: the classes that verbs and groups of verbs are made with.  What must not: a verb.

typer asks pydantic for every value, defaults as well; its import and its adapters take 0.08 s of CPU of each verb.  A
value that has the right type already needs none of it: texts, flags, and the defaults of numbers.  All others, as the 2
of ``--processes 2``, go to typer as before.  In a typer without that step nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["Verb", "Verbs"]

ASK = "get_runtime_param"
"""By which a parameter of typer gives what turns its values into its type."""
PLAIN = (str, bool, int, float)


class _AsItIs:
    """Stands in for typer's coercion of a parameter of the type ``kind``; full: gives typer's own."""

    def __init__(self, kind: type, full: Callable[[], Any]) -> None:
        self._kind = kind
        self._full = full

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None or type(value) is self._kind:
            return value
        return self._full().coerce(value, param=param, ctx=ctx)


def _spared(param: Any) -> Any:
    kind = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    if kind in PLAIN and param.nargs == 1 and ASK not in vars(param):
        stand_in = _AsItIs(kind, getattr(param, ASK))
        setattr(param, ASK, lambda: stand_in)
    return param


class Verb(TyperCommand):
    def get_params(self, ctx: Any) -> Any:
        return [_spared(param) for param in super().get_params(ctx)]


class Verbs(TyperGroup):
    def get_params(self, ctx: Any) -> Any:
        return [_spared(param) for param in super().get_params(ctx)]
