"""Bytes in, bytes out, and a count in a store."""

from __future__ import annotations

import os
from typing import Any

from streams import App

POLICY: Any = os.environ.get("POLICY", "fail")

app = App("blobs", commit_interval="20ms")


def treat(value: bytes) -> bytes:
    return value * 2 if value.startswith(b"double") else value[::-1]


blobs = app.stream(app.topic("blobs", value=bytes), on_error=POLICY)
blobs.map(treat).to(app.topic("treated", value=bytes))
blobs.count().to("counted")
