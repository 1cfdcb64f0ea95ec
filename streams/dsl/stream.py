"""Streams: the pipeline that users write.

Each method adds an operator to the app's graph and returns the stream behind it.  A stream knows the type of its
values as far as it was declared, since what crosses the log must be written and read again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from streams.core.duration import Duration, parse_duration_ms
from streams.core.graph import Node
from streams.core.log import TopicSpec
from streams.core.policy import ErrorPolicy
from streams.core.state import StateSpec
from streams.core.window import Windows
from streams.dsl.agg import Aggregation, Aggregator, Single, count, reduce
from streams.dsl.aggregated import Aggregated, Windowed
from streams.dsl.codec import Codec, value_codec
from streams.dsl.keys import key_codec
from streams.dsl.naming import check_partitions, check_plain, function_label
from streams.dsl.processed import ProcessDecorator
from streams.dsl.table import Table
from streams.dsl.topic import Topic
from streams.dsl.types import Kind, Unknown, returned_type, writable_codec
from streams.dsl.view import View
from streams.errors import ConfigurationError, TopologyError
from streams.operators.aggregate import Aggregate
from streams.operators.batching import Batching, batching_state
from streams.operators.branch import Branch, BranchPort, Merge
from streams.operators.dedupe import Dedupe, dedupe_state
from streams.operators.map import Filter, FlatMap, Items, Map, Peek
from streams.operators.sink import Repartition, Sink
from streams.operators.source import Source
from streams.operators.table import TableJoin, TableWriter

if TYPE_CHECKING:
    from streams.dsl.app import App

K = TypeVar("K")
V = TypeVar("V")
W = TypeVar("W")
R = TypeVar("R")
S = TypeVar("S")
K2 = TypeVar("K2")


@dataclasses.dataclass(frozen=True, eq=False)
class Stream(Generic[K, V]):
    """Values of type V under keys of type K, partitioned by key.  Made by ``App.stream``; immutable.

    label: the last name the user gave upstream; what unnamed operators derive theirs from.
    """

    app: App
    node: Node
    label: str
    partitions: int
    keys: Codec[K]
    type: Any
    policy: ErrorPolicy
    key_fn: Callable[[V], K] | None = None

    # ── one record at a time ──────────────────────────────────────────────────────────────────────────────────────

    def map(self, fn: Callable[[V], W], *, value: Any = Unknown) -> Stream[K, W]:
        """Each value becomes ``fn(value)``.  ``value``: the result's type, where it isn't annotated."""
        node = Map(name=self._operator("map", fn), upstream=(self.node,), policy=self.policy, fn=fn)
        return self._then(node, type=returned_type(fn) if value is Unknown else value, key_fn=None)

    def filter(self, predicate: Callable[[V], object]) -> Stream[K, V]:
        """Only the values for which ``predicate`` is true."""
        name = self._operator("filter", predicate)
        return self._then(Filter(name=name, upstream=(self.node,), policy=self.policy, predicate=predicate))

    def flat_map(self, fn: Callable[[V], Iterable[W]], *, value: Any = Unknown) -> Stream[K, W]:
        """Each value becomes the values of ``fn(value)``, none, one or many, in order."""
        node = FlatMap(name=self._operator("flat_map", fn), upstream=(self.node,), policy=self.policy, fn=fn)
        return self._then(node, type=value, key_fn=None)

    def peek(self, fn: Callable[[V], object]) -> Stream[K, V]:
        """Calls ``fn`` with each value, for an effect outside: at least once, more often after a crash."""
        return self._then(Peek(name=self._operator("peek", fn), upstream=(self.node,), policy=self.policy, fn=fn))

    def items(self) -> Stream[K, tuple[K, V]]:
        """Each value becomes the pair (key, value)."""
        node = Items(
            name=f"{self.label}: items", upstream=(self.node,), policy=self.policy, decode_key=self.keys.decode
        )
        return self._then(node, type=Unknown, key_fn=None)

    # ── routing ───────────────────────────────────────────────────────────────────────────────────────────────────

    @overload
    def key_by(
        self, fn: Callable[[V], K2], *, key: Kind[K2], value: Any = ..., partitions: int | None = ..., name: str = ...
    ) -> Stream[K2, V]: ...
    @overload
    def key_by(
        self, fn: Callable[[V], K2], *, value: Any = ..., partitions: int | None = ..., name: str = ...
    ) -> Stream[K2, V]: ...
    def key_by(
        self,
        fn: Callable[[V], Any],
        *,
        key: Any = None,
        value: Any = Unknown,
        partitions: int | None = None,
        name: str = "",
    ) -> Stream[Any, V]:
        """Give each value the key ``fn(value)`` and bring values of one key together in one task.

        Goes through an internal topic on the log, exactly once.  ``key``: its type, str by default or as annotated;
        ``value``: the type of the values, where it isn't known; ``partitions``: the app's by default.
        """
        check_plain(fn, f"key_by on {self.label}")
        keys = key_codec(key if key is not None else returned_type(fn, None))
        known = self.type if value is Unknown else value
        values = writable_codec(known, f"key_by on {self.label}")
        label = name or f"{self.label}.by-{function_label(fn, 'key')}"
        topic = TopicSpec(
            self.app.internal(label, "repartition", f"the key_by on {self.label}"),
            check_partitions(partitions, self.app.partitions, f"key_by on {self.label}"),
            "repartition",
        )
        if partitions is None:
            self.app.uncounted.add(topic.name)
        keys, values = keys.at(topic.name, "key"), values.at(topic.name)
        self.app.add(
            Repartition(
                name=f"{label}: key_by",
                upstream=(self.node,),
                policy=self.policy,
                topic=topic,
                key=_encoded(fn, keys.encode),
                encode=values.encode,
            )
        )
        source = Source(name=label, policy=self.policy, topic=topic, decode=values.decode)
        self.app.add(source)
        kept = known if known is not Unknown else None
        return Stream(self.app, source, label, topic.partitions, keys, kept, self.policy, fn)

    def branch(self, **predicates: Callable[[V], object]) -> dict[str, Stream[K, V]]:
        """One stream a predicate; each value goes to the first that is true for it, or to ``"rest"`` if none is."""
        if "rest" in predicates:
            raise ConfigurationError("branch: 'rest' is the branch of what no predicate takes; name yours otherwise")
        for name, predicate in predicates.items():
            check_plain(predicate, f"{self.label}: branch {name}")
        node = Branch(
            name=f"{self.label}: branch",
            upstream=(self.node,),
            policy=self.policy,
            predicates=tuple(predicates.values()),
        )
        self.app.add(node)
        return {
            name: self._then(BranchPort(name=f"{node.name} {name}", upstream=(node,), policy=self.policy, index=index))
            for index, name in enumerate((*predicates, "rest"))
        }

    def merge(self, *others: Stream[K, W]) -> Stream[K, V | W]:
        """The values of all of them.  Each must have the same key type and number of partitions."""
        streams: tuple[Stream[K, Any], ...] = (self, *others)
        if len({id(stream.node) for stream in streams}) < len(streams):
            raise TopologyError(f"merge: a stream is merged with itself ({self.label}); use flat_map to repeat values")
        for other in others:
            if other.keys.schema != self.keys.schema:
                raise TopologyError(
                    f"merge: {self.label} is keyed by {self.keys.name} and {other.label} by {other.keys.name}; put a "
                    f"key_by in front of one"
                )
        label = "+".join(sorted({stream.label for stream in streams}))
        node = Merge(name=f"{label}: merge", upstream=tuple(stream.node for stream in streams), policy=self.policy)
        same = all(stream.type == self.type for stream in streams)
        return self._then(node, type=self.type if same else Unknown, label=label, key_fn=None)

    def named(self, name: str) -> Stream[K, V]:
        """The same stream, under a name that later operators derive theirs from."""
        return dataclasses.replace(self, label=name)

    def to(self, topic: Topic[Any, Any] | str, *, key: Callable[[V], Any] | None = None) -> None:
        """Write the values to a topic, in the commit of the task; a None is written as a tombstone.

        key: each is written under ``key(value)`` and not under the stream's key.  Where ``{key}`` stands in the address
        of a transport's topic (``mqtt://host/{key}``), that says where it goes.
        """
        if isinstance(topic, str):
            keys: Any = self.keys if key is None else returned_type(key, None)
            target: Topic[Any, Any] = self.app.topic(topic, key=keys, value=self._plain())
        else:
            target = topic
        recode = None
        if key is not None:
            check_plain(key, f"{self.label}: to {target.name}")
        elif target.key_codec.schema != self.keys.schema:
            decode, encode = self.keys.decode, target.key_codec.encode

            def recode(key: bytes) -> bytes:
                return encode(decode(key))

        self.app.add(
            Sink(
                name=f"{self.label}: to {target.name}",
                upstream=(self.node,),
                policy=self.policy,
                topic=self.app.outlet(target.spec),
                encode=target.value_codec.encode,
                key=None if key is None else _encoded(key, target.key_codec.encode),
                recode_key=recode,
            )
        )

    def _plain(self) -> Any:
        return None if self.type is Unknown else self.type

    def _value_type(self) -> Any:
        return Any if self.type is Unknown or self.type is None else self.type

    # ── state ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def aggregate(self, *, name: str = "", **aggregations: Aggregation[Any]) -> Aggregated[K, dict[str, Any]]:
        """Fold the values of each key: ``aggregate(n=agg.count(), worst=agg.max("delay"))``."""
        return self._aggregate("aggregate", Aggregator(aggregations, self._value_type()), name, Unknown)

    def count(self, *, name: str = "") -> Aggregated[K, int]:
        """How many values each key had."""
        return self._aggregate("count", Single(count()), name, int)

    def reduce(self, fn: Callable[[V, V], V], *, name: str = "") -> Aggregated[K, V]:
        """Fold the values of each key with ``fn(so far, value)``, beginning with the first."""
        fold = Single(reduce(fn, type=self._plain()), self._value_type())
        return self._aggregate("reduce", fold, name, self.type)

    def _aggregate(self, kind: str, fold: Any, name: str, result: Any) -> Aggregated[K, Any]:
        state_name = self.app.state_name(name or f"{self.label}.{kind}")
        state = StateSpec(state_name, "keyed", fold.encode, fold.decode, f"aggregate/1/{fold.name}")
        node = Aggregate(name=state_name, upstream=(self.node,), policy=self.policy, state=state, fold=fold)
        self.app.view(state, self.keys, fold.result)
        return Aggregated(self, self._then(node, type=result, label=state_name, key_fn=None), state, fold)

    def window(self, windows: Windows, *, grace: Duration = 0) -> Windowed[K, V]:
        """Group by window as well: ``tumbling("1h")``, ``hopping("1h", "10m")``.

        A window takes records until the watermark is ``grace`` behind its end.
        """
        return Windowed(self, windows, parse_duration_ms(grace, "grace"))

    def dedupe(self, key: Callable[[V], Any] | None = None, *, within: Duration, name: str = "") -> Stream[K, V]:
        """Of values with the same ``key(value)`` only the first within a span of event time.

        Without ``key`` the whole encoded value counts.  Works within a partition: equal values need equal keys.
        """
        state = dedupe_state(self.app.state_name(name or f"{self.label}.dedupe"))
        values = writable_codec(self.type, f"dedupe on {self.label}").at(state.name)
        node = Dedupe(
            name=state.name,
            upstream=(self.node,),
            policy=self.policy,
            state=state,
            id_of=values.encode if key is None else _identity(key),
            within_ms=parse_duration_ms(within, "within"),
        )
        return self._then(node)

    def batch(self, count: int, *, within: Duration | None = None, name: str = "") -> Stream[K, list[V]]:
        """Lists of ``count`` values of a partition, or fewer once the first has waited ``within`` (wall-clock time)."""
        if count < 1:
            raise ConfigurationError(f"batch({count}): a batch holds at least one value")
        state_name = self.app.state_name(name or f"{self.label}.batch")
        values = writable_codec(self.type, f"batch on {self.label}").at(state_name)
        node = Batching(
            name=state_name,
            upstream=(self.node,),
            policy=self.policy,
            state=batching_state(state_name, values.encode, values.decode, values.fingerprint),
            count=count,
            within_ms=None if within is None else parse_duration_ms(within, "within"),
        )
        kept = list if self.type in (Unknown, None) else list[self.type]  # type: ignore[name-defined]
        return self._then(node, type=kept, key_fn=None)

    def process(
        self, *, state: Callable[[], S] | type[S], name: str = "", value: Any = Unknown
    ) -> ProcessDecorator[K, V, S]:
        """Decorate ``fn(value, state, ctx)``: state per key, timers, and ``ctx.emit`` for what goes on.

        ``state``: a type made without arguments; one that equals a fresh one isn't stored.  ``value``: the type of
        what is emitted.
        """
        return ProcessDecorator(self, state, name, value)

    # ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────

    @overload
    def join(self, table: Table[K, W], *, how: Literal["inner"] = ..., value: Any = ...) -> Stream[K, tuple[V, W]]: ...
    @overload
    def join(self, table: Table[K, W], *, how: str, value: Any = ...) -> Stream[K, tuple[V, W | None]]: ...
    @overload
    def join(
        self, table: Table[K, W], fn: Callable[[V, W], R], *, how: Literal["inner"] = ..., value: Any = ...
    ) -> Stream[K, R]: ...
    @overload
    def join(
        self, table: Table[K, W], fn: Callable[[V, W | None], R], *, how: str, value: Any = ...
    ) -> Stream[K, R]: ...
    def join(
        self, table: Table[K, W], fn: Callable[[V, Any], R] | None = None, *, how: str = "inner", value: Any = Unknown
    ) -> Stream[K, Any]:
        """Pair each value with the table's row of its key: (value, row), or ``fn(value, row)``.

        ``how="left"`` keeps values without a row and pairs them with None.
        """
        if how not in ("inner", "left"):
            raise ConfigurationError(f"join with a table is 'inner' or 'left', not {how!r}")
        label = f"{self.label}: join {table.name}"
        node = TableJoin(
            name=label,
            upstream=(self.node,),
            policy=self.policy,
            state=table.state,
            recode_key=table.recode_from(self.keys, label),
            inner=how == "inner",
            join=_shown(table, fn if fn is not None else _pair),
        )
        returned = returned_type(fn) if fn is not None and value is Unknown else value
        return self._then(node, type=returned, key_fn=None)

    def to_table(self, table: Table[K, V]) -> Stream[K, V]:
        """Keep the last value of each key in ``table``; None deletes.  Returns the changes."""
        label = f"{self.label}: to table {table.name}"
        if table.read_only:
            raise TopologyError(f"{label}: it shows the results of an aggregate, which alone writes it")
        node = TableWriter(
            name=label,
            upstream=(self.node,),
            policy=self.policy,
            state=table.state,
            recode_key=table.recode_from(self.keys, label),
        )
        return self._then(node)

    # ── inner ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _operator(self, kind: str, fn: Callable[..., Any]) -> str:
        name = f"{self.label}: {kind} {function_label(fn, 'function')}"
        check_plain(fn, name)
        return name

    def _then(self, node: Node, **changes: Any) -> Stream[Any, Any]:
        self.app.add(node)
        return dataclasses.replace(self, node=node, **changes)


def _shown(table: Table[Any, Any], join: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """``join`` with rows as the table shows them: of an aggregate's state its results."""
    if not isinstance(table, View):
        return join
    result = table.result
    return lambda value, row: join(value, None if row is None else result(row))


def _encoded(key: Callable[[Any], Any], encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    return lambda value: encode(key(value))


def _pair(value: Any, row: Any) -> tuple[Any, Any]:
    return value, row


def _identity(key: Callable[[V], Any]) -> Callable[[V], bytes]:
    encode = value_codec(None).encode

    def identity(value: V) -> bytes:
        return encode(key(value))

    return identity
