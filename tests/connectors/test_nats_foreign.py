"""Topics that are streams of others: their URLs, their subjects, and how records become messages, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from streams.connectors.jetstream.foreign_burst import Outcome
from streams.connectors.jetstream.foreign_config import covers, overlap, parse_foreign
from streams.connectors.jetstream.foreign_messages import form_of
from streams.connectors.jetstream.foreign_sink import in_batches
from streams.connectors.registry import open_foreign, open_log
from streams.core.capability import Guarantee, derive_sink, derive_source
from streams.core.log import Append
from streams.core.record import Headers, Records, TopicPartition
from streams.dsl.foreign import split_location
from streams.errors import ConfigurationError, DataError

ALERTS = TopicPartition("alerts", 0)


def test_a_location_says_what_is_read_and_how() -> None:
    config = parse_foreign("jetstream://u:p@one,two:4333?subjects=a.*.b,c.>&key=none&start=last_per_subject&replicas=3")
    assert config.shown == "jetstream://one:4222,two:4333"
    assert config.nats.servers == ("nats://one:4222", "nats://two:4333")
    assert config.nats.replicas == 3
    assert (config.subjects, config.key, config.start) == (("a.*.b", "c.>"), "none", "last_per_subject")
    assert (parse_foreign("nats-kv://one").start, parse_foreign("jetstream://one").start) == (
        "last_per_subject",
        "earliest",
    )


def test_a_topic_s_name_is_the_stream_s() -> None:
    assert split_location("jetstream://one:4222/ORDERS?subjects=a.*,b.>") == (
        "jetstream://one:4222?subjects=a.*,b.>",
        "ORDERS",
    )
    assert split_location("nats-kv://one/config") == ("nats-kv://one", "config")
    assert [parse_foreign(f"{scheme}://one").stream("x") for scheme in ("jetstream", "nats-kv", "nats-object")] == [
        "x",
        "KV_x",
        "OBJ_x",
    ]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("jetstream://one?subjects=a..b", "'a..b' is no subject"),
        ("jetstream://one?subjects=a.>.b", "'a.>.b' is no subject"),
        ("jetstream://one?subjects=a.*,a.b", "a.\\* and a.b have subjects in common"),
        ("jetstream://one?subject=a.*", "it names one subject"),
        ("jetstream://one?subject=a.{id}", "it names one subject"),
        ("jetstream://one?start=latest", "start=latest: it is one of earliest, last_per_subject"),
        ("jetstream://one?max_object_bytes=5", "max_object_bytes is no setting of jetstream://"),
        ("nats-kv://one?subjects=a", "subjects is no setting of nats-kv://; there are start, unsure"),
        ("nats-object://one?max_object_bytes=x", "a number of bytes is needed"),
        ("jetstream://one?replicas=9", "replicas=9"),
    ],
)
def test_what_makes_no_sense_is_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_foreign(url)


@pytest.mark.parametrize(
    ("filter", "subject", "covered"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b", "a.c", False),
    ],
)
def test_a_filter_takes_its_subjects_in(filter: str, subject: str, covered: bool) -> None:
    assert covers(filter, subject) is covered


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [("a.*", "*.b", True), ("a.>", "a.b.c", True), ("a.*", "a.b.c", False), ("a.b", "a.c", False), (">", "a", True)],
)
def test_filters_overlap_where_a_subject_is_of_both(one: str, other: str, both: bool) -> None:
    assert overlap(one, other) is overlap(other, one) is both


def form(url: str, *subjects: str, topic: str = "alerts") -> Any:
    return form_of(parse_foreign(url), topic, {"config": {"name": topic, "subjects": list(subjects)}})


def written(url: str, *subjects: str, key: bytes | None = b"k", headers: Headers | None = None) -> tuple[str, bytes]:
    records = Records([key], [b"v"], [5], None if headers is None else [headers])
    ((subject, lines, _),) = form(url, *subjects).messages([Append(ALERTS, records)], "n", 0)
    return subject, lines


def test_the_subject_is_the_stream_s_only_one_or_made_of_the_record() -> None:
    assert written("jetstream://one", "a.b")[0] == "a.b"
    assert written("jetstream://one?subject=a.{key}", "a.>", key=b"x y*")[0] == "a.x=20y=2A"
    assert written("jetstream://one?subject={subject}", "a.>", headers=(("Nats-Subject", b"a.b"),))[0] == "a.b"


def test_headers_that_are_orders_to_a_server_are_not_handed_on() -> None:
    headers: Headers = (("Nats-Rollup", b"all"), ("Nats-Msg-Id", b"1"), ("X-Trace", b"t"))
    assert written("jetstream://one", "a", headers=headers)[1] == b"Streams-Time: 5\r\nStreams-Key: k\r\nX-Trace: t\r\n"


@pytest.mark.parametrize(
    ("url", "subjects", "key", "words"),
    [
        ("jetstream://one?subject=a.{key}", ["a.*"], None, "a record has no key"),
        ("jetstream://one?subject=a.{key}", ["a.*"], b"b.c", "would go to the subject a.b.c, which its stream doesn't"),
        ("jetstream://one?subject=a.{key}", ["a.>"], b"b..c", "would go to the subject a.b..c"),
    ],
)
def test_a_record_that_no_subject_follows_from_is_an_error(
    url: str, subjects: list[str], key: bytes | None, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        written(url, *subjects, key=key)


@pytest.mark.parametrize(
    ("url", "subjects", "words"),
    [
        (
            "jetstream://one",
            ["a.*"],
            r"say which one records go to, as in jetstream://one:4222/alerts\?subject=a.\{key\}",
        ),
        ("jetstream://one", ["a", "b"], "takes a, b; say which one"),
        ("jetstream://one?subject=c", ["a", "b"], "doesn't take the subject c; it takes a, b"),
    ],
)
def test_a_target_without_a_subject_says_what_to_give(url: str, subjects: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        form(url, *subjects)


def test_the_same_url_is_a_log_for_an_app_and_a_place_of_topics() -> None:
    log, place = open_log("jetstream://one"), open_foreign("jetstream://one")
    assert (log.capabilities.transactional, place.capabilities.transactional) == (True, False)
    assert derive_source(place.capabilities).guarantee is Guarantee.EXACTLY_ONCE
    assert derive_sink(place.capabilities).guarantee is Guarantee.EXACTLY_ONCE


def test_messages_are_linked_by_id_on_a_single_server_only() -> None:
    assert in_batches({"allow_atomic": True, "num_replicas": 3})
    assert not in_batches({"allow_atomic": True, "num_replicas": 1})
    assert not in_batches({"num_replicas": 3})


def test_what_refused_a_burst_is_told_apart() -> None:
    assert Outcome(0, "x", 10071).contended
    assert Outcome(0, "x", 10077).full
    assert Outcome(0, "x", 10054).too_large
    assert Outcome(0, "x", 10201).seen
