"""The graph of an app: nodes, the subtopologies that it falls into, and their names.

What must live here: the description, pure data.  What must not: what a node does (``operators/``), running it
(``core.task``).

A **node** describes one operator and builds its processor for a task.  Nodes are joined by their ``upstream``
links; a topic cuts the graph.  A **subtopology** is what remains connected: nodes linked with one another, reading
the same topic, or sharing a named state.  A **task** is a subtopology at work on one partition.

Names come from what the user named (topics, stores), never from the order in which the graph was built, so that an
edit elsewhere leaves them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, cast

from streams.core.batch import Batch
from streams.core.context import TaskContext
from streams.core.log import TopicSpec
from streams.core.state import StateSpec
from streams.errors import TopologyError

Emit = Callable[[Batch], None]
Start = Literal["earliest", "latest"] | int | Mapping[int, int]
"""Where a source begins without a position: a time in ms, or the offset by partition (those not named: earliest)."""


class Processor(Protocol):
    """A node at work in one task.  Pure: it takes batches, changes state and emits batches."""

    def process(self, batch: Batch) -> None:
        """Handle a batch; emit what follows from it before returning."""
        ...


class TimedProcessor(Processor, Protocol):
    """A processor that acts when event time comes: windows, timers."""

    def deadline(self) -> int:
        """The watermark at which ``advance`` has something to do; FOREVER when there is nothing."""
        ...

    def advance(self, watermark: int) -> bool:
        """Emit what is due at ``watermark``, at most as much as the slice has room for.

        Returns False when more is due: the task commits and calls again.  What was emitted must be gone from the
        state, since that is the cursor.
        """
        ...


class WallProcessor(Protocol):
    """A processor that also acts on wall-clock time, which is handed in as a fact."""

    def tick(self, now_ms: int) -> bool:
        """Do what is due by the wall clock; True when that emitted something."""
        ...


class Mailbox(Protocol):
    """A processor that keeps its batches for the runtime to work on: an agent."""

    mail: list[Batch]


class Node(Protocol):
    """The description of one operator."""

    @property
    def name(self) -> str: ...
    @property
    def upstream(self) -> Sequence[Node]: ...
    @property
    def states(self) -> Sequence[StateSpec]:
        """The named states that it reads or writes."""
        ...

    @property
    def reads(self) -> TopicSpec | None:
        """The topic that it is a source of."""
        ...

    @property
    def writes(self) -> Sequence[TopicSpec]:
        """The topics that it may write to, dead letters included."""
        ...

    @property
    def holds_ms(self) -> int:
        """How far behind the watermark that it is given a record may be that it emits: a window's grace, else 0."""
        ...

    def label(self) -> str:
        """What ``streams topology`` shows."""
        ...

    def build(self, context: TaskContext, emit: Emit) -> Processor:
        """The processor of this node in the task of ``context``; what it emits goes downstream by ``emit``."""
        ...


class SourceNode(Node, Protocol):
    """The description of a source.

    timed: takes part in the task's watermark.  slack_ms: the disorder that it allows.  idle_after_ms: None never.
    aligned: waits its turn by timestamp among the inputs of the task.
    on_lost: what to do when records were removed before they were read.  start: where to begin without a position.
    """

    timed: bool
    aligned: bool
    slack_ms: int
    idle_after_ms: int | None
    on_lost: Literal["fail", "earliest"]
    start: Start


@dataclass(slots=True)
class Subtopology:
    """Nodes that are at work in the same task, upstream before downstream."""

    name: str
    nodes: list[Node]
    partitions: int
    states: dict[str, StateSpec] = field(default_factory=dict)

    @property
    def sources(self) -> list[Node]:
        return [node for node in self.nodes if node.reads is not None]

    def task_id(self, partition: int) -> str:
        return f"{self.name}-{partition}"

    @property
    def task_ids(self) -> list[str]:
        return [self.task_id(partition) for partition in range(self.partitions)]


class Graph:
    """All nodes of an app, in the order in which they were added; upstream comes before downstream.

    app: begins the name of each subtopology, and so of its tasks: two apps on one log must not meet.
    known: topics as they are to be, by name, in place of what the nodes say: a count that nobody declared is the log's.
    """

    def __init__(self, app: str) -> None:
        self.app = app
        self.nodes: list[Node] = []
        self.known: Mapping[str, TopicSpec] = {}

    def add(self, node: Node) -> None:
        self.nodes.append(node)

    def topics(self) -> dict[str, TopicSpec]:
        """Every topic that a node reads or writes."""
        found: dict[str, TopicSpec] = {}
        for node in self.nodes:
            for said in (*node.writes, *((node.reads,) if node.reads is not None else ())):
                spec = self.known.get(said.name, said)
                if found.setdefault(spec.name, spec) != spec:
                    raise TopologyError(
                        f"{node.name}: the topic {spec.name} is used as a {found[spec.name].kind} topic and as a "
                        f"{spec.kind} topic; give one of them another name"
                    )
        return found

    def groups(self) -> list[list[Node]]:
        """The graph cut at its topics: the nodes of each subtopology."""
        groups = _Groups(self.nodes)
        readers: dict[str, Node] = {}
        holders: dict[str, Node] = {}
        for node in self.nodes:
            for upstream in node.upstream:
                groups.join(node, upstream)
            if node.reads is not None:
                groups.join(node, readers.setdefault(node.reads.name, node))
            for state in node.states:
                groups.join(node, holders.setdefault(state.name, node))
        return groups.all()

    def subtopologies(self) -> list[Subtopology]:
        """The subtopologies, sorted by name.  Raises TopologyError where the graph contradicts itself."""
        return sorted((_subtopology(self, nodes) for nodes in self.groups()), key=lambda each: each.name)

    def upstream_tasks(self) -> dict[str, list[str]]:
        """For each repartition topic the tasks that write it, and so put their watermarks into it."""
        found: dict[str, list[str]] = {}
        for subtopology in self.subtopologies():
            for node in subtopology.nodes:
                for spec in node.writes:
                    if spec.kind == "repartition":
                        found.setdefault(spec.name, []).extend(subtopology.task_ids)
        return {topic: sorted(set(tasks)) for topic, tasks in found.items()}


def _check_together(topics: Iterable[TopicSpec], states: Iterable[StateSpec]) -> None:
    """Raise where records of one key wouldn't meet in the task that keeps something of that key."""
    held = sorted(state.name for state in states if state.of_keys)
    for spec in topics if held else ():
        if spec.kind == "journal" and spec.partitions > 1:
            raise TopologyError(
                f"{held[0]}: what comes to {spec.name} is shared out among its {spec.partitions} partitions whatever "
                f"its key, so that records of one key would meet in different tasks; put a key_by in front, or take "
                f"one partition"
            )


def _subtopology(graph: Graph, nodes: list[Node]) -> Subtopology:
    topics = {node.reads.name: graph.known.get(node.reads.name, node.reads) for node in nodes if node.reads is not None}
    sources = [cast(SourceNode, node) for node in nodes if node.reads is not None]
    if not sources:
        raise TopologyError(f"{nodes[0].name} has no source: nothing would ever reach it")
    # Tables and inboxes come and go with an edit; they don't name the tasks, unless there is nothing else.
    name = min([node.name for node in sources if node.timed] or [node.name for node in sources])
    _check_together(topics.values(), [state for node in nodes for state in node.states])
    widest = max(topics.values(), key=lambda spec: (spec.partitions, spec.name))
    for spec in topics.values():
        if spec.partitions != widest.partitions:
            names = ", ".join(sorted(state.name for node in nodes for state in node.states)) or "one task"
            raise TopologyError(
                f"{spec.name} has {spec.partitions} partitions and {widest.name} has {widest.partitions}, but both "
                f"feed {names}: records of one key would meet in different tasks; give both topics the same number "
                f"of partitions, or put a key_by in front"
            )
    states: dict[str, StateSpec] = {}
    for node in nodes:
        for state in node.states:
            known = states.setdefault(state.name, state)
            if known.fingerprint != state.fingerprint:
                raise TopologyError(
                    f"two operators use the name {state.name!r} for states of different kinds "
                    f"({known.fingerprint} and {state.fingerprint}); give one of them a name= of its own"
                )
    return Subtopology(f"{graph.app}.{name}", nodes, widest.partitions, states)


def fan_out(children: Sequence[Emit]) -> Emit:
    """What a node emits goes to all its children, in the order in which they were added."""
    if len(children) == 1:
        return children[0]
    targets: tuple[Emit, ...] = tuple(children)

    def emit(batch: Batch) -> None:
        for target in targets:
            target(batch)

    return emit


def needs_record_order(nodes: Sequence[Node]) -> bool:
    """True when the effects of two records must not be mixed: records are then taken one by one.

    So where more than one way leads from a source to a node (branch and merge: one way's records would all come before
    the other's), or to two nodes that share a state (one would see what later records did in the other).
    """
    for source in nodes:
        if source.reads is None:
            continue
        ways: dict[int, int] = {}
        holders: dict[str, int] = {}
        for node in nodes:
            ways[id(node)] = int(node is source) + sum(ways[id(upstream)] for upstream in node.upstream)
            if ways[id(node)] > 1:
                return True
            for state in node.states if ways[id(node)] else ():
                holders[state.name] = holders.get(state.name, 0) + 1
        if any(count > 1 for count in holders.values()):
            return True
    return False


class _Groups:
    """Union-find over nodes, which keeps the order in which they were added."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._nodes = list(nodes)
        self._parent = {id(node): id(node) for node in self._nodes}

    def _root(self, member: int) -> int:
        while self._parent[member] != member:
            member = self._parent[member]
        return member

    def join(self, one: Node, other: Node) -> None:
        self._parent[self._root(id(one))] = self._root(id(other))

    def all(self) -> list[list[Node]]:
        groups: dict[int, list[Node]] = {}
        for node in self._nodes:
            groups.setdefault(self._root(id(node)), []).append(node)
        return list(groups.values())
