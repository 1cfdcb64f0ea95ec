"""A table that is written and looked into by commands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from streams import App

app = App("names", commit_interval="20ms")
names = app.table("names", key=str, value=str)


@app.agent(app.stream("commands", value=dict), sinks=["answers"])
async def obey(commands: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, str]]:
    async for command in commands:
        if "set" in command:
            names[command["set"]] = command["to"]
        elif "delete" in command:
            del names[command["delete"]]
        else:
            yield dict(names.items())
