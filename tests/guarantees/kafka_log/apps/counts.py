"""Counts words, by line: an input, a repartition topic, a changelog, an output.  Settings by the environment."""

from __future__ import annotations

import os
from typing import Literal

from streams import App

NAME = os.environ.get("APP", "counts")

ON_LOST: Literal["fail", "earliest"] = "earliest" if os.environ.get("ON_LOST") == "earliest" else "fail"

app = App(NAME, commit_interval="50ms")

(
    app.stream(
        f"{NAME}.lines",
        value=str,
        on_lost=ON_LOST,
    )
    .flat_map(str.split, value=str)
    .key_by(lambda word: word)
    .count(name="seen")
    .to(f"{NAME}.counts")
)
