"""A small app and its workload, for the simulator's command."""

from __future__ import annotations

from streams.dsl.app import App
from streams.testing.sim_workload import Client

__all__ = ["make_app", "workload"]


def make_app() -> App:
    app = App("counting")
    app.stream("words", idle_after=None).count(name="counted").to("counts")
    return app


async def workload(client: Client) -> None:
    for number in range(5):
        await client.send("words", number, key="a")
