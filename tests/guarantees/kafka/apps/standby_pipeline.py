"""``apps/pipeline.py`` with a copy of each task's state on another worker."""

from __future__ import annotations

from tests.guarantees.apps.pipeline import app

app.standbys = 1
