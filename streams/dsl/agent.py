"""Agents as users declare them: an async generator over a stream, which others can ask."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from streams.core.duration import Duration, parse_duration_ms
from streams.core.endpoint import Endpoint
from streams.core.log import TopicSpec
from streams.dsl.codec import Codec, value_codec
from streams.dsl.stream import Stream
from streams.dsl.table import Table
from streams.dsl.topic import Topic
from streams.dsl.types import Unknown, writable_codec
from streams.errors import ConfigurationError, TopologyError
from streams.operators.agent import Agent as AgentNode
from streams.operators.source import Source

if TYPE_CHECKING:
    from streams.dsl.app import App

K = TypeVar("K")
V = TypeVar("V")

AgentFunction = Callable[[AsyncIterator[V]], Any]


class Agent(Generic[K, V]):
    """A coroutine over a stream.  Made by ``App.agent``.

    What it yields goes to its sinks in the commit that holds its effects.  A reply leaves after that commit.
    """

    def __init__(
        self,
        app: App,
        name: str,
        source: Stream[K, V],
        inbox: TopicSpec,
        values: Codec[V],
        results: Stream[K, Any],
    ) -> None:
        self.app = app
        self.name = name
        self.source = source
        self.inbox = inbox
        self.values = values
        self.results = results
        self.endpoints: list[Endpoint] = []

    def __repr__(self) -> str:
        return f"Agent({self.name!r})"

    async def ask(self, value: V, *, key: K | None = None, timeout: Duration = "10s") -> Any:
        """Send a request and wait for what the agent yields for it (None if nothing, a list if more than one).

        The reply comes after the commit of its effects.  ``key`` decides the task; where the stream has a key_by right
        before the agent it is computed.  Raises AgentFailed when the agent raised (its effects are taken back),
        AskTimeout, LogUnavailable when the log hasn't taken the request by then, and AskCycle at once when the asked
        task waits for the caller.  From inside an agent it is an external effect, under an id that a re-run repeats, so
        that it takes effect once; an agent begins its event again when the log has not taken what it asks.
        """
        encoded = self._key(value, key)
        return await self.app.running.ask(
            self, encoded, self.values.encode(value), parse_duration_ms(timeout, "timeout")
        )

    async def cast(self, value: V, *, key: K | None = None) -> None:
        """Send a request and don't wait for an answer; returns once the log has it."""
        await self.app.running.cast(self, self._key(value, key), self.values.encode(value))

    def serve(self, url: str, *, timeout: Duration = "10s", pending: int = 1000) -> None:
        """Answer on a subject of NATS as well: ``settle.serve("nats://host:4222/bank.settle.{key}")``.

        Any client may ask there (a message without a reply subject is a cast).  Its payload is the value, as in a topic
        of the agent's; the answer is JSON, or what was yielded if that is bytes, once the effects are committed.  The
        key is the word that stands for ``{key}``, else the header ``Streams-Key``, else it is computed as by ``ask``.
        Who asks again under the same ``Nats-Msg-Id`` (or ``Streams-Request-Id``) gets the same answer, and no second
        effect.  Errors come at once, in the headers of NATS' services.

        timeout: how long an answer is waited for before the asker is told.  pending: requests under way at once in a
        worker; more are turned down.  Settings and logins stand in the URL or the environment, as for a log on NATS.
        """
        endpoint = Endpoint.at(self.name, url, timeout_ms=parse_duration_ms(timeout, "timeout"), pending=pending)
        if self.app._blueprint is not None:
            raise TopologyError(f"agent {self.name}: the app is already running; declare everything before it starts")
        for other in self.app.agents.values():
            if any((each.server, each.pattern) == (endpoint.server, endpoint.pattern) for each in other.endpoints):
                raise ConfigurationError(
                    f"agents {other.name} and {self.name} would both answer at {endpoint.shown}; give each its subject"
                )
        self.endpoints.append(endpoint)

    def to(self, topic: Topic[Any, Any] | str) -> None:
        """Write what the agent yields to a topic."""
        self.results.to(topic)

    def task_for(self, partition: int) -> str:
        """The task that answers for a partition of the inbox."""
        return self.app.task_of(self.inbox.name, partition)

    def _key(self, value: V, key: K | None) -> bytes:
        if key is None:
            if self.source.key_fn is None:
                raise ConfigurationError(
                    f"agent {self.name}: give ask and cast a key=, since its stream has no key_by right before it"
                )
            key = self.source.key_fn(value)
        return self.source.keys.encode(key)


def sinks_of(sinks: Iterable[Topic[Any, Any] | str], results: Stream[Any, Any]) -> None:
    """Connect an agent's results to each of its sinks."""
    for sink in sinks:
        results.to(sink)


def add_agent(
    app: App,
    label: str,
    source: Stream[K, V],
    fn: Callable[..., Any],
    concurrency: int,
    tables: Sequence[Table[Any, Any]],
) -> Agent[K, V]:
    """Put an agent into the app's graph, with its inbox.  tables: what it uses."""
    used = {table.state.name: table for table in tables}
    values = value_codec(source.type) if source.type is not Unknown else writable_codec(Unknown, f"agent {label}")
    inbox = TopicSpec(app.internal(label, "inbox", f"the inbox of agent {label}"), source.partitions, "repartition")
    app.uncounted.add(inbox.name)
    values = values.at(inbox.name)
    asked = Source(name=f"{label}.inbox", topic=inbox, decode=values.decode, timed=False, aligned=False)
    app.add(asked)
    node = AgentNode(
        name=label,
        upstream=(source.node, asked),
        policy=source.policy,
        fn=fn,
        inbox=inbox,
        tables=[table.state for table in used.values()],
        prefetch=[name for name, table in used.items() if table.key_codec.name == source.keys.name in ("str", "bytes")],
        concurrency=concurrency,
        decode_key=source.keys.decode,
    )
    app.take_name(f"{label}.requests", f"agent {label}")
    app.add(node)
    results: Stream[Any, Any] = Stream(app, node, label, source.partitions, source.keys, Unknown, source.policy)
    return Agent(app, label, source, inbox, values, results)
