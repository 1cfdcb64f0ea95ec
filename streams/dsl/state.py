"""State objects for ``process``."""

from __future__ import annotations

import msgspec


class State(msgspec.Struct):
    """Base for the state of a ``process`` function: declare fields, each with a default.

    ``clear()`` puts every field back to its default; a state that equals a fresh one isn't stored.
    """

    def clear(self) -> None:
        """Forget everything."""
        fresh = type(self)()
        for field in self.__struct_fields__:
            setattr(self, field, getattr(fresh, field))
