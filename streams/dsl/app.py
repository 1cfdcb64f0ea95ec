"""The app: where a user declares topics, streams, tables, agents and timers.

What must live here: declaring.  What must not: running (``streams.runtime``), which hands the app a ``Running``
while it is at work.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from streams.core.capability import GuaranteeName
from streams.core.duration import Duration, parse_duration_ms
from streams.core.graph import Graph, Node
from streams.core.log import TopicInfo, TopicSpec
from streams.core.message import Message
from streams.core.policy import Action
from streams.core.spread import How
from streams.core.state import StateSpec
from streams.dsl.agent import Agent, add_agent, sinks_of
from streams.dsl.blueprint import Blueprint
from streams.dsl.codec import Codec
from streams.dsl.foreign import Journal, Outbox
from streams.dsl.naming import Names, check_name
from streams.dsl.running import Running, TableView
from streams.dsl.settle import settle
from streams.dsl.sources import make_table, read
from streams.dsl.stream import Stream
from streams.dsl.table import Table, tables_named_by
from streams.dsl.topic import Topic, declare_topic
from streams.dsl.types import (
    AgentFunction,
    AgentSettings,
    Kind,
    StartAt,
    StreamSettings,
    TopicSettings,
)
from streams.dsl.view import View
from streams.errors import ConfigurationError, TopologyError

if TYPE_CHECKING:
    from streams.dsl.timer import Timer

K = TypeVar("K")
V = TypeVar("V")
F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_LOG = "embedded:./.streams"


class App:
    """A stream-processing app.

    name: names it on the log; internal topics begin with it.
    log: URL of its log; else ``$STREAMS_LOG``, else ``embedded:./.streams``.
    guarantee: "exactly_once", or "at_least_once", under which outputs to topics leave before the commit and may repeat.
    partitions: of every topic that doesn't say otherwise.
    version: raise it to accept a change of topology that drops something from the log.
    commit_interval: how long effects wait to be committed at most.  barrier_timeout: how long a commit waits for
    agents to ask for their next event.
    cache_bytes: memory of a worker for decoded values of state, shared by all states; beyond it they are read again.
    state_dir: where stores of this machine lie; beside an embedded log by default.
    standbys: how many other workers keep a copy of each task's state up to date, so that one of them takes over at
    once when its worker is gone.  As many as there are workers for; none on a log of one process.
    """

    def __init__(
        self,
        name: str,
        *,
        log: str | None = None,
        guarantee: GuaranteeName = "exactly_once",
        partitions: int = 1,
        version: int = 1,
        commit_interval: Duration = "100ms",
        watermark_interval: Duration = "100ms",
        barrier_timeout: Duration = "30s",
        state_dir: str | None = None,
        cache_bytes: int = 512 * 2**20,
        standbys: int = 0,
    ) -> None:
        self.name = check_name(name, "an app")
        self.log_url = log
        if guarantee not in ("exactly_once", "at_least_once"):
            raise ConfigurationError(f"guarantee is 'exactly_once' or 'at_least_once', not {guarantee!r}")
        self.guarantee: GuaranteeName = guarantee
        if partitions < 1 or version < 1:
            raise ConfigurationError("an app has at least one partition, and its version counts from 1")
        if standbys < 0:
            raise ConfigurationError(f"standbys={standbys}: give how many copies of each task's state to keep, or 0")
        self.partitions = partitions
        self.version = version
        self.commit_interval_ms = parse_duration_ms(commit_interval, "commit_interval")
        self.watermark_interval_ms = parse_duration_ms(watermark_interval, "watermark_interval")
        self.barrier_timeout_ms = parse_duration_ms(barrier_timeout, "barrier_timeout")
        self.state_dir = state_dir
        self.cache_bytes = cache_bytes
        self.standbys = standbys
        self.graph = Graph(self.name)
        self.topics: dict[str, Topic[Any, Any]] = {}
        self.tables: dict[str, Table[Any, Any]] = {}
        self.views: dict[str, TableView] = {}
        self.agents: dict[str, Agent[Any, Any]] = {}
        self.outboxes: dict[str, Outbox] = {}
        self.journals: dict[str, Journal] = {}
        self.spreads: dict[str, How] = {}  # how topics are spread that aren't by key
        self.uncounted: set[str] = set()  # internal topics whose number of partitions nobody gave
        self.timers: list[Timer] = []
        self.start_hooks: list[Callable[[], Awaitable[None]]] = []
        self._names = Names()
        self.sources: dict[str, tuple[Stream[Any, Any], object]] = {}  # what reads a topic, with its settings
        self._blueprint: Blueprint | None = None
        self._running: Running | None = None

    def __repr__(self) -> str:
        return f"App({self.name!r})"

    # ── declaring ─────────────────────────────────────────────────────────────────────────────────────────────────

    @overload
    def topic(self, name: str, *, key: Kind[K], value: Kind[V], **settings: Unpack[TopicSettings]) -> Topic[K, V]: ...
    @overload
    def topic(self, name: str, *, value: Kind[V], **settings: Unpack[TopicSettings]) -> Topic[str, V]: ...
    @overload
    def topic(
        self, name: str, *, key: Callable[[Message], K], value: Kind[V], **settings: Unpack[TopicSettings]
    ) -> Topic[K, V]: ...
    @overload
    def topic(
        self, name: str, *, key: Any = None, value: UnionType | None = None, **settings: Unpack[TopicSettings]
    ) -> Topic[Any, Any]: ...
    def topic(
        self,
        name: str,
        *,
        key: Any = None,
        value: Any = None,
        partitions: int | None = None,
        retention: Duration | None = None,
        retention_bytes: int | None = None,
        compact: bool | None = None,
        partitioner: How = "key",
        timestamps: Literal["create", "append"] | None = None,
        config: Mapping[str, object] | None = None,
        label: str | None = None,
        qos: Literal[0, 1, 2] | None = None,
        retain: bool | None = None,
    ) -> Topic[Any, Any]:
        """A topic on the app's log, created at start if it isn't there; or ``<log>/<topic>`` on another log; or what a
        transport calls one, ``nats://host/alerts.{key}``, ``mqtt://host/plant/+/temperature?qos=2``.

        key: its type, str by default, bytes, int, …; or, for what a transport brings, a function from the message as it
        came to its key, ``lambda m: m.topic.split("/")[1]``.  value: the type of its values; without one, plain JSON.
        partitions: of one that is created, the app's by default, or as many as a topic has with which it is joined.
        retention, retention_bytes: how long or how much is kept; everything by default.  compact: only the last
        record of each key is kept.
        partitioner: where the app's records go: "key" (those without one a batch to a partition), "round_robin",
        "random", or a function of the key's bytes (or None) and the number of partitions.
        timestamps: "create", as sent, or "append", when the log got them, for which it takes Kafka.  config: settings
        of the topic by Kafka's own names, ``{"max.message.bytes": 2_000_000}``; other logs pass them over.
        label: what the app calls a topic on another log or at a transport, where its own name is taken.
        qos, retain: of MQTT, the same as in its URL.
        Where the topic exists, what isn't given here is as it is there, and what is given has to be equal: else the
        worker doesn't start (TopicMismatch).  The same name gives the same topic; other settings raise
        ConfigurationError.
        """
        return declare_topic(
            self,
            name,
            key=key,
            value=value,
            partitions=partitions,
            retention=retention,
            retention_bytes=retention_bytes,
            compact=compact,
            partitioner=partitioner,
            timestamps=timestamps,
            config=config,
            label=label,
            qos=qos,
            retain=retain,
        )

    @overload
    def stream(
        self,
        topic: Topic[K, V] | Sequence[Topic[K, V]],
        *,
        timestamp: Callable[[V], Any] | None = None,
        **settings: Unpack[StreamSettings],
    ) -> Stream[K, V]: ...
    @overload
    def stream(
        self,
        topic: str | re.Pattern[str] | Sequence[str],
        *,
        key: Kind[K],
        value: Kind[V],
        timestamp: Callable[[V], Any] | None = None,
        **settings: Unpack[StreamSettings],
    ) -> Stream[K, V]: ...
    @overload
    def stream(
        self,
        topic: str | re.Pattern[str] | Sequence[str],
        *,
        value: Kind[V],
        timestamp: Callable[[V], Any] | None = None,
        **settings: Unpack[StreamSettings],
    ) -> Stream[str, V]: ...
    @overload
    def stream(
        self,
        topic: str | re.Pattern[str] | Sequence[str],
        *,
        key: Any = None,
        value: UnionType | None = None,
        timestamp: Callable[[Any], Any] | None = None,
        **settings: Unpack[StreamSettings],
    ) -> Stream[Any, Any]: ...
    def stream(
        self,
        topic: Topic[Any, Any] | str | re.Pattern[str] | Sequence[Topic[Any, Any] | str],
        *,
        key: Any = None,
        value: Any = None,
        timestamp: Callable[[Any], Any] | None = None,
        out_of_orderness: Duration = 0,
        idle_after: Duration | None = "1m",
        on_error: Action = "fail",
        dead_letters: Topic[Any, Any] | str | None = None,
        on_lost: Literal["fail", "earliest"] = "fail",
        start: StartAt = "earliest",
        tombstones: bool = False,
    ) -> Stream[Any, Any]:
        """The records of a topic, or of several merged: these have the same number of partitions.

        A compiled pattern, ``re.compile("orders-.*")``, stands for the topics of the app's log whose whole names match
        when a worker starts, but for those that the app writes itself and for internal ones.  One that comes later is
        told in a line, and taken up by the next start.  The tasks are named by the pattern.

        timestamp: finds the event time of a value (ms, seconds as float, datetime); else the record's own counts.
        out_of_orderness: how far records may come out of order; the watermark stays that much behind.
        idle_after: a partition without records for that long (wall-clock) no longer holds the watermark.
        on_error: "fail" stops the task, "dead_letter" moves the record to ``dead_letters``
        (``<topic>.dead-letters``) in the same commit, "skip" passes it over and counts it.
        on_lost: what to do when retention removed records before they were read: "fail", or go on from the
        "earliest" that is left and count what is gone.
        start: where a task begins that has no position yet: "earliest", "latest", a time (datetime, or ms: the first
        record that isn't older), or {partition: offset}, where those not named begin at the earliest.
        tombstones: True hands records without a value, which are deletions, on as None; else they are counted and left
        out.
        """
        return read(
            self,
            topic,
            key=key,
            value=value,
            timestamp=timestamp,
            out_of_orderness=out_of_orderness,
            idle_after=idle_after,
            on_error=on_error,
            dead_letters=dead_letters,
            on_lost=on_lost,
            start=start,
            tombstones=tombstones,
        )

    @overload
    def table(
        self,
        name: str,
        *,
        key: Kind[K],
        value: Kind[V],
        default: Callable[[], V] | None = None,
        source: str | None = None,
    ) -> Table[K, V]: ...
    @overload
    def table(
        self, name: str, *, value: Kind[V], default: Callable[[], V] | None = None, source: str | None = None
    ) -> Table[str, V]: ...
    @overload
    def table(self, name: str, *, source: Topic[K, V], default: Callable[[], V] | None = None) -> Table[K, V]: ...
    @overload
    def table(
        self,
        name: str,
        *,
        key: Any = None,
        value: Any = None,
        default: Callable[[], Any] | None = None,
        source: Topic[Any, Any] | str | None = None,
    ) -> Table[Any, Any]: ...
    def table(
        self,
        name: str,
        *,
        key: Any = None,
        value: Any = None,
        default: Callable[[], Any] | None = None,
        source: Topic[Any, Any] | str | None = None,
    ) -> Table[Any, Any]:
        """A table, kept on the log and in the stores of its tasks.

        default: makes the value of a key that isn't there.  source: the table holds the last value of each key of
        this topic; else agents and operators write it.
        """
        return make_table(self, name, key=key, value=value, default=default, source=source)

    def view(self, state: StateSpec, keys: Codec[Any], result: Callable[[Any], Any]) -> Table[Any, Any]:
        """A read-only table over the state of an aggregate."""
        self.views.setdefault(state.name, TableView(state, keys, keys, result))
        return self.tables.setdefault(state.name, View(self, state.name, state, keys, result))

    @overload
    def agent(self, stream: str, **settings: Unpack[AgentSettings]) -> Callable[[AgentFunction], Agent[Any, Any]]: ...
    @overload
    def agent(
        self, stream: Stream[K, V] | Topic[K, V], **settings: Unpack[AgentSettings]
    ) -> Callable[[AgentFunction], Agent[K, V]]: ...
    def agent(
        self,
        stream: Stream[K, V] | Topic[K, V] | str,
        *,
        name: str = "",
        concurrency: int = 1,
        sinks: Iterable[Topic[Any, Any] | str] = (),
        tables: Iterable[Table[Any, Any]] = (),
    ) -> Callable[[Callable[..., Any]], Agent[K, V]]:
        """Decorate ``async def agent(events)``, which loops ``async for event in events`` and may ``yield`` results.

        sinks: topics for what it yields.  tables: those that it uses beyond the ones its code names directly.
        concurrency: events in flight at once in a task; events of one key never overlap.
        """
        source: Stream[K, V] = stream if isinstance(stream, Stream) else self.stream(stream)
        if concurrency < 1:
            raise ConfigurationError(f"agent: concurrency is at least 1, not {concurrency}")

        def decorate(fn: Callable[..., Any]) -> Agent[K, V]:
            if not (inspect.isasyncgenfunction(fn) or inspect.iscoroutinefunction(fn)):
                raise ConfigurationError(f"agent {fn.__name__}: write it as `async def` over its events")
            label = check_name(name or fn.__name__, "an agent")
            agent = add_agent(self, label, source, fn, concurrency, [*tables, *tables_named_by(fn)])
            sinks_of(sinks, agent.results)
            self.agents[label] = agent
            return agent

        return decorate

    def timer(
        self, every: Duration, *, name: str = "", per_worker: bool = False, sinks: Iterable[Topic[Any, Any] | str] = ()
    ) -> Callable[[F], F]:
        """Decorate ``async def f()``, called each ``every``: one task for the whole app, whose ticks are durable.

        As an async generator it may ``yield`` to ``sinks``, exactly once.  ``per_worker=True``: in each worker, with
        nothing kept.
        """
        from streams.dsl.timer import add_timer

        return add_timer(
            self, every_ms=parse_duration_ms(every, "timer"), cron="", name=name, per_worker=per_worker, sinks=sinks
        )

    def cron(
        self, expression: str, *, name: str = "", per_worker: bool = False, sinks: Iterable[Topic[Any, Any] | str] = ()
    ) -> Callable[[F], F]:
        """As ``timer``, at the times of a cron expression (five fields, UTC)."""
        from streams.dsl.timer import add_timer

        return add_timer(self, every_ms=0, cron=expression, name=name, per_worker=per_worker, sinks=sinks)

    def on_start(self, fn: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Decorate an async function that is called once in each worker, before its tasks start."""
        self.start_hooks.append(fn)
        return fn

    # ── for the rest of the package ───────────────────────────────────────────────────────────────────────────────

    def resolve_log_url(self, override: str | None = None) -> str:
        """The log's URL: the override, the argument, ``$STREAMS_LOG``, or the default."""
        return override or self.log_url or os.environ.get("STREAMS_LOG") or DEFAULT_LOG

    @property
    def running(self) -> Running:
        """The worker that runs this app; raises RuntimeError when none does."""
        if self._running is None:
            raise RuntimeError(f"app {self.name!r} isn't running; start it with `streams worker`")
        return self._running

    def attach(self, running: Running | None) -> None:
        """Called by the runtime when it starts to run the app, and with None when it has stopped."""
        self._running = running

    def add(self, node: Node) -> None:
        if self._blueprint is not None:
            raise TopologyError(f"{node.name}: the app is already running; declare everything before it starts")
        self.graph.add(node)

    def internal(self, label: str, kind: str, what: str) -> str:
        """The name of an internal topic, registered."""
        self._names.take(f"{label}.{kind}", what)
        return f"{self.name}.{label}.{kind}"

    def outlet(self, target: TopicSpec) -> TopicSpec:
        """Where tasks write what is meant for ``target``: the topic itself, or the outbox of a foreign one."""
        if not target.location:
            return target
        if target.name not in self.outboxes:
            name = self.internal(target.name, "outbox", f"the outbox of {target.name}")
            self.outboxes[target.name] = Outbox(TopicSpec(name, self.partitions, "outbox"), target)
        return self.outboxes[target.name].topic

    def outbox_of(self, target: TopicSpec) -> TopicSpec:
        """The outbox of a topic that lies elsewhere.  Raises ConfigurationError where the app has none for it."""
        if target.name not in self.outboxes:
            raise ConfigurationError(
                f"topic {target.name} lies outside of the app's log, and nothing in the app writes to it, so that it "
                f"has no outbox; write to it with .to(…), or make it an agent's sink"
            )
        return self.outboxes[target.name].topic

    def inlet(self, source: TopicSpec) -> TopicSpec:
        """Where tasks read what comes from ``source``: the topic itself, or the journal of one at an edge."""
        if not source.address:
            return source
        if source.name not in self.journals:
            name = self.internal(source.name, "journal", f"the journal of {source.name}")
            self.journals[source.name] = Journal(TopicSpec(name, source.partitions, "journal"), source)
        return self.journals[source.name].topic

    def take_name(self, name: str, what: str) -> None:
        """Register the name of something; raises TopologyError where something else has it."""
        self._names.take(name, what)

    def state_name(self, name: str) -> str:
        return self._names.take(name, f"the state of {name}")

    def tables_of(self, fn: Callable[..., Any]) -> list[StateSpec]:
        return [table.state for table in tables_named_by(fn)]

    def build(self, held: Mapping[str, TopicInfo] | None = None) -> Blueprint:
        """The blueprint; computed at the first call, after which nothing more can be declared.

        held: topics as they are on their logs, by name: it is computed anew, with them in place of defaults, and
        stays so for later calls without.
        """
        if self._blueprint is None or held is not None:
            self._blueprint = settle(self, held)
        return self._blueprint

    def task_of(self, topic: str, partition: int) -> str:
        """The task that reads a partition of a topic."""
        for subtopology in self.build().subtopologies:
            if any(node.reads is not None and node.reads.name == topic for node in subtopology.nodes):
                return subtopology.task_id(partition)
        raise TopologyError(f"no task reads {topic}")


__all__ = ["App", "Running", "TableView"]
