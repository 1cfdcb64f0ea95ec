"""From an exception to one line on stderr, and a status.

    0  done    1  the app or the log failed    2  wrong usage or settings    128 + n  ended by signal n

What must live here: the words around an error.  What must not: catching one (``cli.program``).
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from functools import cache
from pathlib import Path

from streams.errors import ConfigurationError, StreamsError

__all__ = ["FAILED", "MISUSED", "one_line", "report", "status_of", "wants_traceback", "where"]

FAILED = 1
MISUSED = 2
HINT = "STREAMS_TRACEBACK=1 shows the traceback"


def status_of(error: BaseException) -> int:
    return MISUSED if isinstance(error, ConfigurationError) else FAILED


def wants_traceback() -> bool:
    return os.environ.get("STREAMS_TRACEBACK", "") not in ("", "0")


def report(error: BaseException) -> None:
    """Say on stderr what went wrong: one line, or all of it when that was asked for."""
    with suppress(OSError):  # a full disk, where stderr is a file on it: the status still tells
        if wants_traceback():
            traceback.print_exception(error)
        print(f"streams: error: {describe(error)}", file=sys.stderr)


def describe(error: BaseException) -> str:
    """One line.  What wasn't raised on purpose is given with the place in the user's code, and how to see more."""
    if isinstance(error, StreamsError):
        return one_line(str(error))
    place = where(error)
    at = f"{place}: " if place else ""
    hint = "" if wants_traceback() else f" ({HINT})"
    return f"{at}{one_line(type(error).__name__ + (f': {error}' if str(error) else ''))}{hint}"


def one_line(text: str) -> str:
    return " ".join(text.split())


_OWN = str(Path(__file__).resolve().parents[1])
_ROOMS = tuple(str((Path(_OWN) / room).resolve()) for room in ("connectors", "state", "apps"))


@cache
def _library() -> tuple[str, ...]:
    import sysconfig  # here: it reads how Python was built, and most commands don't fail

    return tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


def where(error: BaseException) -> str:
    """file:line of the innermost frame in the user's own code, else of the innermost frame; "" without any."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_users(frame.filename)]
    chosen = own[-1] if own else (frames[-1] if frames else None)
    return "" if chosen is None else f"{_short(chosen.filename)}:{chosen.lineno}"


def _is_users(filename: str) -> bool:
    if not os.path.isfile(filename):  # <frozen importlib>, or compiled code with the name of its source
        return False
    path = str(Path(filename).resolve())
    return not path.startswith((_OWN, *_ROOMS, *_library()))


def _short(filename: str) -> str:
    try:
        return str(Path(filename).resolve().relative_to(Path.cwd()))
    except ValueError:
        return filename
