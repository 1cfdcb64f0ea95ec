"""What happens when a broker that the tests need can't be had: a skip for a user, a failure in CI.

Nothing about any one broker lives here.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


class Unavailable(Exception):
    """A broker can't be had on this machine.  Its text is one line: what is missing, and how to get it."""


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test, or with ``CI`` set let it fail, so that CI never skips in silence.

    Called from the same line for all tests with the same reason, pytest's summary has one line for all of them.
    """
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
