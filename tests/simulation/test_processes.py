"""Simulated processes die and stand still as real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from streams.testing.sim_process import Process, SimLoop


def on_a_loop(scenario: Callable[[SimLoop], Coroutine[Any, Any, None]]) -> None:
    loop = SimLoop()
    try:
        loop.run_until_complete(scenario(loop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()


def test_nothing_of_a_killed_process_runs_again_not_even_its_finally_blocks() -> None:
    said: list[str] = []

    async def work() -> None:
        try:
            said.append("begins")
            await asyncio.sleep(1.0)
            said.append("goes on")
        finally:
            said.append("cleans up")

    async def scenario(loop: SimLoop) -> None:
        process = Process("one", loop)
        task = process.spawn(work(), "work")
        await asyncio.sleep(0.5)
        process.kill()
        await asyncio.sleep(10.0)
        assert said == ["begins"]
        process.bury()
        task.cancel()
        await asyncio.sleep(0)

    on_a_loop(scenario)


def test_a_process_that_kills_itself_does_not_return_from_it() -> None:
    said: list[str] = []

    async def scenario(loop: SimLoop) -> None:
        process = Process("one", loop)

        async def work() -> None:
            process.kill()
            await asyncio.sleep(0)
            said.append("lives")

        process.spawn(work(), "work")
        await asyncio.sleep(1.0)
        assert said == []
        assert process.dead

    on_a_loop(scenario)


def test_a_frozen_process_goes_on_where_it_stood_with_its_timers_overdue() -> None:
    said: list[tuple[str, float]] = []

    async def scenario(loop: SimLoop) -> None:
        process = Process("one", loop)

        async def work() -> None:
            for step in ("one", "two"):
                await asyncio.sleep(1.0)
                said.append((step, loop.time()))

        process.spawn(work(), "work")
        await asyncio.sleep(0.5)
        process.freeze()
        await asyncio.sleep(4.5)
        assert said == []
        process.thaw()
        await asyncio.sleep(2.0)
        assert said == [("one", 5.0), ("two", 6.0)]

    on_a_loop(scenario)


def test_a_timeout_that_came_due_while_frozen_strikes_first_and_only_once() -> None:
    said: list[str] = []

    async def scenario(loop: SimLoop) -> None:
        process = Process("one", loop)
        answer: asyncio.Future[str] = loop.create_future()

        async def work() -> None:
            try:
                async with asyncio.timeout(1.0):
                    said.append(await answer)
            except TimeoutError:
                said.append("too late")

        process.spawn(work(), "work")
        await asyncio.sleep(0.5)
        process.freeze()
        await asyncio.sleep(1.0)
        answer.set_result("answered")
        await asyncio.sleep(1.0)
        process.thaw()
        await asyncio.sleep(1.0)
        assert said == ["too late"]

    on_a_loop(scenario)


def test_other_processes_run_on_while_one_is_frozen() -> None:
    said: list[str] = []

    async def scenario(loop: SimLoop) -> None:
        one, two = Process("one", loop), Process("two", loop)
        heard = asyncio.Event()

        async def listen(name: str) -> None:
            await heard.wait()
            said.append(name)

        one.spawn(listen("one"), "listen")
        two.spawn(listen("two"), "listen")
        await asyncio.sleep(0)
        one.freeze()
        heard.set()
        await asyncio.sleep(1.0)
        assert said == ["two"]
        one.thaw()
        await asyncio.sleep(0)
        assert said == ["two", "one"]

    on_a_loop(scenario)
