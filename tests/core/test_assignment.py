"""The division of tasks: balanced, sticky, and never two owners on the way."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.core.assignment import MemberState, Share, assign, eligible
from streams.core.membership import Assignment, TaskRef, Wanted


def wanted(stateful: int, stateless: int = 0, standbys: int = 0) -> Wanted:
    names = [f"s{n}" for n in range(stateful)] + [f"x{n}" for n in range(stateless)]
    refs = [TaskRef("app", slot, name) for slot, name in enumerate(names, start=1)]
    return Wanted(refs, frozenset(names[:stateful]), standbys)


def state(held: str = "", ready: str = "", stored: str = "", **more: int | str) -> MemberState:
    parts = {"held": held, "ready": ready, "stored": stored}
    return replace(MemberState(), **{k: frozenset(v.split()) for k, v in parts.items()}, **more)  # type: ignore[arg-type]


def active(shares: Mapping[str, Share]) -> dict[str, str]:
    return {name: " ".join(sorted(share.assignment.active)) for name, share in shares.items()}


def standby(shares: Mapping[str, Share]) -> dict[str, str]:
    return {name: " ".join(sorted(share.assignment.standby)) for name, share in shares.items()}


# ── one round ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_gets_nothing() -> None:
    assert assign({}, wanted(3)) == {}


def test_the_only_member_runs_everything() -> None:
    assert active(assign({"a": state()}, wanted(2, 1, standbys=1))) == {"a": "s0 s1 x0"}


def test_new_members_share_evenly_and_each_stateful_task_has_a_follower_elsewhere() -> None:
    shares = assign({"a": state(), "b": state()}, wanted(2, 2, standbys=1))
    assert active(shares) == {"a": "s0 x0", "b": "s1 x1"}
    assert standby(shares) == {"a": "s1", "b": "s0"}


def test_a_round_without_news_changes_nothing() -> None:
    members = {"b": state("s0 x1", "s0 s1"), "a": state("s1 x0", "s1 s0")}
    shares = assign(members, wanted(2, 2, standbys=1))
    assert active(shares) == {"a": "s1 x0", "b": "s0 x1"}
    assert standby(shares) == {"a": "s0", "b": "s1"}
    assert not any(share.warmups or share.releases for share in shares.values())


def test_a_stateless_task_is_withheld_until_its_holder_has_let_go() -> None:
    first = assign({"a": state("x0 x1"), "b": state()}, wanted(0, 2))
    assert active(first) == {"a": "x1", "b": ""}
    assert first["a"].releases == {"x0"}
    second = assign({"a": state("x1"), "b": state()}, wanted(0, 2))
    assert active(second) == {"a": "x1", "b": "x0"}


def test_a_stateful_task_stays_with_its_holder_until_the_next_one_is_warm() -> None:
    first = assign({"a": state("s0 s1", "s0 s1"), "b": state()}, wanted(2))
    assert active(first) == {"a": "s0 s1", "b": ""}
    assert standby(first)["b"] == "s0"
    assert first["b"].warmups == {"s0"}
    second = assign({"a": state("s0 s1", "s0 s1"), "b": state(ready="s0")}, wanted(2))
    assert active(second) == {"a": "s1", "b": ""}
    assert second["a"].releases == {"s0"}
    assert standby(second)["b"] == "s0", "it goes on following while it waits"
    third = assign({"a": state("s1", "s1"), "b": state(ready="s0")}, wanted(2))
    assert active(third) == {"a": "s1", "b": "s0"}


def test_a_new_member_gets_a_part_of_each_subtopology_and_not_the_whole_of_one() -> None:
    names = [f"{subtopology}-{partition}" for subtopology in ("adds", "orders") for partition in range(4)]
    ask = Wanted([TaskRef("app", slot, name) for slot, name in enumerate(names)])
    shares = assign({"a": MemberState(held=frozenset(names)), "b": MemberState()}, ask)
    assert shares["a"].releases == {"adds-0", "adds-1", "orders-0", "orders-1"}


def test_a_warm_up_comes_beside_the_wanted_standby() -> None:
    members = {"a": state("s0 s1", "s0 s1"), "b": state("s2", "s0 s1 s2"), "c": state(stored="s0")}
    shares = assign(members, wanted(3, standbys=1))
    assert shares["c"].warmups == {"s0"}
    assert "s0" in shares["b"].assignment.standby


def test_after_a_death_the_one_with_the_state_goes_on_at_once_even_over_its_quota() -> None:
    members = {"a": state("s0 s1", "s0 s1 s2 s3"), "b": state("s4 s5", "s4 s5")}
    shares = assign(members, wanted(6))
    assert active(shares) == {"a": "s0 s1 s2 s3", "b": "s4 s5"}
    assert len(shares["b"].warmups) == 1, "balance comes back when its state has come over"


def test_a_task_without_a_holder_goes_to_the_ready_then_the_stored_then_the_roomiest() -> None:
    assert active(assign({"a": state(stored="s0"), "b": state(ready="s0")}, wanted(1))) == {"a": "", "b": "s0"}
    assert active(assign({"a": state(), "b": state(stored="s0")}, wanted(1))) == {"a": "", "b": "s0"}
    members = {"a": state("x0 x1"), "b": state("x2"), "c": state("x3 x4")}
    assert active(assign(members, wanted(0, 6)))["b"] == "x2 x5"


def test_a_task_that_its_new_owner_can_go_on_with_at_once_waits_for_no_warm_up() -> None:
    shares = assign({"a": state(), "b": state(ready="s0")}, wanted(1))
    assert active(shares) == {"a": "", "b": "s0"}
    assert not any(share.warmups for share in shares.values())


def test_a_task_that_keeps_no_state_goes_to_its_place_whoever_says_that_it_is_ready() -> None:
    assert active(assign({"a": state(), "b": state("x1", "x0 x1")}, wanted(0, 2))) == {"a": "x0", "b": "x1"}


def test_of_several_that_are_ready_the_one_with_the_fewest_tasks_goes_on() -> None:
    members = {"a": state("s0 s1 s2", "s0 s1 s2 s6"), "b": state("s3 s4", "s3 s4 s6"), "c": state("s5", "s5")}
    assert active(assign(members, wanted(7))) == {"a": "s0 s1 s2", "b": "s3 s4 s6", "c": "s5"}


def test_tasks_go_to_the_one_with_the_most_room_and_then_by_name() -> None:
    assert active(assign({"a": state("x0"), "b": state()}, wanted(0, 4))) == {"a": "x0 x2", "b": "x1 x3"}


def test_the_greater_quota_is_for_the_one_that_holds_more_already() -> None:
    members = {"a": state("x0"), "b": state("x1 x2")}
    assert active(assign(members, wanted(0, 3))) == {"a": "x0", "b": "x1 x2"}
    members = {"a": state("s0 x0", "s0"), "b": state("s1 x1 x2", "s1")}
    assert active(assign(members, wanted(2, 3))) == {"a": "s0 x0", "b": "s1 x1 x2"}


def test_what_is_let_go_is_chosen_by_those_that_have_room_for_it() -> None:
    """c has the state of s2, and its quota already."""
    members = {"a": state("s0 s1 s2", "s0 s1 s2"), "b": state(), "c": state("s3", "s2 s3")}
    assert assign(members, wanted(4))["b"].warmups == {"s0"}


def test_a_part_of_each_subtopology_is_let_go_whatever_its_name() -> None:
    names = [f"{subtopology}-{partition}" for subtopology in ("adds-up", "orders") for partition in range(2)]
    ask = Wanted([TaskRef("app", slot, name) for slot, name in enumerate(names)])
    shares = assign({"a": MemberState(held=frozenset(names)), "b": MemberState()}, ask)
    assert shares["a"].releases == {"adds-up-0", "orders-0"}
    ask = Wanted([TaskRef("app", 1, "counts-1"), TaskRef("app", 2, "whole")])
    shares = assign({"a": MemberState(held=frozenset(["counts-1", "whole"])), "b": MemberState()}, ask)
    assert shares["a"].releases == {"whole"}, "without a number it counts as a first partition"


@pytest.mark.parametrize(("each", "most"), [(1, 1), (2, 3)])
def test_a_member_with_the_state_of_everything_does_not_follow_everything(each: int, most: int) -> None:
    members = {}
    for at, name in enumerate("abcd"):
        held = " ".join(f"s{n}" for n in range(at * each, (at + 1) * each))
        members[name] = state(held, " ".join(f"s{n}" for n in range(4 * each)) if name == "a" else held)
    counts = [len(share.assignment.standby) for share in assign(members, wanted(4 * each, standbys=1)).values()]
    assert sum(counts) == 4 * each
    assert max(counts) <= most


def test_one_that_has_just_let_a_task_go_does_not_push_out_who_follows_it() -> None:
    members = {"a": state("s0", "s0", generation=2), "b": state("s0", "s0", generation=1), "c": state(ready="s0")}
    assert standby(assign(members, wanted(1, standbys=1))) == {"a": "", "b": "", "c": "s0"}


def test_of_two_topologies_the_tasks_of_all_their_members_count_and_then_the_members() -> None:
    one, other = {"fingerprint": "z"}, {"fingerprint": "a"}
    assert eligible({"m": state("x0 x1", **one), "n": state(**one), "o": state("x2", **other)}) == ["m", "n"]
    assert eligible({"m": state(**one), "n": state(**one), "o": state(**other)}) == ["m", "n"]
    assert eligible({"m": state(**one), "o": state(**other)}) == ["o"]


def test_an_outdated_member_does_not_hear_where_tasks_run() -> None:
    shares = assign({"new": state(version=2, address="host:1"), "old": state()}, wanted(0, 1))
    assert shares["new"].assignment.addresses == {"x0": "host:1"}
    assert shares["old"].assignment == Assignment()


def test_an_outdated_member_gets_nothing_and_one_clear_line() -> None:
    shares = assign({"old": state("x0 x1", version=1), "new": state(version=2)}, wanted(0, 2))
    assert active(shares) == {"new": "", "old": ""}
    assert "runs version 1" in shares["old"].reason
    assert "version 2" in shares["old"].reason
    assert shares["old"].releases == {"x0", "x1"}
    assert active(assign({"old": state(version=1), "new": state(version=2)}, wanted(0, 2)))["new"] == "x0 x1"


def test_of_two_topologies_of_one_version_the_one_that_holds_the_tasks_stays() -> None:
    members = {
        "a": state("x0", fingerprint="f"),
        "b": state(fingerprint="g"),
        "c": state(fingerprint="g"),
    }
    assert eligible(members) == ["a"]
    assert "higher version" in assign(members, wanted(0, 1))["b"].reason


def test_of_two_that_claim_a_task_the_later_one_keeps_it() -> None:
    members = {"z": state("s0", generation=3), "a": state("s0", generation=7)}
    assert active(assign(members, wanted(1))) == {"a": "s0", "z": ""}


def test_every_member_learns_where_each_running_task_answers() -> None:
    shares = assign({"a": state("x0", address="h:1"), "b": state("x1"), "c": state()}, wanted(0, 2))
    assert all(share.assignment.addresses == {"x0": "h:1"} for share in shares.values())


def test_a_task_that_nobody_wants_any_more_is_in_no_share() -> None:
    shares = assign({"a": state("gone s0", "gone s0", "gone")}, wanted(1, standbys=1))
    assert shares["a"].assignment == Assignment(frozenset({"s0"}))


# ── any round ─────────────────────────────────────────────────────────────────────────────────────────────────────────

sizes = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 3))


@st.composite
def rounds(draw: st.DrawFn) -> tuple[dict[str, MemberState], Wanted]:
    """Members in any state, sane or not: several may hold a task, or be ready for what nobody knows."""
    ask = wanted(*draw(sizes))
    tasks = [task.name for task in ask.tasks] or ["none"]
    some = st.frozensets(st.sampled_from([*tasks, "stranger"]))
    member = st.builds(
        MemberState,
        version=st.sampled_from([1, 1, 2]),
        fingerprint=st.sampled_from(["f", "f", "g"]),
        address=st.sampled_from(["", "h:1"]),
        stored=some,
        held=some,
        ready=some,
        generation=st.integers(-1, 3),
    )
    return draw(st.dictionaries(st.sampled_from("abcdef"), member)), ask


@given(rounds())
def test_no_task_is_given_twice_or_while_another_member_holds_it(case: tuple[dict[str, MemberState], Wanted]) -> None:
    members, ask = case
    shares = assign(members, ask)
    assert shares.keys() == members.keys()
    names = {task.name for task in ask.tasks}
    given_to = [(task, name) for name, share in shares.items() for task in share.assignment.active]
    assert max(Counter(task for task, _ in given_to).values(), default=1) == 1
    assert names >= {task for task, _ in given_to}
    for task, name in given_to:
        holders = {each for each, member in members.items() if task in member.held}
        assert not holders or name in holders
    for name, share in shares.items():
        assert not share.assignment.active & share.assignment.standby
        assert share.assignment.standby <= ask.stateful
        assert share.warmups <= share.assignment.standby
        assert not share.warmups & members[name].ready, "a warm-up that is ready has nothing to wait for"
        assert share.releases <= members[name].held - share.assignment.active
        assert (share.reason != "") == (name not in eligible(members))
        if share.reason:
            assert share.assignment == Assignment()


@given(rounds(), st.randoms(use_true_random=False))
def test_the_division_does_not_depend_on_any_order(
    case: tuple[dict[str, MemberState], Wanted], chance: random.Random
) -> None:
    members, ask = case
    shuffled, tasks = list(members.items()), list(ask.tasks)
    chance.shuffle(shuffled)
    chance.shuffle(tasks)
    assert assign(dict(shuffled), replace(ask, tasks=tasks)) == assign(members, ask)


@given(rounds())
def test_every_task_that_has_a_follower_has_as_many_as_wanted_and_possible(
    case: tuple[dict[str, MemberState], Wanted],
) -> None:
    members, ask = case
    shares, count = assign(members, ask), len(eligible(members))
    for task in ask.stateful if count else ():
        followers = sum(task in share.assignment.standby for share in shares.values())
        runs = any(task in share.assignment.active for share in shares.values())
        warming = any(task in share.warmups for share in shares.values()) or not runs
        at_most = count - 1 if runs else count
        assert followers == min(ask.standbys + warming, at_most)


@given(st.integers(1, 5), sizes)
def test_a_first_round_is_balanced_and_complete(count: int, size: tuple[int, int, int]) -> None:
    ask = wanted(*size)
    shares = assign({f"m{n}": MemberState() for n in range(count)}, ask)
    check_settled(shares, ask)


@given(st.integers(1, 5), sizes, st.randoms(use_true_random=False))
def test_no_more_stateful_tasks_leave_their_holders_than_balance_needs(
    count: int, size: tuple[int, int, int], chance: random.Random
) -> None:
    ask = wanted(size[0])
    names = [f"m{n}" for n in range(count)]
    held = {task.name: chance.choice(names) for task in ask.tasks}
    members = {
        name: MemberState(held=frozenset(t for t, owner in held.items() if owner == name), ready=ask.stateful)
        for name in names
    }
    base, extra = divmod(len(ask.tasks), count)
    counts = sorted((len(member.held) for member in members.values()), reverse=True)
    needed = sum(max(0, n - base - (at < extra)) for at, n in enumerate(counts))
    assert sum(len(share.releases) for share in assign(members, ask).values()) == needed


# ── many rounds: members that join, leave, crash, lag behind and warm up ──────────────────────────────────────────────


@dataclass
class ModelMember:
    """A worker that obeys: it starts only what its last share gives, and reports what it may be running."""

    version: int = 1
    running: set[str] = field(default_factory=set[str])
    warm: set[str] = field(default_factory=set[str])
    disk: set[str] = field(default_factory=set[str])
    share: Share = field(default_factory=Share)
    generation: int = -1

    def says(self) -> MemberState:
        return MemberState(
            version=self.version,
            fingerprint=str(self.version),
            stored=frozenset(self.disk),
            held=frozenset(self.running) | self.share.assignment.active,
            ready=frozenset(self.running | self.warm),
            generation=self.generation,
        )

    def work(self, chance: random.Random, stateful: frozenset[str], eager: bool) -> None:
        """Start, stop and warm up some of what the share says; all of it when eager."""
        asked = self.share.assignment
        stopping = {task for task in self.running - asked.active if eager or chance.random() < 0.5}
        self.running -= stopping
        self.warm = ((self.warm | stopping) & asked.standby) | {
            task for task in asked.standby if eager or chance.random() < 0.3
        }
        if not self.running - asked.active:  # as the worker does: let go first, take up then
            self.running |= {task for task in asked.active if eager or chance.random() < 0.7}
        self.disk |= (self.running | asked.standby) & stateful

    @property
    def has_news(self) -> bool:
        return bool(self.share.releases - self.says().held or self.share.warmups & self.warm)


class Cluster:
    def __init__(self, chance: random.Random, ask: Wanted) -> None:
        self.chance, self.ask = chance, ask
        self.members: dict[str, ModelMember] = {}
        self.rounds = 0
        self.born = 0

    def join(self, version: int = 1) -> None:
        self.born += 1
        self.members[f"{self.chance.randrange(10)}-{self.born}"] = ModelMember(version)

    def lose(self) -> None:
        del self.members[self.chance.choice(sorted(self.members))]

    def round(self, everybody_hears: bool) -> None:
        self.rounds += 1
        for name, share in assign({name: each.says() for name, each in self.members.items()}, self.ask).items():
            if everybody_hears or self.chance.random() < 0.8:
                self.members[name].share, self.members[name].generation = share, self.rounds

    def work(self, eager: bool) -> None:
        for name in self.chance.sample(sorted(self.members), len(self.members)):
            self.members[name].work(self.chance, self.ask.stateful, eager)
            self.check_single_owners()

    def check_single_owners(self) -> None:
        owners = Counter(task for each in self.members.values() for task in each.running)
        assert max(owners.values(), default=1) == 1, f"two members run a task: {owners}"

    def settle(self, limit: int) -> int:
        """Rounds until nobody has news, with everybody obeying at once."""
        before = self.rounds
        self.round(everybody_hears=True)
        self.work(eager=True)
        while any(each.has_news for each in self.members.values()):
            assert self.rounds - before < limit, "the rounds don't come to an end"
            self.round(everybody_hears=True)
            self.work(eager=True)
        return self.rounds - before


def check_settled(shares: Mapping[str, Share], ask: Wanted) -> None:
    """Everything runs once, evenly, and is followed as wanted."""
    part = {name: share.assignment for name, share in shares.items() if not share.reason}
    names = {task.name for task in ask.tasks}
    runs = [task for each in part.values() for task in each.active]
    assert sorted(runs) == sorted(names)
    for tasks in (names, ask.stateful):
        counts = [len(each.active & tasks) for each in part.values()]
        assert max(counts) - min(counts) <= 1, counts
    followed = Counter(task for each in part.values() for task in each.standby)
    assert all(followed[task] == min(ask.standbys, len(part) - 1) for task in ask.stateful)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False), sizes, st.lists(st.sampled_from("jjjlrrww2"), max_size=30))
def test_however_members_come_and_go_one_at_most_runs_a_task_and_in_the_end_all_run_evenly(
    chance: random.Random, size: tuple[int, int, int], events: list[str]
) -> None:
    cluster = Cluster(chance, wanted(*size))
    version = 1
    for event in ["j", *events]:
        if event == "j" or not cluster.members:
            cluster.join(version)
        elif event == "2":
            version = 2
            cluster.join(version)
        elif event == "l":
            cluster.lose()
        elif event == "r":
            cluster.round(everybody_hears=False)
        else:
            cluster.work(eager=False)
        cluster.check_single_owners()
    if not cluster.members:
        cluster.join(version)
    cluster.settle(limit=6)
    check_settled({name: each.share for name, each in cluster.members.items()}, cluster.ask)
    settled = {name: each.share for name, each in cluster.members.items()}
    cluster.round(everybody_hears=True)
    assert {name: each.share for name, each in cluster.members.items()} == settled, "a round without news moves things"


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False), sizes, st.integers(1, 4))
def test_a_member_that_joins_takes_its_part_and_the_others_tasks_go_on_where_they_are(
    chance: random.Random, size: tuple[int, int, int], count: int
) -> None:
    cluster = Cluster(chance, wanted(*size))
    for _ in range(count):
        cluster.join()
    cluster.settle(limit=4)
    before = {task: name for name, each in cluster.members.items() for task in each.running}
    cluster.join()
    newcomer = next(name for name in cluster.members if name not in before.values() and not cluster.members[name].disk)
    cluster.settle(limit=6)
    after = {task: name for name, each in cluster.members.items() for task in each.running}
    moved = {task for task in before if after[task] != before[task]}
    assert all(after[task] == newcomer for task in moved if task in cluster.ask.stateful)
    assert len([task for task in moved if task in cluster.ask.stateful]) <= -(-size[0] // (count + 1))


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False), sizes, st.integers(2, 5))
def test_after_a_death_every_task_with_a_standby_goes_on_at_once_where_its_state_is(
    chance: random.Random, size: tuple[int, int, int], count: int
) -> None:
    cluster = Cluster(chance, replace(wanted(*size), standbys=1))
    for _ in range(count):
        cluster.join()
    cluster.settle(limit=4)
    cluster.lose()
    living = {task for each in cluster.members.values() for task in each.running}
    cluster.round(everybody_hears=True)
    for each in cluster.members.values():
        assert each.share.assignment.active & cluster.ask.stateful <= each.warm | each.running
    given = {task for each in cluster.members.values() for task in each.share.assignment.active}
    assert given >= {task.name for task in cluster.ask.tasks} - living
