"""Topics with wildcards and templates of keys, as the file of a bridge has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.apps.bridge.patterns import chooser, template
from streams.errors import ConfigurationError

LEVELS = st.lists(st.sampled_from(["", "a", "b", "a.b", "$x"]), min_size=1, max_size=4)
FILTERS = st.lists(st.sampled_from(["", "a", "b", "+"]), min_size=1, max_size=4)


def matches(wanted: list[str], levels: list[str]) -> bool:
    """As section 4.7 of MQTT 5 has it, level by level."""
    if wanted and wanted[0] == "#":
        return True
    if not wanted or not levels:
        return not wanted and not levels
    return wanted[0] in ("+", levels[0]) and matches(wanted[1:], levels[1:])


@given(FILTERS, st.booleans(), LEVELS)
def test_a_filter_means_what_it_means_to_mqtt(wanted: list[str], rest: bool, levels: list[str]) -> None:
    pattern = [*wanted, "#"] if rest else wanted
    if pattern == [""]:
        return  # no filter
    chosen = chooser(["/".join(pattern)], [], "/")
    assert chosen("/".join(levels)) == matches(pattern, levels)


@pytest.mark.parametrize(
    ("pattern", "subject", "meant"),
    [
        ("plant.*.heat", "plant.1.heat", True),
        ("plant.*.heat", "plant.1.2.heat", False),
        ("plant.>", "plant.1.2", True),
        ("plant.>", "plant", False),
        ("orders", "orders", True),
    ],
)
def test_a_subject_is_matched_as_by_nats(pattern: str, subject: str, meant: bool) -> None:
    assert chooser([pattern], [], ".")(subject) is meant


def test_what_is_excluded_goes_before_what_is_included() -> None:
    chosen = chooser(["plant/#"], ["plant/test/#"], "/")
    assert [chosen(topic) for topic in ("plant/1", "plant/test/1", "lab/1")] == [True, False, False]
    assert chooser([], [], "/")("anything")


@pytest.mark.parametrize("pattern", ["", "#/a", "a/>/b"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="is no pattern of topics"):
        chooser([pattern], [], "/")


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{topic}", "plant/7/heat"),
        ("{topic[1]}", "7"),
        ("{topic[-1]}", "heat"),
        ("{topic:.}", "plant.7.heat"),
        ("site-{key}/{value.device.id}", "site-k/3"),
        ("plain", "plain"),
    ],
)
def test_a_key_is_made_of_topic_key_and_value(text: str, filled: str) -> None:
    assert template(text, "/")("plant/7/heat", b"k", {"device": {"id": 3}}) == filled


@pytest.mark.parametrize("text", ["{", "{other}", "{key[1]}", "{topic.name}", "{value[0]}", "{value.__class__!r}"])
def test_a_template_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="key "):
        template(text, "/")


@pytest.mark.parametrize(
    ("text", "value"),
    [("{value.a}", {}), ("{value.a}", None), ("{value.a}", {"a": [1]}), ("{value.a}", {"a": True}), ("{topic[9]}", {})],
)
def test_a_value_without_the_field_raises_and_makes_no_key(text: str, value: object) -> None:
    with pytest.raises((LookupError, TypeError)):
        template(text, "/")("plant/1", None, value)
