"""How verbs show things: rows in columns for people, JSON for programs."""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

__all__ = ["json_line", "json_value", "print_columns", "shown_bytes", "shown_time"]


def json_line(value: Any) -> None:
    """One JSON value on a line of its own."""
    from streams.runtime.tables import encode_json

    sys.stdout.write(encode_json(value).decode() + "\n")


def print_columns(headings: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> None:
    """Rows under headings, columns aligned; those with an index in ``right`` to the right."""
    cells = [list(headings), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(headings))]
    for row in cells:
        shown = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(shown).rstrip())


def shown_bytes(raw: bytes | None) -> str:
    """Bytes of a record for a person: text where they are text."""
    if raw is None:
        return "-"
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return f"0x{raw.hex()}"
    return text if text.isprintable() else repr(text)[1:-1]


def json_value(raw: bytes | None) -> Any:
    """Bytes of a record for a program: JSON where they are JSON, text where they are text, else {"base64": …}."""
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def shown_time(time_ms: int) -> str:
    """A timestamp in UTC; the number where no calendar holds it."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(time_ms)
