"""Cells as pictures: inputs left, output right, an edge in the colour of its operation with the name on it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from nas.architectures.base import CellGraph
from nas.report.layout import Layout, Slot, arrange
from nas.report.style import INK, PAPER, SOFT, WIRE, colour, look, save, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOX, LABEL, TITLE = 11.0, 10.5, 11.0  # points
HEIGHTS = {"box": 0.52, "label": 0.34, "pass": 0.20}  # inches that a slot takes in its column
BOX_HEIGHT, LABEL_HEIGHT = 0.36, 0.24  # inches that are painted
GAP, MARGIN, HEAD = 0.5, 0.14, 0.36  # inches between columns, around, and for a title
APART = 0.6  # inches between cells
STRAY = 0.07  # inches that a long edge may leave its slot for a smoother way; neighbours are further off
Point = tuple[float, float]
Spot = tuple[float, float, float]  # centre x, centre y, width of the column


def draw(graphs: Sequence[CellGraph], path_without_suffix: Path, title: str) -> None:
    """Write the drawing of cells, those of a row one beside the other, as .svg and .png."""
    with look():
        save(compose(graphs, title), path_without_suffix)


def compose(graphs: Sequence[CellGraph], title: str) -> "Figure":
    """The drawing as a figure of its own size, one data unit per inch; its texts are the titles, boxes and labels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    head = HEAD if len(graphs) > 1 else 0.0  # above every row, for the names of its cells
    rows = [[(cell, _place(cell)) for cell in row] for _, row in groupby(graphs, key=lambda graph: graph.row)]
    tops = [max(cell.top for _, cell in row) for row in rows]
    lows = [min(cell.low for _, cell in row) for row in rows]
    bases = [0.0]  # the level of each row
    for low, top in zip(lows, tops[1:], strict=False):
        bases.append(bases[-1] + low - head - MARGIN - top)
    width = max([_text_width(title, TITLE), *(_row_width(row, bool(head)) for row in rows)]) + 2 * MARGIN
    top, low, above = tops[0], bases[-1] + lows[-1], head + HEAD
    figure = Figure(figsize=(width, top - low + above + MARGIN))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(low - MARGIN, top + above))
    axes.set_axis_off()
    axes.text(MARGIN, top + above - MARGIN, title, fontsize=TITLE, va="top", color=SOFT)
    for row, base, top in zip(rows, bases, tops, strict=True):
        _draw_row(axes, row, base, base + top + HEAD - MARGIN if head else None)
    return figure


def _draw_row(axes: "Axes", row: "_Row", base: float, names: float | None) -> None:
    """Cells side by side on the level `base`, their names at the height `names`."""
    left = MARGIN
    for graph, cell in row:
        if names is not None:
            axes.text(left, names, graph.name, fontsize=TITLE, va="top", color=INK)
        spots = {slot: (left + x, base + y, column) for slot, (x, y, column) in cell.spots.items()}
        _draw_edges(axes, graph, cell.layout, spots)
        for slot, spot in spots.items():
            if slot.kind != "pass":
                _draw_slot(axes, graph, slot, spot)
        left += _taken(graph, cell, names is not None) + APART


def _taken(graph: CellGraph, cell: "_Placed", named: bool) -> float:
    return max(cell.width, _text_width(graph.name, TITLE) if named else 0.0)


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


def _draw_edges(axes: "Axes", graph: CellGraph, layout: Layout, spots: Mapping[Slot, Spot]) -> None:
    """Wires first, so that operations run over them."""
    names = [label for _, _, label in graph.edges if label]
    ports = _ports(layout)
    for index in sorted(range(len(graph.edges)), key=lambda index: bool(graph.edges[index][2])):
        label, path = graph.edges[index][2], layout.paths[index]
        start, end = (spots[path[0]], spots[path[-1]])
        points = [(start[0] + _width(path[0]) / 2, start[1] + ports[index, 0])]
        goal = (end[0] - _width(path[-1]) / 2, end[1] + ports[index, 1])
        points += _stations(points[0], goal, [(spots[slot], slot.kind == "label") for slot in path[1:-1]])
        points.append(goal)
        _draw_curve(axes, points, colour(names, label) if label else WIRE, bool(label))


def _stations(start: Point, goal: Point, slots: Sequence[tuple[Spot, bool]]) -> list[Point]:
    """The points between: level through the column of the label, and of each pass that a longer bow would miss."""
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
    """Height at x of the way through the points."""
    return next(_bow(start, end, x) for start, end in pairwise(points) if start[0] <= x <= end[0])


def _bow(start: Point, end: Point, x: float) -> float:
    """Height at x of the smooth step from one point to the other."""
    share = (x - start[0]) / (end[0] - start[0])
    return start[1] + (end[1] - start[1]) * share * share * (3 - 2 * share)


def _ports(layout: Layout) -> dict[tuple[int, int], float]:
    """(edge, end) -> height at which it meets its box, off the middle, in inches: edges meet in their own order."""
    ports = {}
    for end, beside in ((0, 1), (-1, -2)):
        for box in {path[end] for path in layout.paths}:
            edges = [index for index, path in enumerate(layout.paths) if path[end] == box]
            edges.sort(key=lambda index: (-layout.heights[layout.paths[index][beside]], index))
            step = min(0.09, 0.62 * BOX_HEIGHT / max(1, len(edges) - 1))
            for place, index in enumerate(edges):
                ports[index, abs(end)] = ((len(edges) - 1) / 2 - place) * step
    return ports


def _draw_curve(axes: "Axes", points: Sequence[Point], shade: str, labelled: bool) -> None:
    """A smooth line, level at every point, with a white border that shows which of two crossing lines lies above."""
    from matplotlib.patches import FancyArrowPatch, PathPatch
    from matplotlib.path import Path as Curve

    vertices, codes = [points[0]], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(points):
        bend = 0.55 * (x1 - x0)
        vertices += [(x0 + bend, y0), (x1 - bend, y1), (x1, y1)]
        codes += [Curve.CURVE4] * 3
    line = 2.0 if labelled else 1.3
    axes.add_patch(PathPatch(Curve(vertices, codes), fc="none", ec=PAPER, lw=line + 2.4, capstyle="butt"))
    (x, y), back = points[-1], 0.13
    vertices[-1] = (x - 0.5 * back, y)
    axes.add_patch(PathPatch(Curve(vertices, codes), fc="none", ec=shade, lw=line, capstyle="butt"))
    axes.add_patch(FancyArrowPatch((x - back, y), (x, y), arrowstyle="-|>,head_width=3.2,head_length=6",
                                   shrinkA=0, shrinkB=0, color=shade, lw=0, mutation_scale=1))  # fmt: skip


def _draw_slot(axes: "Axes", graph: CellGraph, slot: Slot, spot: Spot) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y, _ = spot
    names = [label for _, _, label in graph.edges if label]
    width, height = _width(slot), BOX_HEIGHT if slot.kind == "box" else LABEL_HEIGHT
    if slot.kind == "label":
        face, edge, line = PAPER, colour(names, slot.text), 1.4
    elif slot.text in graph.nodes:
        face, edge, line = "#eef1f4", SOFT, 1.2
    else:
        face, edge, line = "#fbf3d9", SOFT, 1.2
    shape = f"round,pad=0,rounding_size={0.45 * height if slot.kind == 'label' else 0.09}"
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, shape, fc=face, ec=edge, lw=line))
    size = BOX if slot.kind == "box" else LABEL
    axes.text(x, y, _words(slot), fontsize=size, color=INK, ha="center", va="center_baseline", gid=slot.kind)


def _words(slot: Slot) -> str:
    """`sep_conv_3x3` -> sep 3×3; `c[k-1]` -> c with an index."""
    if slot.kind == "box":
        return re.sub(r"^(\w)\[(\w)([+-]\d)?\]$", r"$\1_{\2\3}$", slot.text)
    return short(slot.text)


def _width(slot: Slot) -> float:
    """Inches that a slot is painted wide."""
    if slot.kind == "pass":
        return 0.0
    if slot.kind == "box":
        return max(0.5, _text_width(_words(slot), BOX) + 0.2)
    return _text_width(_words(slot), LABEL) + 0.22


@cache
def _text_width(text: str, points: float) -> float:
    """Inches, from the font's own outlines: no canvas is needed to know it."""
    if not text:
        return 0.0
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    return (
        float(TextPath((0, 0), text, size=points, prop=FontProperties(family="DejaVu Sans")).get_extents().width) / 72
    )
