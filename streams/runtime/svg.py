"""A topology as SVG, laid out by hand: one band for each subtopology, from left to right in the order of the data.

What must live here: places and paths.  What must not: what is drawn (``runtime.draw``).

The column of an element is the longest way to it; an edge that closes a circle doesn't count.  Texts are in a
monospaced font, so that their width is known without measuring.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from xml.sax.saxutils import escape

from streams.runtime.draw import Drawing, Element

__all__ = ["as_svg"]

CHARACTER, LINE = 7.3, 16.0
BOX_X, BOX_Y = 12.0, 8.0
GAP_X, GAP_Y = 56.0, 14.0
BAND_X, BAND_Y, TITLE_Y = 14.0, 14.0, 22.0
MARGIN = 20.0

STYLE = """\
text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#1f2430}
.t{font-weight:600}.g{fill:#6b7280}.s{fill:#2563a8}
.band{fill:#f3f5f9;stroke:#d5dae3}.operator{fill:#fff;stroke:#8a94a6}
.topic{fill:#e3f1e6;stroke:#4b8b5a}.internal{fill:#f7f7f7;stroke:#9aa3b2;stroke-dasharray:4 3}
path{fill:none;stroke:#7b8597;stroke-width:1.3}marker path{fill:#7b8597;stroke:none}
@media(prefers-color-scheme:dark){text{fill:#e6e9ef}.g{fill:#9aa3b2}.s{fill:#7fb4ea}.band{fill:#20242d;stroke:#3a4150}
.operator{fill:#2a303b;stroke:#6b7688}.topic{fill:#1f3a27;stroke:#5fa36f}.internal{fill:#262a33;stroke:#6b7688}}"""


@dataclass(slots=True)
class _Box:
    element: Element
    column: int
    x: float = 0.0
    y: float = 0.0
    clear_x: float = 0.0  # the right edge of its column

    @property
    def lines(self) -> list[str]:
        return [self.element.text, *self.element.states]

    @property
    def width(self) -> float:
        return max(map(len, self.lines)) * CHARACTER + 2 * BOX_X

    @property
    def height(self) -> float:
        return len(self.lines) * LINE + 2 * BOX_Y


def as_svg(drawing: Drawing) -> str:
    """The whole picture as one SVG document."""
    columns = _columns(drawing)
    boxes = {key: _Box(element, columns[key]) for key, element in drawing.elements.items()}
    width = _place_across(drawing, boxes.values())
    height, bands = _place_down(drawing, boxes)
    width = max(width, len(drawing.title) * CHARACTER + 2 * MARGIN)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(drawing.title, {chr(34): "&quot;"})}">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker></defs>',
        f'<text class="t" x="{MARGIN:.0f}" y="{MARGIN + 8:.0f}">{escape(drawing.title)}</text>',
        *bands,
        *(_path(boxes[before], boxes[after]) for before, after in drawing.edges),
        *(_drawn(box) for box in boxes.values()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _columns(drawing: Drawing) -> dict[str, int]:
    """The longest way to each element, edges that lead back to where one came from left out."""
    after: dict[str, list[str]] = {key: [] for key in drawing.elements}
    for one, other in (*drawing.edges, *_around_bands(drawing)):
        after[one].append(other)
    order: list[str] = []
    state: dict[str, int] = {}
    forward: list[tuple[str, str]] = []

    def visit(start: str) -> None:
        stack = [(start, iter(after[start]))]
        state[start] = 1
        while stack:
            key, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                state[key] = 2
                order.append(key)
                stack.pop()
            elif state.get(following) != 1:
                forward.append((key, following))
                if following not in state:
                    state[following] = 1
                    stack.append((following, iter(after[following])))

    targets = {other for _, other in drawing.edges}
    for key in [*(key for key in drawing.elements if key not in targets), *drawing.elements]:
        if key not in state:
            visit(key)
    columns = dict.fromkeys(drawing.elements, 0)
    leads: dict[str, list[str]] = {}
    for one, other in forward:
        leads.setdefault(one, []).append(other)
    for key in reversed(order):
        for other in leads.get(key, ()):
            columns[other] = max(columns[other], columns[key] + 1)
    for key in drawing.elements:
        if key not in targets and after[key]:  # what only starts ways stands close to where the first of them leads
            columns[key] = max(0, min(columns[other] for other in after[key]) - 1)
    return columns


def _around_bands(drawing: Drawing) -> list[tuple[str, str]]:
    """Ways that aren't drawn: all that a subtopology reads is left of its band, all that it writes is right of it."""
    members: dict[int, list[str]] = {}
    for key, element in drawing.elements.items():
        if element.group is not None:
            members.setdefault(element.group, []).append(key)
    reads = {(one, drawing.elements[other].group) for one, other in drawing.edges}
    writes = {(drawing.elements[one].group, other) for one, other in drawing.edges}
    found: list[tuple[str, str]] = []
    for group, keys in members.items():
        topics = [key for key, element in drawing.elements.items() if element.group is None]
        found += [(key, own) for key in topics for own in keys if (key, group) in reads and (group, key) not in writes]
        found += [(own, key) for key in topics for own in keys if (group, key) in writes and (key, group) not in reads]
    return found


def _place_across(drawing: Drawing, boxes: Collection[_Box]) -> float:
    widths: dict[int, float] = {}
    for box in boxes:
        widths[box.column] = max(box.width, widths.get(box.column, 0.0))
    for index, group in enumerate(drawing.groups):
        columns = {box.column for box in boxes if box.element.group == index}
        if columns:  # room for the title
            span = range(min(columns), max(columns) + 1)
            inside = sum(widths.get(column, 0.0) + GAP_X for column in span) - GAP_X
            widths[span[-1]] += max(0.0, len(group.title) * CHARACTER - inside)
    x = MARGIN + BAND_X
    for column in sorted(widths):
        for box in boxes:
            if box.column == column:
                box.x, box.clear_x = x, x + widths[column]
        x += widths[column] + GAP_X
    return x - GAP_X + BAND_X + MARGIN


def _place_down(drawing: Drawing, boxes: dict[str, _Box]) -> tuple[float, list[str]]:
    """Give each band its height, the boxes their place in it; returns the height of all and the bands drawn."""
    homes = _homes(drawing)
    firsts = {
        index: min((box.column for key, box in boxes.items() if homes[key] == index), default=0)
        for index in range(len(drawing.groups))
    }
    y = MARGIN + LINE + GAP_Y
    bands: list[str] = []
    for index in sorted(firsts, key=lambda each: (firsts[each], each)):
        stacks: dict[int, float] = {}
        inside = [box for key, box in boxes.items() if homes[key] == index]
        for box in sorted(inside, key=lambda each: each.column):
            # Beside the first that leads to it, where there is room: else its line would run below another box.
            leading = [boxes[one].y - y - TITLE_Y for one, other in drawing.edges if boxes[other] is box]
            beside = min((each for each in leading if each >= 0.0), default=0.0)
            top = max(stacks.get(box.column, 0.0), beside)
            box.y = y + TITLE_Y + top
            stacks[box.column] = top + box.height + GAP_Y
        own = [box for box in inside if box.element.group == index]
        height = TITLE_Y + max(stacks.values(), default=0.0)
        bands.extend(_band(drawing.groups[index].title, own, y, height))
        y += height + BAND_Y + GAP_Y
    for key, box in boxes.items():
        if homes[key] is None:  # a topic that nobody reads or writes
            box.y = y
            y += box.height + GAP_Y
    return y + MARGIN, bands


def _homes(drawing: Drawing) -> dict[str, int | None]:
    """The band of each element; a topic stands with those who write it, else with those who read it."""
    homes = {key: element.group for key, element in drawing.elements.items()}
    for _ in range(2):
        for one, other in drawing.edges:
            if homes[other] is None:
                homes[other] = homes[one]
        for one, other in drawing.edges:
            if homes[one] is None:
                homes[one] = homes[other]
    return homes


def _band(title: str, own: list[_Box], y: float, height: float) -> list[str]:
    if not own:
        return []
    left = min(box.x for box in own) - BAND_X
    right = max(max(box.x + box.width for box in own) + BAND_X, left + len(title) * CHARACTER + 2 * BAND_X)
    bottom = max(box.y + box.height for box in own) + BAND_Y
    return [
        f'<rect class="band" x="{left:.1f}" y="{y:.1f}" width="{right - left:.1f}" height="{bottom - y:.1f}" rx="8"/>',
        f'<text class="g" x="{left + 8:.1f}" y="{y + 15:.1f}">{escape(title)}</text>',
    ]


def _path(before: _Box, after: _Box) -> str:
    x1, y1 = before.x + before.width, before.y + before.height / 2
    x2, y2 = after.x, after.y + after.height / 2
    clear = before.clear_x  # straight on up to there: else the line would run below a wider box of the column
    bend = max(GAP_X / 2, abs(x2 - clear) / 2)
    curve = f"C{clear + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    return f'<path d="M{x1:.1f} {y1:.1f}H{clear:.1f}{curve}" marker-end="url(#a)"/>'


def _drawn(box: _Box) -> str:
    radius = 4.0 if box.element.kind == "operator" else box.height / 2
    lines = [
        f'<text{" class=" + chr(34) + "s" + chr(34) if number else ""} x="{box.x + BOX_X:.1f}" '
        f'y="{box.y + BOX_Y + LINE * number + 12:.1f}">{escape(line)}</text>'
        for number, line in enumerate(box.lines)
    ]
    return (
        f'<rect class="{box.element.kind}" x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="{radius:.1f}"/>' + "".join(lines)
    )
