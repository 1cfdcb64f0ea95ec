"""Checkpoints and claims: epochs, commit numbers and the ancestry of commits."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.checkpoint import HISTORY, Checkpoint, claimed, decode_checkpoint, encode_checkpoint, partition_key
from streams.core.record import Position, TopicPartition
from streams.core.watermark import InputState
from streams.errors import TopologyChanged


def committed(checkpoint: Checkpoint, times: int) -> Checkpoint:
    return msgspec.structs.replace(checkpoint, number=checkpoint.number + times)


def test_a_first_claim_is_epoch_one_and_a_commit_itself() -> None:
    first = claimed(None, log_id="log", topology=1)
    assert (first.epoch, first.number) == (1, 1)
    assert first.made(1, 1)


def test_a_claim_goes_on_with_everything_but_the_epoch() -> None:
    before = Checkpoint(
        "log", 4, 17, ((4, 9),), positions={"in/0": Position.at(7)}, watermark=5, advancing=9, facts={"tick": 3}
    )
    after = claimed(before, log_id="log", topology=1)
    assert (after.epoch, after.number) == (5, 18)
    assert (after.positions, after.watermark, after.advancing, after.facts) == (
        before.positions,
        before.watermark,
        before.advancing,
        before.facts,
    )


def test_two_claims_without_a_commit_between_have_different_epochs() -> None:
    one = claimed(None, log_id="log", topology=1)
    two = claimed(one, log_id="log", topology=1)
    assert one.epoch != two.epoch
    assert two.made(1, 1)
    assert two.made(2, 2)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_every_commit_of_the_line_is_an_ancestor_and_no_other_is(commits: list[int]) -> None:
    checkpoint, made = None, set()
    for each in commits:
        checkpoint = claimed(checkpoint, log_id="log", topology=1)
        made.add((checkpoint.epoch, checkpoint.number))
        for _ in range(each):
            checkpoint = committed(checkpoint, 1)
            made.add((checkpoint.epoch, checkpoint.number))
    assert checkpoint is not None
    for epoch in range(len(commits) + 3):
        for number in range(checkpoint.number + 3):
            assert checkpoint.made(epoch, number) == ((epoch, number) in made)


def test_a_commit_of_another_claim_of_the_same_epoch_is_no_ancestor() -> None:
    lost = claimed(None, log_id="log", topology=1, claim="lost with the tail")
    again = committed(claimed(None, log_id="log", topology=1, claim="the second"), 3)
    assert again.made(lost.epoch, lost.number, again.claim)
    assert not again.made(lost.epoch, lost.number, lost.claim)


def test_an_epoch_that_is_no_longer_remembered_is_no_ancestor() -> None:
    checkpoint = claimed(None, log_id="log", topology=1, claim="c1")
    for number in range(2, HISTORY + 10):
        checkpoint = claimed(checkpoint, log_id="log", topology=1, claim=f"c{number}")
    assert not checkpoint.made(1, 1)
    assert checkpoint.made(checkpoint.epoch, checkpoint.number, checkpoint.claim)
    assert len(checkpoint.history) == len(checkpoint.claims) == HISTORY


def test_a_claim_of_an_older_version_leaves_the_task_alone() -> None:
    newer = claimed(None, log_id="log", topology=2)
    with pytest.raises(TopologyChanged, match="version 2 of the app has taken over, and this worker runs version 1"):
        claimed(newer, log_id="log", topology=1)


def test_a_checkpoint_comes_back_as_it_was_written() -> None:
    checkpoint = Checkpoint(
        "log",
        4,
        17,
        ((4, 9),),
        ("name",),
        positions={"in/0": Position({0: 7, 2: 9})},
        topics={"in": "id"},
        watermark=-5,
        advancing=9,
        inputs={"in/0": InputState(7, True, {"up-0": (3, False)})},
        facts={"tick": 3},
    )
    assert decode_checkpoint(encode_checkpoint(checkpoint)) == checkpoint


def test_a_partition_has_one_name() -> None:
    assert partition_key(TopicPartition("a.b-c", 12)) == "a.b-c/12"


def test_a_claim_stands_on_the_log_and_under_the_version_that_it_was_made_with() -> None:
    after = claimed(Checkpoint("old", 4, 17, topology=1), log_id="new", topology=2, claim="mine")
    assert (after.log_id, after.topology, after.claim) == ("new", 2, "mine")
