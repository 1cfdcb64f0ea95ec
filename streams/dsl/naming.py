"""Names for what the user didn't name: derived from what the code says, never from its order.

``key_by(lambda f: f.carrier)`` on the topic departures becomes ``departures.by-carrier``: the same name however the
rest of the app is edited.  Two operators that would get the same name are refused; then one of them wants a ``name=``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType, FunctionType
from typing import Any

from streams.errors import ConfigurationError, TopologyError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,200}")


def check_name(name: str, what: str) -> str:
    """``name``, if it may name a topic, table, agent or app on every log; raises ConfigurationError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} can't name {what}: use letters, digits, '.', '_', '+' and '-', at most 200, and begin with a "
            f"letter or digit"
        )
    return name


def check_plain(fn: Callable[..., Any], what: str, *, generator: bool = True) -> None:
    """Raises ConfigurationError for an async function, which an operator would call and never wait for, and, where
    its result isn't looked at, for a generator, whose body would never run."""
    if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigurationError(f"{what} is async; operators call plain functions: use an agent for what awaits")
    if not generator and inspect.isgeneratorfunction(fn):
        raise ConfigurationError(f"{what} yields; hand values on with ctx.emit(…) instead")


def check_partitions(asked: int | None, default: int, what: str) -> int:
    """The number of partitions asked for, or the default; raises ConfigurationError for less than one."""
    if asked is not None and asked < 1:
        raise ConfigurationError(f"{what}: partitions={asked}; it has at least one")
    return default if asked is None else asked


def function_label(fn: Callable[..., Any], fallback: str) -> str:
    """A short name for a function: its own, or for a lambda the attributes and items that it reads."""
    name = getattr(fn, "__name__", "")
    if name and name != "<lambda>":
        return re.sub(r"[^A-Za-z0-9_-]", "-", name).strip("-") or fallback
    code = getattr(fn, "__code__", None)
    if code is None:
        return fallback
    words = [*code.co_names, *(const for const in code.co_consts if isinstance(const, str))]
    label = "-".join(re.sub(r"[^A-Za-z0-9_]", "", word) for word in words)
    return label or fallback


def named_values(fn: FunctionType) -> Iterator[Any]:
    """What a function names: globals, also those that only its inner functions and comprehensions name, and what it
    closes over, but for names that aren't bound yet."""
    codes = [fn.__code__]
    for code in codes:
        codes.extend(const for const in code.co_consts if isinstance(const, CodeType))
        yield from (fn.__globals__[name] for name in code.co_names if name in fn.__globals__)
    for cell in fn.__closure__ or ():
        with suppress(ValueError):  # an agent that is defined further down: its cell is still empty
            yield cell.cell_contents


class Names:
    """The names of an app's states and internal topics, each given once."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}

    def take(self, name: str, what: str) -> str:
        """Register ``name``; raises TopologyError when something else has it."""
        check_name(name, what)
        known = self._taken.get(name)
        if known is not None:
            raise TopologyError(
                f"{what} would be called {name!r}, as {known} already is; give one of them a name= of its own"
            )
        self._taken[name] = what
        return name
