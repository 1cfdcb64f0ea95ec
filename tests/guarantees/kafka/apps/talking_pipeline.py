"""``apps/pipeline.py`` whose workers log what each task meets in an outage, not only that there is one."""

from __future__ import annotations

import logging

from tests.guarantees.apps.pipeline import app


@app.on_start
async def talk() -> None:
    logging.getLogger("streams").setLevel(logging.DEBUG)
