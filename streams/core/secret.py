"""Texts that no message, log line or ``repr`` shows.

What must live here: that.  What must not: where they come from (a connector's ``config``).
"""

from __future__ import annotations

__all__ = ["Secret"]


class Secret:
    """A string that shows itself to nobody but who calls ``reveal``.  False when empty."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "***" if self._text else "''"
