"""Cells as pictures: inputs left, output right, each edge in the colour of its operation with the name on it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from nas.architectures.base import CellGraph
from nas.report.layout import Layout, Slot, arrange
from nas.report.style import PAPER, SOFT, WIRE, colour, short
from nas.report.svg import Box, Canvas, number, text_width

BOX, LABEL, TITLE = 11.0, 10.5, 11.0  # points
HEIGHTS = {"box": 0.52, "label": 0.34, "pass": 0.20}  # inches that a slot takes in its column
BOX_HEIGHT, LABEL_HEIGHT = 0.36, 0.24  # inches that are painted
GAP, MARGIN, HEAD = 0.5, 0.14, 0.36  # inches between columns, around, and for a title
APART = 0.6  # inches between cells
STRAY = 0.07  # inches that a long edge may leave its slot for a smoother curve; neighbours are further away
ARROW_LENGTH, ARROW_WIDTH = 6.0, 6.4  # points
INCH = 72.0  # points
Point = tuple[float, float]
Spot = tuple[float, float, float]  # centre x, centre y, width of the column


def draw(graphs: Sequence[CellGraph], path: Path, title: str) -> None:
    """Write the drawing of cells as an SVG file; cells of the same row stand side by side."""
    compose(graphs, title).save(path)


class _Pen:
    """A canvas in inches; y points up, down from `ceiling`."""

    def __init__(self, canvas: Canvas, ceiling: float) -> None:
        self.canvas, self.ceiling = canvas, ceiling

    def at(self, x: float, y: float) -> Point:
        return INCH * x, INCH * (self.ceiling - y)

    def box(self, x: float, y: float, width: float, height: float) -> Box:
        """The rectangle around a centre."""
        return Box(*self.at(x - width / 2, y + height / 2), *self.at(x + width / 2, y - height / 2))


def compose(graphs: Sequence[CellGraph], title: str) -> Canvas:
    """The drawing in a picture of its own size."""
    head = HEAD if len(graphs) > 1 else 0.0  # above every row, for the names of its cells
    rows = [[(cell, _place(cell)) for cell in row] for _, row in groupby(graphs, key=lambda graph: graph.row)]
    tops = [max(cell.top for _, cell in row) for row in rows]
    lows = [min(cell.low for _, cell in row) for row in rows]
    bases = [0.0]  # the level of each row
    for low, top in zip(lows, tops[1:], strict=False):
        bases.append(bases[-1] + low - head - MARGIN - top)
    width = max([_inches(title, TITLE), *(_row_width(row, bool(head)) for row in rows)]) + 2 * MARGIN
    floor, ceiling = bases[-1] + lows[-1] - MARGIN, tops[0] + head + HEAD
    pen = _Pen(Canvas(INCH * width, INCH * (ceiling - floor)), ceiling)
    pen.canvas.text(pen.at(MARGIN, ceiling - MARGIN - 0.07), title, TITLE, fill=SOFT)
    for row, base, top in zip(rows, bases, tops, strict=True):
        _draw_row(pen, row, base, base + top + HEAD - MARGIN - 0.07 if head else None)
    return pen.canvas


def _draw_row(pen: _Pen, row: "_Row", base: float, names: float | None) -> None:
    """Cells side by side on the level `base`, their names at the height `names`."""
    left = MARGIN
    for graph, cell in row:
        if names is not None:
            pen.canvas.text(pen.at(left, names), graph.name, TITLE)
        spots = {slot: (left + x, base + y, column) for slot, (x, y, column) in cell.spots.items()}
        _draw_edges(pen, graph, cell.layout, spots)
        for slot, spot in spots.items():
            if slot.kind != "pass":
                _draw_slot(pen, graph, slot, spot)
        left += _taken(graph, cell, names is not None) + APART


def _taken(graph: CellGraph, cell: "_Placed", named: bool) -> float:
    return max(cell.width, _inches(graph.name, TITLE) if named else 0.0)


def _row_width(row: "_Row", named: bool) -> float:
    return sum(_taken(graph, cell, named) for graph, cell in row) + APART * (len(row) - 1)


@dataclass(frozen=True)
class _Placed:
    """A cell with the spots of its slots, in inches from its left side."""

    layout: Layout
    spots: Mapping[Slot, Spot]
    width: float

    @property
    def top(self) -> float:
        return max(y + HEIGHTS[slot.kind] / 2 for slot, (_, y, _) in self.spots.items())

    @property
    def low(self) -> float:
        return min(y - HEIGHTS[slot.kind] / 2 for slot, (_, y, _) in self.spots.items())


_Row = Sequence[tuple[CellGraph, _Placed]]


def _place(graph: CellGraph) -> _Placed:
    layout = arrange(graph, lambda slot: HEIGHTS[slot.kind])
    widths = [max(_width(slot) for slot in column) for column in layout.columns]
    centres = [sum(widths[:index]) + width / 2 + GAP * index for index, width in enumerate(widths)]
    spots = {
        slot: (centres[index], layout.heights[slot], widths[index])
        for index, column in enumerate(layout.columns)
        for slot in column
    }
    return _Placed(layout, spots, centres[-1] + widths[-1] / 2)


def _draw_edges(pen: _Pen, graph: CellGraph, layout: Layout, spots: Mapping[Slot, Spot]) -> None:
    """Wires first, so that operations lie above them."""
    names = [label for _, _, label in graph.edges if label]
    ports = _ports(layout)
    for index in sorted(range(len(graph.edges)), key=lambda index: bool(graph.edges[index][2])):
        label, path = graph.edges[index][2], layout.paths[index]
        start, end = (spots[path[0]], spots[path[-1]])
        points = [(start[0] + _width(path[0]) / 2, start[1] + ports[index, 0])]
        goal = (end[0] - _width(path[-1]) / 2, end[1] + ports[index, 1])
        points += _stations(points[0], goal, [(spots[slot], slot.kind == "label") for slot in path[1:-1]])
        points.append(goal)
        _draw_curve(pen, points, colour(names, label) if label else WIRE, bool(label))


def _stations(start: Point, goal: Point, slots: Sequence[tuple[Spot, bool]]) -> list[Point]:
    """The points between: level through the column of the label, and of each pass that a wider curve would miss."""
    kept = {place for place, (_, label) in enumerate(slots) if label}
    while True:
        points = [point for place in sorted(kept) for point in _level(slots[place][0])]
        misses = {
            place: max(abs(_along([start, *points, goal], x) - y) for x, y in _level(spot))
            for place, (spot, _) in enumerate(slots)
            if place not in kept
        }
        worst = max(misses, key=lambda place: misses[place], default=None)
        if worst is None or misses[worst] <= STRAY:
            return points
        kept.add(worst)


def _level(spot: Spot) -> tuple[Point, Point]:
    """Where an edge enters a column and where it leaves it."""
    x, y, width = spot
    return (x - width / 2, y), (x + width / 2, y)


def _along(points: Sequence[Point], x: float) -> float:
    """Height at x of the curve through the points."""
    return next(_bow(start, end, x) for start, end in pairwise(points) if start[0] <= x <= end[0])


def _bow(start: Point, end: Point, x: float) -> float:
    """Height at x of the smooth step from one point to the other."""
    share = (x - start[0]) / (end[0] - start[0])
    return start[1] + (end[1] - start[1]) * share * share * (3 - 2 * share)


def _ports(layout: Layout) -> dict[tuple[int, int], float]:
    """(edge, end) -> height at which it meets its box, from the middle, in inches; edges keep their order."""
    ports = {}
    for end, near in ((0, 1), (-1, -2)):
        for box in {path[end] for path in layout.paths}:
            edges = [index for index, path in enumerate(layout.paths) if path[end] == box]
            edges.sort(key=lambda index: (-layout.heights[layout.paths[index][near]], index))
            step = min(0.09, 0.62 * BOX_HEIGHT / max(1, len(edges) - 1))
            for place, index in enumerate(edges):
                ports[index, abs(end)] = ((len(edges) - 1) / 2 - place) * step
    return ports


def _draw_curve(pen: _Pen, points: Sequence[Point], shade: str, labelled: bool) -> None:
    """A smooth line, level at every point, with a white border that shows which of two crossing lines is on top."""
    places = [pen.at(*point) for point in points]
    width = 2.0 if labelled else 1.3
    (x, y), back = places[-1], ARROW_LENGTH
    pen.canvas.path(_curve(places), stroke=PAPER, width=width + 2.4)
    pen.canvas.path(_curve([*places[:-1], (x - 0.5 * back, y)]), stroke=shade, width=width)
    pen.canvas.polygon([(x, y), (x - back, y - ARROW_WIDTH / 2), (x - back, y + ARROW_WIDTH / 2)], fill=shade)


def _curve(places: Sequence[Point]) -> str:
    """Path commands of Bezier curves from place to place."""
    commands = [f"M{number(places[0][0])} {number(places[0][1])}"]
    for (x0, y0), (x1, y1) in pairwise(places):
        bend = 0.55 * (x1 - x0)
        ends = (x0 + bend, y0, x1 - bend, y1, x1, y1)
        commands.append("C" + " ".join(number(value) for value in ends))
    return "".join(commands)


def _draw_slot(pen: _Pen, graph: CellGraph, slot: Slot, spot: Spot) -> None:
    x, y, _ = spot
    text, sub, face = _words(slot)
    if slot.kind == "label":
        names = [label for _, _, label in graph.edges if label]
        fill, edge, line = PAPER, colour(names, slot.text), 1.4
        height, radius, size = LABEL_HEIGHT, 0.45 * LABEL_HEIGHT, LABEL
    else:
        fill = "#eef1f4" if slot.text in graph.nodes else "#fbf3d9"
        height, radius, edge, line, size = BOX_HEIGHT, 0.09, SOFT, 1.2, BOX
    pen.canvas.frame(pen.box(x, y, _width(slot), height), INCH * radius, fill=fill, stroke=edge, width=line)
    pen.canvas.text(pen.at(x, y), text, size, anchor=0.5, face=face, sub=sub)


def _words(slot: Slot) -> tuple[str, str, str]:
    """Text, subscript and face: `sep_conv_3x3` -> sep 3×3; `c[k-1]` -> c with the index k−1, in italics."""
    if slot.kind == "box" and (indexed := re.match(r"^(\w)\[(\w(?:[+-]\d)?)\]$", slot.text)):
        return indexed[1], indexed[2].replace("-", "−"), "oblique"
    return (slot.text if slot.kind == "box" else short(slot.text)), "", ""


def _width(slot: Slot) -> float:
    """Inches that a slot is painted wide."""
    text, sub, face = _words(slot)
    if slot.kind == "pass":
        return 0.0
    if slot.kind == "box":
        return max(0.5, _inches(text, BOX, face, sub) + 0.2)
    return _inches(text, LABEL) + 0.22


def _inches(text: str, size: float, face: str = "", sub: str = "") -> float:
    return text_width(text, size, face, sub) / INCH
