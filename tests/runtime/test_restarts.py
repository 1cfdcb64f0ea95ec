"""At what pace a task begins again that can't do its work, in virtual time."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from streams.errors import Fenced, ServiceUnavailable
from streams.runtime.owner import FENCED_PAUSE_S
from streams.runtime.restarts import FIRST_S, HEALTHY_S, LEAST_S, MOST_S, run_until
from streams.testing.loop import VirtualLoop

TIMES = 40


def pauses(
    seed: str = "log-1", *, works_s: float = 0.0, gets_done: int = 1, error: type[Exception] | None = None
) -> list[float]:
    """Between the end of one life and the beginning of the next, of a task that works for so long each time."""
    began: list[float] = []
    done = 0

    async def main() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        async def live() -> None:
            nonlocal done
            began.append(loop.time())
            if len(began) > TIMES:
                stop.set()
                return
            await asyncio.sleep(works_s)
            done += gets_done
            raise (error or ServiceUnavailable)("away")

        await run_until(stop, live, lambda: done, "egress out-0", seed=seed)

    loop = VirtualLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    return [after - before - works_s for before, after in pairwise(began)]


def test_pauses_grow_to_a_bound_and_are_never_nothing() -> None:
    found = pauses()
    assert all(LEAST_S - 0.001 <= pause <= MOST_S for pause in found)
    assert found[0] <= FIRST_S
    assert found[1] <= 2 * FIRST_S
    assert max(found[5:]) > MOST_S / 2
    assert min(found[5:]) < MOST_S / 4, "anything up to the bound: else those who failed together come back together"


def test_tasks_and_logs_have_pauses_of_their_own_and_a_simulation_the_same_again() -> None:
    assert pauses("log-1") == pauses("log-1")
    firsts = {pauses(f"log-{number}")[0] for number in range(30)}
    assert len({round(first, 1) for first in firsts}) > 5


def test_what_gets_something_done_before_it_fails_slows_down_all_the_same() -> None:
    assert max(pauses(works_s=1.0)[5:]) > MOST_S / 2


def test_after_a_time_of_health_the_first_pause_is_short_again() -> None:
    assert all(pause <= FIRST_S + 0.001 for pause in pauses(works_s=HEALTHY_S))
    assert max(pauses(works_s=HEALTHY_S, gets_done=0)[5:]) > FIRST_S, "it only tried for so long"


def test_who_is_fenced_waits_for_the_assignment_that_takes_the_task_away() -> None:
    assert all(abs(pause - FENCED_PAUSE_S) < 0.001 for pause in pauses(error=Fenced))
