"""A topology as a drawing: elements and edges, and its forms as text and mermaid (``runtime.svg`` for the third).

What must live here: from a blueprint to what is shown.  What must not: guarantees (``runtime.explain``).

Reading and writing a topic are edges, not boxes: what remains are topics, and operators with the states they keep.
Everything comes in the order of names and of the graph, so that a drawing changes only where the app did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from streams.core.graph import Node, Subtopology
from streams.core.log import TopicSpec
from streams.core.urls import without_secrets
from streams.dsl.app import App
from streams.dsl.blueprint import Blueprint
from streams.operators.sink import Repartition, Sink

__all__ = ["Drawing", "Element", "Group", "as_mermaid", "as_text", "draw", "place_of", "short_name"]

Kind = Literal["topic", "internal", "operator"]


@dataclass(slots=True)
class Element:
    """A topic or an operator.

    states: what an operator keeps.  group: the index of its subtopology; None for a topic.
    """

    id: str
    kind: Kind
    text: str
    states: list[str] = field(default_factory=list)
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A subtopology."""

    name: str
    tasks: int

    @property
    def title(self) -> str:
        return f"{self.name} · {self.tasks} {'task' if self.tasks == 1 else 'tasks'}"


@dataclass(slots=True)
class Drawing:
    """What is to be seen.  Edges are (from, to), by id."""

    title: str
    elements: dict[str, Element] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    def join(self, before: str, after: str) -> None:
        if (before, after) not in self.edges:
            self.edges.append((before, after))


def title_of(app: App, blueprint: Blueprint) -> str:
    tasks = len(blueprint.tasks)
    return f"app {app.name} · version {app.version} · {app.guarantee.replace('_', ' ')} · {tasks} tasks"


def draw(app: App) -> Drawing:
    """The drawing of an app."""
    blueprint = app.build()
    drawing = Drawing(title_of(app, blueprint))
    for spec in blueprint.topics.values():
        if spec.kind != "changelog":
            kind: Kind = "topic" if spec.kind == "user" else "internal"
            drawing.elements[_topic(spec.name)] = Element(_topic(spec.name), kind, place_of(spec))
    for subtopology in blueprint.subtopologies:
        _draw_subtopology(drawing, app, subtopology)
    for outbox in blueprint.outboxes:
        drawing.join(_topic(outbox.topic.name), _topic(outbox.target.name))
    for journal in blueprint.journals:
        drawing.join(_topic(journal.source.name), _topic(journal.topic.name))
    for agent in app.agents.values():
        for endpoint in agent.endpoints:
            drawing.elements[_topic(endpoint.shown)] = Element(_topic(endpoint.shown), "topic", endpoint.shown)
            drawing.join(_topic(endpoint.shown), _topic(agent.inbox.name))
    return drawing


def place_of(spec: TopicSpec) -> str:
    """A topic's name, with its log or transport where that isn't the app's own log."""
    if not spec.location:
        return spec.name
    place, mark, settings = without_secrets(spec.location).partition("?")
    return f"{place}/{spec.address or spec.name_there}{mark}{settings}"


def short_name(app: App, name: str) -> str:
    """A name without that of the app in front."""
    return name.removeprefix(f"{app.name}.")


def _topic(name: str) -> str:
    return f"topic:{name}"


def _draw_subtopology(drawing: Drawing, app: App, subtopology: Subtopology) -> None:
    group = len(drawing.groups)
    drawing.groups.append(Group(short_name(app, subtopology.name), subtopology.partitions))
    shown: dict[int, list[str]] = {}
    for node in subtopology.nodes:
        before = [each for upstream in node.upstream for each in shown[id(upstream)]]
        if node.reads is not None:
            shown[id(node)] = [_topic(node.reads.name)]
            targets = [spec.name for spec in node.writes]  # its dead letters
            before = shown[id(node)]
        elif isinstance(node, Sink):
            shown[id(node)] = []
            targets = [spec.name for spec in node.writes]
        else:
            element = Element(f"node:{node.name}", "operator", _label(node), [s.name for s in node.states], group)
            drawing.elements[element.id] = element
            for each in before:
                drawing.join(each, element.id)
            before = shown[id(node)] = [element.id]
            targets = [spec.name for spec in node.writes]
        for target in targets:
            for each in before:
                drawing.join(each, _topic(target))


def _label(node: Node) -> str:
    return "key_by" if isinstance(node, Repartition) else node.label()


# ── text ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def as_text(app: App) -> str:
    """Each subtopology as a tree, from the topics that it reads to those that it writes."""
    blueprint = app.build()
    lines = [title_of(app, blueprint)]
    for subtopology in blueprint.subtopologies:
        lines += ["", Group(short_name(app, subtopology.name), subtopology.partitions).title]
        lines.extend(_tree(subtopology))
    for outbox in blueprint.outboxes:
        title = Group(short_name(app, outbox.topic.name), outbox.topic.partitions).title
        lines += ["", title, f"  read {outbox.topic.name}", f"  └─ deliver to {place_of(outbox.target)}"]
    for journal in blueprint.journals:
        title = Group(short_name(app, journal.topic.name), journal.topic.partitions).title
        lines += ["", title, f"  receive {place_of(journal.source)}", f"  └─ journal in {journal.topic.name}"]
    for agent in app.agents.values():
        for endpoint in agent.endpoints:
            lines += ["", "in each worker", f"  answer {endpoint.shown}", f"  └─ ask {agent.name}"]
    return "\n".join(lines) + "\n"


def _tree(subtopology: Subtopology) -> Iterator[str]:
    seen: set[int] = set()
    for node in subtopology.nodes:
        if not node.upstream:
            yield f"  {_described(node)}"
            yield from _below(node, subtopology.nodes, "  ", seen)


def _below(node: Node, nodes: Sequence[Node], indent: str, seen: set[int]) -> Iterator[str]:
    children = [each for each in nodes if node in each.upstream]
    for index, child in enumerate(children):
        last = index == len(children) - 1
        again = id(child) in seen
        yield f"{indent}{'└─' if last else '├─'} {child.label() + ' (see above)' if again else _described(child)}"
        if not again:
            seen.add(id(child))
            yield from _below(child, nodes, indent + ("   " if last else "│  "), seen)


def _described(node: Node) -> str:
    states = _listed(state.name for state in node.states)
    letters = _listed(spec.name for spec in node.writes) if node.reads is not None else ""
    return f"{node.label()}{f'  [{states}]' if states else ''}{f'  dead letters: {letters}' if letters else ''}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


# ── mermaid ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def as_mermaid(drawing: Drawing) -> str:
    """A mermaid flowchart: topics round, internal ones dashed, operators in the box of their subtopology."""
    ids = {element.id: f"e{index}" for index, element in enumerate(drawing.elements.values())}
    lines = ["---", f"title: {drawing.title}", "---", "flowchart LR"]
    topics = [element for element in drawing.elements.values() if element.group is None]
    lines += [f"  {ids[element.id]}([{_quoted(element.text)}])" for element in topics]
    stores: list[str] = []
    for index, group in enumerate(drawing.groups):
        lines.append(f"  subgraph g{index}[{_quoted(group.title)}]")
        for element in drawing.elements.values():
            if element.group != index:
                continue
            lines.append(f"    {ids[element.id]}[{_quoted(element.text)}]")
            for number, state in enumerate(element.states):
                store = f"{ids[element.id]}s{number}"
                lines.append(f"    {store}[({_quoted(state)})]")
                stores.append(f"  {ids[element.id]} -.- {store}")
        lines.append("  end")
    lines += [f"  {ids[before]} --> {ids[after]}" for before, after in drawing.edges]
    lines += stores
    internal = [ids[element.id] for element in drawing.elements.values() if element.kind == "internal"]
    if internal:
        lines += ["  classDef internal stroke-dasharray:4 3", f"  class {','.join(internal)} internal"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "#quot;") + '"'
