"""What happens when a broker that the tests need can't be had: a skip for a user, a failure in CI.

Nothing about any one broker lives here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class Unavailable(Exception):
    """A broker can't be had on this machine.  Its text is one line: what is missing, and how to get it."""


@contextmanager
def skipped_if_unavailable() -> Iterator[None]:
    """Turn ``Unavailable`` into one skip line; with ``CI`` set, into a failure, so that CI never skips in silence."""
    try:
        yield
    except Unavailable as missing:
        reason = str(missing)
    else:
        return
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
