"""What reads a topic: streams and tables from topics.

What must live here: from what the user says of a source to its nodes.  What must not: which records there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from streams.core.duration import Duration, parse_duration_ms
from streams.core.log import TopicSpec
from streams.core.policy import Action, ErrorPolicy
from streams.core.state import StateSpec
from streams.dsl.codec import Codec, value_codec
from streams.dsl.foreign import topic_header
from streams.dsl.keys import key_codec, ordered_key_codec
from streams.dsl.naming import check_name
from streams.dsl.running import TableView
from streams.dsl.stream import Stream
from streams.dsl.table import Table
from streams.dsl.topic import Topic, declare_topic
from streams.dsl.types import StartAt, checked_start
from streams.errors import ConfigurationError, TopologyError
from streams.operators.matching import Matching
from streams.operators.source import Source
from streams.operators.table import TableWriter

if TYPE_CHECKING:
    from streams.dsl.app import App

__all__ = ["make_table", "read"]


def read(
    app: App,
    topic: Topic[Any, Any] | str | re.Pattern[str] | Sequence[Topic[Any, Any] | str],
    *,
    key: Any,
    value: Any,
    timestamp: Callable[[Any], Any] | None,
    out_of_orderness: Duration,
    idle_after: Duration | None,
    on_error: Action,
    dead_letters: Topic[Any, Any] | str | None,
    on_lost: Literal["fail", "earliest"],
    start: StartAt,
    tombstones: bool,
) -> Stream[Any, Any]:
    """What ``App.stream`` does."""

    def node_for(name: str, spec: TopicSpec, values: Codec[Any], policy: ErrorPolicy) -> Source:
        return Source(
            name=name,
            policy=policy,
            topic=spec,
            decode=values.decode,
            timestamp=timestamp,
            slack_ms=parse_duration_ms(out_of_orderness, "out_of_orderness"),
            idle_after_ms=None if idle_after is None else parse_duration_ms(idle_after, "idle_after"),
            on_lost=on_lost,
            start=checked_start(start, f"the stream of {name}"),
            tombstones=tombstones,
        )

    def one(named: Topic[Any, Any] | str) -> Stream[Any, Any]:
        source = app.topic(named, key=key, value=value) if isinstance(named, str) else named
        policy = _policy(app, source.name, on_error, dead_letters)
        node = _keyed(node_for(source.name, app.inlet(source.spec), source.value_codec, policy), source)
        settings = (timestamp, node.slack_ms, idle_after, policy, on_lost, node.start, tombstones)
        known = app.sources.get(source.name)
        if known is not None:
            if known[1] != settings:
                raise TopologyError(
                    f"topic {source.name!r} is read twice with different settings; call app.stream once and use what "
                    f"it returns in both places"
                )
            return known[0]
        app.add(node)
        stream: Stream[Any, Any] = Stream(
            app, node, source.name, source.spec.partitions, source.key_codec, source.value_type, policy
        )
        app.sources[source.name] = (stream, settings)
        return stream

    def matching(pattern: re.Pattern[str]) -> Stream[Any, Any]:
        label = re.sub(r"[^A-Za-z0-9]+", "-", pattern.pattern).strip("-")[:100] or "all-topics"
        app.take_name(label, f"the stream of {pattern.pattern!r}")
        policy = _policy(app, label, on_error, dead_letters)
        keys, values = key_codec(key).at(label, "key"), value_codec(value).at(label)
        node_for(label, TopicSpec(label), values, policy)  # what is wrong with the settings shows here
        found: list[Source] = []
        node = Matching(
            name=label,
            policy=policy,
            pattern=pattern,
            make=lambda spec: node_for(label, spec, values, policy),
            found=found,
            upstream=found,
        )
        app.add(node)
        return Stream(app, node, label, app.partitions, keys, value, policy)

    if isinstance(topic, re.Pattern):
        return matching(topic)
    if isinstance(topic, str | Topic):
        return one(topic)
    streams = [one(each) for each in topic]
    if not streams:
        raise ConfigurationError("app.stream([]): name at least one topic")
    return streams[0].merge(*streams[1:]) if len(streams) > 1 else streams[0]


def _policy(app: App, source: str, action: Action, letters: Topic[Any, Any] | str | None) -> ErrorPolicy:
    if action not in ("fail", "dead_letter", "skip"):
        raise ConfigurationError(f"on_error is 'fail', 'dead_letter' or 'skip', not {action!r}")
    if action != "dead_letter":
        return ErrorPolicy(action)
    name = letters if letters is not None else f"{source}.dead-letters"
    topic = app.topic(name, key=bytes, value=bytes) if isinstance(name, str) else name
    return ErrorPolicy("dead_letter", app.outlet(topic.spec))


def make_table(
    app: App,
    name: str,
    *,
    key: Any,
    value: Any,
    default: Callable[[], Any] | None,
    source: Topic[Any, Any] | str | None,
) -> Table[Any, Any]:
    """What ``App.table`` does."""
    if name in app.tables:
        raise TopologyError(f"table {name!r} is declared twice; declare it once and use it in both places")
    check_name(name, "a table")
    topic: Topic[Any, Any] | None = None
    if source is not None:
        topic = declare_topic(app, source, key=key, value=value, compacted=True) if isinstance(source, str) else source
        keys = ordered_key_codec(topic.key_type).at(topic.name, "key")
        wire, values = topic.key_codec, topic.value_codec
    else:
        keys, wire = ordered_key_codec(key).at(name, "key"), key_codec(key).at(name, "key")
        values = value_codec(value).at(name)
    state = StateSpec(
        app.state_name(name), "keyed", values.encode, values.decode, f"table/1/{keys.name}", values.schema
    )
    table: Table[Any, Any] = Table(app, name, state, keys, wire, default)
    app.tables[name] = table
    app.views[name] = TableView(state, keys, wire, _unchanged)
    if topic is not None:
        _feed(app, table, topic)
    return table


def _feed(app: App, table: Table[Any, Any], topic: Topic[Any, Any]) -> None:
    """Let ``table`` hold the last value of each key of ``topic``."""
    if topic.name in app.sources:
        raise TopologyError(f"topic {topic.name!r} feeds table {table.name!r} and a stream; use stream.to_table(table)")
    reader = Source(
        name=topic.name, topic=app.inlet(topic.spec), decode=topic.value_codec.decode, timed=False, tombstones=True
    )
    reader = _keyed(reader, topic)
    app.add(reader)
    stream: Stream[Any, Any] = Stream(
        app, reader, topic.name, topic.spec.partitions, topic.key_codec, topic.value_type, ErrorPolicy()
    )
    app.add(
        TableWriter(
            name=f"{topic.name}: table {table.name}",
            upstream=(reader,),
            state=table.state,
            recode_key=table.recode_from(stream.keys, f"table {table.name}"),
        )
    )
    app.sources[topic.name] = (stream, None)


def _keyed(node: Source, topic: Topic[Any, Any]) -> Source:
    """The node, with the function that finds the topic's keys, where it has one."""
    if topic.key_of is None:
        return node
    return replace(node, key=topic.read_key, topic_header=topic_header(topic.spec.location))


def _unchanged(value: Any) -> Any:
    return value
