"""Guarantees are derived from what a connector declares, and asking for more names what is missing."""

from __future__ import annotations

import pytest

from streams.core.capability import (
    Capabilities,
    Derived,
    Guarantee,
    derive_commit,
    derive_sink,
    derive_source,
    require,
)
from streams.errors import GuaranteeError

EXACTLY, AT_LEAST, AT_MOST = Guarantee.EXACTLY_ONCE, Guarantee.AT_LEAST_ONCE, Guarantee.AT_MOST_ONCE


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (Capabilities(replayable=True, ordered=True), EXACTLY),
        (Capabilities(replayable=True), AT_LEAST),
        (Capabilities(ordered=True), AT_MOST),
        (Capabilities(), AT_MOST),
    ],
)
def test_reading_is_as_good_as_replay_and_order(capabilities: Capabilities, expected: Guarantee) -> None:
    assert derive_source(capabilities).guarantee is expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (Capabilities(transactional=True, fences=True), EXACTLY),
        (Capabilities(transactional=True), AT_LEAST),
        (Capabilities(fences=True), AT_LEAST),
    ],
)
def test_a_commit_needs_a_transaction_and_a_fence(capabilities: Capabilities, expected: Guarantee) -> None:
    assert derive_commit(capabilities, "exactly_once").guarantee is expected


def test_at_least_once_by_choice_is_said_to_be_a_choice() -> None:
    derived = derive_commit(Capabilities(transactional=True, fences=True), "at_least_once")
    assert derived.guarantee is AT_LEAST
    assert "by choice" in derived.why


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (Capabilities(transactional=True, fences=True, delivered_position=True), EXACTLY),
        (Capabilities(resumes_handshake=True), EXACTLY),
        (Capabilities(deduplicates="forever"), EXACTLY),
        (Capabilities(deduplicates="window"), AT_LEAST),
        (Capabilities(transactional=True, fences=True), AT_LEAST),
        (Capabilities(transactional=True, delivered_position=True), AT_LEAST),
        (Capabilities(fences=True, delivered_position=True), AT_LEAST),
        (Capabilities(), AT_LEAST),
    ],
)
def test_delivery_needs_a_position_a_handshake_or_a_memory_at_the_target(
    capabilities: Capabilities, expected: Guarantee
) -> None:
    assert derive_sink(capabilities).guarantee is expected


def test_asking_for_more_than_can_be_had_names_the_edge_the_reason_and_the_choice() -> None:
    derived = Derived(AT_LEAST, "no fencing: a stale owner can still write")
    with pytest.raises(GuaranteeError, match=r"edge: .*no fencing.*guarantee='at_least_once'"):
        require("exactly_once", "edge", derived)
    require("at_least_once", "edge", derived)
    require("exactly_once", "edge", Derived(EXACTLY, ""))


def test_why_a_repeat_may_be_seen_is_told_by_what_the_target_recognises() -> None:
    assert "time window" in derive_sink(Capabilities(deduplicates="window")).why
    assert "doesn't recognise" in derive_sink(Capabilities(deduplicates="never")).why
