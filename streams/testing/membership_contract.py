"""The contract of a log that many workers share, as tests that the author of one subclasses.

What must live here: what every ``Membership`` promises to a worker, and what the workers of a group may rely on.  What
must not: how the members of one log find each other, and what becomes of them when its servers go away, which is each
log's own.  A log that one process has for itself doesn't need it.  Needs pytest.

    class TestMyMembership(MembershipContract):
        @asynccontextmanager
        async def places(self):
            async def opens(entry: Entry) -> Place:
                ...                         # a worker's membership, on connections of its own

            yield opens                     # all on one log

The log's own tests of its workers are methods of the same class, and play their scenes with ``play``.
"""

from __future__ import annotations

import random
import re

import pytest

from streams.core.membership import Assignment, Member
from streams.errors import ConfigurationError
from streams.testing.membership_scenarios import (
    Board,
    Entry,
    MembershipTests,
    Opens,
    Place,
    Worker,
    actives,
    wanted,
)

__all__ = ["Board", "Entry", "MembershipContract", "Opens", "Place", "Worker", "actives", "wanted"]


class MembershipContract(MembershipTests):
    """Subclass it and implement ``places``; pytest does the rest."""

    # ── coming and going ──────────────────────────────────────────────────────────────────────────────────────────────

    def test_a_membership_that_is_closed_before_it_is_followed_never_begins(self) -> None:
        async def scene(board: Board) -> None:
            place = await board.place(Member())
            await place.membership.close()
            assert [given async for given in place.membership.assignments()] == []
            assert place.beats == 0
            await place.close()

        self.play(scene, wanted(1))

    def test_workers_share_the_tasks_and_take_over_from_one_that_leaves(self) -> None:
        async def scene(board: Board) -> None:
            first = await board.worker()
            await board.until_shared(first)
            second = await board.worker()
            await board.until_shared(first, second)
            third = await board.worker()
            await board.until_shared(first, second, third)
            await second.close()
            await board.until_shared(first, third)

        # The sessions are so long that only a word of farewell can be the cause.
        self.play(scene, wanted(7, stateful=4, standbys=1))

    def test_the_first_of_all_may_leave_and_the_others_go_on_at_once(self) -> None:
        async def scene(board: Board) -> None:
            first = await board.worker()
            await board.until_shared(first)  # so it leads, where one does
            second, third = await board.worker(), await board.worker()
            await board.until_shared(first, second, third)
            await first.close()
            await board.until_shared(second, third)

        self.play(scene, wanted(6))

    @pytest.mark.parametrize("which", [0, 1], ids=["the first", "another"])
    def test_the_tasks_of_a_worker_that_dies_without_a_word_go_on_elsewhere(self, which: int) -> None:
        async def scene(board: Board) -> None:
            first = await board.worker()
            await board.until_shared(first)
            workers = [first, await board.worker(), await board.worker()]
            await board.until_shared(*workers)
            await workers.pop(which).die()
            await board.until_shared(*workers)

        self.play(scene, wanted(6), session_s=self.session_s)

    def test_a_task_that_stays_is_in_every_assignment_of_a_rebalance(self) -> None:
        async def scene(board: Board) -> None:
            first, second = await board.worker(), await board.worker()
            await board.until_shared(first, second)
            before = [(each, len(each.seen), set(each.running)) for each in (first, second)]
            third = await board.worker()
            await board.until_shared(first, second, third)
            await third.close()
            await board.until_shared(first, second)
            for worker, since, running in before:
                assert len(running) == 3
                assert len(running.intersection(*actives(worker)[since:])) == 2, "two of three never left it"

        self.play(scene, wanted(6))

    def test_a_task_is_given_to_its_next_owner_only_when_the_former_one_has_let_go(self) -> None:
        async def scene(board: Board) -> None:
            first = await board.worker(gentle=True)
            await board.until_shared(first)
            second = await board.worker()
            third = await board.worker()
            await board.until(lambda: bool(third.seen))
            assert (second.running, third.running) == (set(), set())
            assert first.running == {"x0", "x1", "x2"}
            first.gentle = False
            first.let_go()
            await board.until_shared(first, second, third)

        self.play(scene, wanted(3))

    def test_a_stateful_task_moves_when_the_next_owner_has_its_state(self) -> None:
        async def scene(board: Board) -> None:
            first = await board.worker()
            await board.until_shared(first)
            second = await board.worker(gentle=True)
            await board.until(lambda: bool(second.seen) and len(second.seen[-1].standby) == 1)
            assert second.seen[-1].active == frozenset()
            assert len(first.running) == 2
            second.get_warm()
            await board.until_shared(first, second)
            assert second.running <= second.warm

        self.play(scene, wanted(0, stateful=2))

    def test_members_that_wait_for_one_another_do_not_ask_again_and_again(self) -> None:
        async def scene(board: Board) -> None:
            first = await board.worker(gentle=True)
            await board.until_shared(first)
            second = await board.worker(gentle=True)
            await board.until(
                lambda: len(first.seen) > 1 and bool(second.seen) and second.seen[-1].standby != frozenset()
            )
            assert first.running > first.seen[-1].active, "one waits for a task without state, the other for a warm-up"
            rounds = [each.place.rounds for each in (first, second)]
            assert sum(rounds) > 0
            await board.until_beaten(first, 10)
            assert [each.place.rounds for each in (first, second)] == rounds

        self.play(scene, wanted(2, stateful=2))

    @pytest.mark.parametrize("seed", [1, 2])
    def test_however_workers_come_and_go_no_task_runs_twice_and_in_the_end_all_run(self, seed: int) -> None:
        chance = random.Random(seed)

        async def scene(board: Board) -> None:
            for _ in range(25):
                living = [each for each in board.workers if not each.dead]
                event = chance.choice(["join", "join", "leave", "die", "watch", "watch"])
                if event == "join" or not living:
                    await board.worker()
                elif event == "watch":
                    await board.until_beaten(chance.choice(living), chance.randrange(1, 8))
                elif event == "leave":
                    await chance.choice(living).close()
                else:
                    await chance.choice(living).die()
            await board.worker()
            await board.until_shared(*(each for each in board.workers if not each.dead))

        self.play(scene, wanted(6, stateful=6, standbys=1), session_s=self.session_s)

    def test_everybody_learns_where_each_task_answers(self) -> None:
        async def scene(board: Board) -> None:
            first = await board.worker(address="first:1")
            second = await board.worker(address="second:2")
            await board.until_shared(first, second)
            truth = {task: each.member.address for each in (first, second) for task in each.running}
            await board.until(lambda: first.seen[-1].addresses == second.seen[-1].addresses == truth)
            assert sorted(each.address for each in await first.place.roster()) == ["first:1", "second:2"]

        self.play(scene, wanted(3))

    # ── workers that aren't what they were ────────────────────────────────────────────────────────────────────────────

    def test_an_outdated_worker_gives_its_tasks_up_and_gets_none(self, caplog: pytest.LogCaptureFixture) -> None:
        async def scene(board: Board) -> None:
            old = await board.worker(version=1)
            await board.until_shared(old)
            board.ask = wanted(4)
            new = await board.worker(version=2)
            await board.until_shared(new)
            assert old.running == set()

        self.play(scene, wanted(3))
        said = [record.message for record in caplog.records]
        assert [line for line in said if "version 1" in line and "version 2" in line]

    def test_a_named_worker_that_is_back_soon_finds_its_tasks_again(self) -> None:
        async def scene(board: Board) -> None:
            first, second = await board.worker("one"), await board.worker("two")
            await board.until_shared(first, second)
            before, others = set(second.running), len(first.seen)
            await second.close()
            again = await board.worker("two", stored=frozenset(before))
            await board.until_shared(first, again)
            assert again.running == before
            assert all(given.active >= first.running for given in first.seen[others:])

        self.play(scene, wanted(0, stateful=4))

    def test_a_named_worker_that_stays_away_loses_its_tasks(self) -> None:
        async def scene(board: Board) -> None:
            first, second = await board.worker("one"), await board.worker("two")
            await board.until_shared(first, second)
            await second.close()
            await board.until_shared(first)

        self.play(scene, wanted(4), session_s=self.session_s)

    def test_a_named_worker_that_comes_back_with_a_newer_app_makes_itself_known(self) -> None:
        async def scene(board: Board) -> None:
            first = await board.worker("one")
            await board.until_shared(first)  # so it isn't who leads that dies
            second = await board.worker("two")
            await board.until_shared(first, second)
            await second.die()
            board.ask = wanted(6)
            back = await board.worker("two", version=2)
            await board.until_shared(back)
            assert first.running == set()

        self.play(scene, wanted(4))

    def test_a_named_worker_that_comes_back_elsewhere_tells_the_others_where(self) -> None:
        async def scene(board: Board) -> None:
            first = await board.worker("one", address="one:1")
            await board.until_shared(first)  # so it isn't who leads that dies
            second = await board.worker("two", address="two:1")
            await board.until_shared(first, second)
            had = set(second.running)
            await second.die()
            back = await board.worker("two", address="two:2")
            await board.until(lambda: set(first.seen[-1].addresses.values()) == {"one:1", "two:2"})
            assert all(given.active == had for given in back.seen), "its tasks stay with it all the while"

        self.play(scene, wanted(4))

    def test_a_named_worker_that_died_before_letting_go_does_not_keep_the_task_from_the_next(self) -> None:
        async def scene(board: Board) -> None:
            first = await board.worker("one", gentle=True)
            await board.until_shared(first)
            second = await board.worker("two")
            await board.until(lambda: len(first.seen) > 1 and bool(second.seen))
            await first.die()
            back = await board.worker("one")
            await board.until_shared(back, second)

        self.play(scene, wanted(2), session_s=self.session_s if self.leads_by_lease else self.long_session_s)

    def test_two_workers_of_one_name_end_with_a_clear_line_for_the_first(self) -> None:
        async def scene(board: Board) -> None:
            first = await board.worker("one")
            await board.until_shared(first)
            first.dead = True  # to the board: that both run for a moment is what the fence is for
            second = await board.worker("one")
            failure = await first.failure()
            assert isinstance(failure, ConfigurationError)
            assert re.search("another worker .*'one'", str(failure))
            board.workers.remove(first)
            await first.place.close()
            await board.until_shared(second)

        # Of who leads by a lease, the first may have gone before it divides once more.
        self.play(scene, wanted(2), session_s=5 * self.session_s if self.leads_by_lease else self.long_session_s)

    # ── workers that are cut off ──────────────────────────────────────────────────────────────────────────────────────

    def test_a_worker_that_is_cut_off_drops_its_tasks_by_its_own_clock_and_comes_back(self) -> None:
        async def scene(board: Board) -> None:
            first, second = await board.worker(), await board.worker()
            await board.until_shared(first, second)
            second.place.hold_up()
            await board.until(lambda: second.seen[-1] == Assignment())
            assert second.running == set()
            await board.until_shared(first)
            second.place.go_on()
            await board.until_shared(first, second)

        self.play(scene, wanted(4), session_s=self.session_s)
