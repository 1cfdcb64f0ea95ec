"""The command line: ``streams``.

One file a verb.  What must live here: words, options, output.  What must not: what is done to a log or a task, beyond
asking for it.  Heavy imports stand inside the verbs, so that ``streams --help`` is there at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of ``streams``.  Ends by SystemExit with 0 (done), 1 (failed) or 2 (wrong usage or settings)."""
    try:
        from streams.cli.program import run

        status = run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:  # before there was anything to stop
        status = 130
    sys.exit(status)
