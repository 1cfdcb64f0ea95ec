"""The seed of a test: printed, and replayed with GUARANTEE_SEED=<seed>."""

from __future__ import annotations

import os
import random

import pytest


@pytest.fixture
def chance() -> random.Random:
    """The one source of chance of a test."""
    seed = int(os.environ.get("GUARANTEE_SEED") or random.SystemRandom().randrange(2**32))
    print(f"seed {seed}: GUARANTEE_SEED={seed} replays what was chosen")
    return random.Random(seed)
