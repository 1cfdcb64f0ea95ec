"""Every decision after a claim: what becomes of a store, and where reading goes on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streams.core.checkpoint import Checkpoint
from streams.core.record import START, Bounds, Position, TopicPartition
from streams.core.recovery import (
    ChangelogFacts,
    InputFacts,
    Rebuild,
    Replay,
    Resume,
    oldest_as_of,
    resolve_changelogs,
    resolve_inputs,
    resolve_recovery,
)
from streams.core.store import StoreState
from streams.core.watermark import InputState
from streams.errors import PositionBeyondEnd, PositionLost, TopicRecreated

CHECKPOINT = Checkpoint(
    "log", epoch=5, number=40, history=((3, 10), (4, 20), (5, 30)), claims=("three", "four", "five"), topology=1
)


def at(offset: int) -> Position:
    return Position.at(offset)


def store(epoch: int = 4, number: int = 25, log_id: str = "log", claim: str = "", **stands: int) -> StoreState:
    return StoreState(log_id, epoch, number, {name: at(offset) for name, offset in stands.items()}, claim=claim)


def facts(end: int, *, start: int = 0, floor: int = 0, identity: str = "") -> ChangelogFacts:
    return ChangelogFacts(at(start), at(end), at(floor), identity)


def test_without_a_store_everything_is_applied_from_the_first_record() -> None:
    decision = resolve_recovery(None, CHECKPOINT, {"t": facts(9, start=3)})
    assert decision == Rebuild(None, {"t": at(3)})


def test_a_store_at_the_end_of_its_changelogs_is_resumed() -> None:
    assert resolve_recovery(store(t=9, u=4), CHECKPOINT, {"t": facts(9), "u": facts(4)}) == Resume()


def test_a_store_behind_its_changelogs_is_brought_up_from_its_own_position() -> None:
    decision = resolve_recovery(store(t=5, u=4), CHECKPOINT, {"t": facts(9), "u": facts(4)})
    assert decision == Replay({"t": at(5)})


def test_the_claim_commit_itself_leaves_a_store_that_may_be_resumed() -> None:
    assert resolve_recovery(store(5, 30, t=9), CHECKPOINT, {"t": facts(9)}) == Resume()


def test_a_state_that_the_store_has_never_seen_is_read_from_its_first_record() -> None:
    assert resolve_recovery(store(t=9), CHECKPOINT, {"t": facts(9), "new": facts(7)}) == Replay({"new": START})
    assert resolve_recovery(store(t=9), CHECKPOINT, {"t": facts(9), "new": facts(0)}) == Resume()


def test_a_store_without_changelogs_is_resumed() -> None:
    assert resolve_recovery(store(), CHECKPOINT, {}) == Resume()


@pytest.mark.parametrize(
    ("held", "changelog", "why"),
    [
        (store(log_id="other", t=9), facts(9), "belongs to log other, and this is log"),
        (store(5, 41, t=9), facts(9), "doesn't know its commit 41 of epoch 5"),
        (store(6, 41, t=9), facts(9), "doesn't know its commit 41 of epoch 6"),
        (store(4, 30, t=9), facts(9), "doesn't know its commit 30 of epoch 4"),
        (store(4, 19, t=9), facts(9), "doesn't know its commit 19 of epoch 4"),
        (store(2, 5, t=9), facts(9), "doesn't know its commit 5 of epoch 2"),
        (store(4, 25, claim="someone", t=9), facts(9), "doesn't know its commit 25 of epoch 4"),
        (store(t=10), facts(9), "stands beyond the end of the changelog of t"),
        (store(t=5), facts(9, floor=6), "deletes may have been compacted away from the changelog of t"),
        (store(t=5), facts(9, start=6), "the changelog of t starts behind its position"),
    ],
)
def test_a_store_that_does_not_fit_the_log_is_set_aside_and_says_why(
    held: StoreState, changelog: ChangelogFacts, why: str
) -> None:
    decision = resolve_recovery(held, CHECKPOINT, {"t": changelog})
    assert isinstance(decision, Rebuild)
    assert why in str(decision.why)
    assert decision.since == {"t": changelog.start}, "everything is read again"


def test_a_store_whose_changelog_was_begun_anew_is_rebuilt_even_where_its_position_would_fit() -> None:
    held = StoreState("log", 4, 25, {"t": at(5)}, topics={"t": "first"})
    assert isinstance(resolve_recovery(held, CHECKPOINT, {"t": facts(9, identity="second")}), Rebuild)
    assert resolve_recovery(held, CHECKPOINT, {"t": facts(9, identity="first")}) == Replay({"t": at(5)})


def test_a_store_at_the_end_misses_no_delete_however_far_compaction_went() -> None:
    assert resolve_recovery(store(t=9), CHECKPOINT, {"t": facts(9, floor=9)}) == Resume()


def test_one_state_that_does_not_fit_sets_the_whole_store_aside() -> None:
    decision = resolve_recovery(store(t=9, u=5), CHECKPOINT, {"t": facts(9), "u": facts(9, floor=6, start=2)})
    assert isinstance(decision, Rebuild)
    assert decision.since == {"t": START, "u": at(2)} or decision.since == {"t": at(0), "u": at(2)}


def test_a_restore_that_was_interrupted_goes_on_and_does_not_count_as_done() -> None:
    # KAFKA-16017: the store was written by the claim of epoch 5 while it stood short of the end.
    assert resolve_recovery(store(5, 30, t=4), CHECKPOINT, {"t": facts(9)}) == Replay({"t": at(4)})


# ── inputs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

IN = TopicPartition("in", 0)


def reading(position: int | None, identity: str = "id") -> Checkpoint:
    positions = {} if position is None else {"in/0": at(position)}
    return Checkpoint("log", positions=positions, topics={"in": identity} if position is not None else {})


def bounds(start: int, end: int, identity: str = "id", **more: Any) -> dict[TopicPartition, InputFacts]:
    return {IN: InputFacts(Bounds(at(start), at(end)), identity, **more)}


def test_an_input_without_a_position_begins_at_the_first_record() -> None:
    checkpoint, lost = resolve_inputs(reading(None), bounds(3, 9))
    assert (checkpoint.position(IN), checkpoint.topics, lost) == (at(3), {"in": "id"}, 0)


@pytest.mark.parametrize("position", [3, 5, 9])
def test_an_input_goes_on_where_it_stood(position: int) -> None:
    checkpoint, lost = resolve_inputs(reading(position), bounds(3, 9))
    assert (checkpoint.position(IN), lost) == (at(position), 0)


def test_records_that_were_removed_unread_are_an_error_that_says_how_many() -> None:
    with pytest.raises(
        PositionLost, match=r"in\[0\]: the task stands at 2 but the log starts at 6: 4 records"
    ) as caught:
        resolve_inputs(reading(2), bounds(6, 9))
    assert (caught.value.position, caught.value.first) == (2, 6)


def test_records_that_were_removed_unread_are_given_up_by_choice_and_counted() -> None:
    checkpoint, lost = resolve_inputs(reading(2), bounds(6, 9, on_lost="earliest"))
    assert (checkpoint.position(IN), lost) == (at(6), 4)


def test_a_position_beyond_the_end_is_an_error_whatever_the_choice() -> None:
    with pytest.raises(PositionBeyondEnd, match="the task stands at 12 but the log ends at 9"):
        resolve_inputs(reading(12), bounds(0, 9, on_lost="earliest"))


def test_a_topic_that_was_made_anew_is_an_error() -> None:
    with pytest.raises(TopicRecreated, match="deleted and created again"):
        resolve_inputs(reading(2), bounds(0, 9, identity="another"))


def test_an_internal_topic_that_a_new_version_made_anew_is_read_from_its_start() -> None:
    checkpoint, _ = resolve_inputs(reading(7), bounds(0, 9, identity="another", internal=True), renewed=True)
    assert checkpoint.position(IN) == at(0)
    with pytest.raises(TopicRecreated):
        resolve_inputs(reading(7), bounds(0, 9, identity="another"), renewed=True)
    with pytest.raises(TopicRecreated):
        resolve_inputs(reading(7), bounds(0, 9, identity="another", internal=True))


def test_other_inputs_and_everything_else_in_the_checkpoint_stay() -> None:
    before = Checkpoint("log", epoch=3, positions={"other/1": at(4)}, topics={"other": "x"}, watermark=77)
    after, _ = resolve_inputs(before, bounds(0, 9))
    assert (after.epoch, after.watermark) == (3, 77)
    assert after.positions == {"other/1": at(4), "in/0": at(0)}
    assert before.positions == {"other/1": at(4)}, "the checkpoint given isn't changed"


# ── a log that can't tell which deletes are gone (protocol 12) ────────────────────────────────────────────────────────

DAY_MS = 86_400_000
NOW_MS = 1_000 * DAY_MS
WEEK_MS = 7 * DAY_MS


def aged(as_of_ms: int, *, t: int) -> StoreState:
    return msgspec.structs.replace(store(t=t), as_of_ms=as_of_ms)


def test_a_store_older_than_half_of_what_the_log_keeps_deletes_for_is_rebuilt() -> None:
    oldest = oldest_as_of(WEEK_MS, NOW_MS)
    young, old = aged(NOW_MS - 3 * DAY_MS, t=5), aged(NOW_MS - 4 * DAY_MS, t=5)
    assert resolve_recovery(young, CHECKPOINT, {"t": facts(9)}, oldest_as_of_ms=oldest) == Replay({"t": at(5)})
    decision = resolve_recovery(old, CHECKPOINT, {"t": facts(9)}, oldest_as_of_ms=oldest)
    assert isinstance(decision, Rebuild)
    assert decision.why == "it is too old to know of every delete in the changelog of t"
    assert decision.since == {"t": at(0)}


def test_an_old_store_that_has_missed_nothing_is_resumed() -> None:
    oldest = oldest_as_of(WEEK_MS, NOW_MS)
    assert resolve_recovery(aged(1, t=9), CHECKPOINT, {"t": facts(9)}, oldest_as_of_ms=oldest) == Resume()


def test_an_old_store_reads_a_changelog_that_it_has_nothing_of_from_its_first_record() -> None:
    oldest = oldest_as_of(WEEK_MS, NOW_MS)
    decision = resolve_recovery(aged(1, t=9), CHECKPOINT, {"t": facts(9), "new": facts(7)}, oldest_as_of_ms=oldest)
    assert decision == Replay({"new": START})


def test_a_store_written_before_its_age_was_kept_is_rebuilt_only_where_age_decides() -> None:
    encoded = msgspec.json.encode(store(t=5))
    former = {key: value for key, value in msgspec.json.decode(encoded).items() if key != "as_of_ms"}
    held = msgspec.json.decode(msgspec.json.encode(former), type=StoreState)
    told, counted = oldest_as_of(None, NOW_MS), oldest_as_of(WEEK_MS, NOW_MS)
    assert resolve_recovery(held, CHECKPOINT, {"t": facts(9)}, oldest_as_of_ms=told) == Replay({"t": at(5)})
    assert isinstance(resolve_recovery(held, CHECKPOINT, {"t": facts(9)}, oldest_as_of_ms=counted), Rebuild)


def test_an_unknown_age_is_too_old_even_when_the_clock_stands_near_its_beginning() -> None:
    assert isinstance(
        resolve_recovery(store(t=5), CHECKPOINT, {"t": facts(9)}, oldest_as_of_ms=oldest_as_of(WEEK_MS, 0)), Rebuild
    )


def test_a_changelog_is_known_by_its_identity_from_the_first_claim_on() -> None:
    known = msgspec.structs.replace(CHECKPOINT, topics={"t": "one", "in": "x"})
    assert resolve_changelogs(known, {"t": "one", "new": "two"}).topics == {"t": "one", "in": "x", "new": "two"}
    with pytest.raises(TopicRecreated, match="t: the changelog was deleted and created again"):
        resolve_changelogs(known, {"new": "two", "t": "other"})
    assert resolve_changelogs(known, {"t": "other"}, renewed=True).topics == {"t": "other", "in": "x"}


def test_a_store_whose_changelog_was_begun_anew_says_so_and_reads_it_whole() -> None:
    held = msgspec.structs.replace(store(t=9), topics={"t": "old"})
    decision = resolve_recovery(held, CHECKPOINT, {"t": facts(20, start=3, identity="new")})
    assert decision == Rebuild("the changelog of t was begun anew since", {"t": at(3)})


def test_an_input_without_a_position_begins_where_the_user_says() -> None:
    here = TopicPartition("in", 0)
    bounds = Bounds(at(3), at(9))
    decided, lost = resolve_inputs(CHECKPOINT, {here: InputFacts(bounds, "id", first=at(7))})
    assert (decided.positions, lost) == ({"in/0": at(7)}, 0)


def test_what_was_lost_by_choice_adds_up_over_the_inputs() -> None:
    here = {TopicPartition("in", n): InputFacts(Bounds(at(8), at(9)), "id", "earliest") for n in range(2)}
    known = msgspec.structs.replace(CHECKPOINT, positions={"in/0": at(5), "in/1": at(6)})
    decided, lost = resolve_inputs(known, here)
    assert (decided.positions, lost) == ({"in/0": at(8), "in/1": at(8)}, 5)


def test_a_new_version_forgets_how_far_event_time_had_come_in_a_topic_that_it_made_anew() -> None:
    inner, other = TopicPartition("inner", 0), TopicPartition("in", 0)
    known = msgspec.structs.replace(
        CHECKPOINT,
        topics={"inner": "old", "in": "id"},
        positions={"in/0": at(5)},
        inputs={"inner/0": InputState(7), "in/0": InputState(8)},
    )
    bounds = Bounds(at(0), at(9))
    decided, _ = resolve_inputs(
        known, {inner: InputFacts(bounds, "new", internal=True), other: InputFacts(bounds, "id")}, renewed=True
    )
    assert decided.inputs == {"in/0": InputState(8)}
    assert decided.positions == {"inner/0": at(0), "in/0": at(5)}
