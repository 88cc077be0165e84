"""The layout of a cell's drawing: layers from left to right, and a separate place for every label.

After Sugiyama: nodes are placed in layers by their longest path from an input, with a column for operation labels
between two layers. An edge passes each column on its way in its own slot, and one of these slots holds its label, so no
label covers another label, a box or another edge. A local search orders the columns for few crossings. Equal
graphs have equal layouts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from nas.architectures.base import CellGraph

SWEEPS = 40  # at most; both relaxations settle far earlier on cells of a dozen edges


@dataclass(frozen=True)
class Slot:
    """A place in a column. `edge` is the index of the passing edge, -1 for a box. A `pass` holds no label."""

    kind: Literal["box", "label", "pass"]
    text: str = ""
    edge: int = -1

    @property
    def weight(self) -> float:
        """How strongly a link pulls; labels and passes pull more than boxes, which keeps long edges straight."""
        return 1.0 if self.kind == "box" else 3.0


@dataclass(frozen=True)
class Layout:
    """Columns from left to right, in each the slots from top to bottom; `paths` are the slots of each edge."""

    columns: tuple[tuple[Slot, ...], ...]
    heights: Mapping[Slot, float]  # of the centre, upwards, in the unit of `size`
    paths: tuple[tuple[Slot, ...], ...]


def arrange(graph: CellGraph, size: Callable[[Slot], float]) -> Layout:
    """The layout of a graph; `size` returns the height of a slot with the space around it.

    Raises:
        ValueError: an edge names an unknown node, or the edges form a cycle.
    """
    paths = _paths(graph, _layers(graph))
    last = max(column for path in paths for column, _ in path)
    boxes = [(column, slot) for path in paths for column, slot in (path[0], path[-1])]
    between = [place for path in paths for place in path[1:-1]]
    placed = list(dict.fromkeys(sorted(boxes, key=lambda place: _rank(graph, place[1])) + between))
    columns = [[slot for at, slot in placed if at == column] for column in range(last + 1)]
    columns = [column for column in columns if column]
    links = sorted({pair for path in paths for pair in pairwise(slot for _, slot in path)}, key=repr)
    columns = _untangle(columns, links)
    return Layout(
        tuple(tuple(column) for column in columns),
        _heights(columns, links, size),
        tuple(tuple(slot for _, slot in path) for path in paths),
    )


def _rank(graph: CellGraph, slot: Slot) -> int:
    return [*graph.inputs, *graph.nodes, graph.output].index(slot.text)


def _layers(graph: CellGraph) -> dict[str, int]:
    """Longest path from an input, in edges; the output comes last."""
    names = {*graph.inputs, *graph.nodes, graph.output}
    for source, target, _ in graph.edges:
        if source not in names or target not in names:
            raise ValueError(f"{graph.name}: edge {source} -> {target} names an unknown node")
    layers = {name: int(name not in graph.inputs) for name in names}
    for _ in names:
        for source, target, _ in graph.edges:
            layers[target] = max(layers[target], layers[source] + 1)
    if any(layers[target] <= layers[source] for source, target, _ in graph.edges) or max(layers.values()) > len(names):
        raise ValueError(f"{graph.name}: the edges form a cycle")
    layers[graph.output] = max(layers.values())
    return layers


def _paths(graph: CellGraph, layers: Mapping[str, int]) -> list[list[tuple[int, Slot]]]:
    """(column, slot) of every edge from end to end; boxes are in even columns, labels in odd ones.

    Short edges have no choice of column and come first; a long edge puts its label into the emptiest column.
    """
    taken = [0] * (2 * max(layers.values()) + 1)
    paths: dict[int, list[tuple[int, Slot]]] = {}
    for index in sorted(range(len(graph.edges)), key=lambda index: _span(graph.edges[index], layers)):
        source, target, label = graph.edges[index]
        first, last = 2 * layers[source], 2 * layers[target]
        at = min(range(first + 1, last, 2), key=lambda column: (taken[column], column)) if label else -1
        taken[at] += bool(label)
        inner = [
            (column, Slot("label", label, index) if column == at else Slot("pass", str(column), index))
            for column in range(first + 1, last)
        ]
        paths[index] = [(first, Slot("box", source)), *inner, (last, Slot("box", target))]
    labelled = {column for path in paths.values() for column, slot in path if slot.kind == "label"}
    return [
        [place for place in paths[index] if place[0] % 2 == 0 or place[0] in labelled]  # an empty column takes no width
        for index in range(len(graph.edges))
    ]


def _span(edge: tuple[str, str, str], layers: Mapping[str, int]) -> int:
    return layers[edge[1]] - layers[edge[0]]


def _untangle(columns: list[list[Slot]], links: Sequence[tuple[Slot, Slot]]) -> list[list[Slot]]:
    """Sort by the mean position of the neighbours, in both directions; then swap slots while that helps."""
    best, fewest = columns, _tangle(columns, links)
    current = columns
    for sweep in range(SWEEPS):
        current = _sweep(current, links, forward=sweep % 2 == 0)
        swapped = _swap(current, links)
        cost = _tangle(swapped, links)
        if cost < fewest:
            best, fewest = swapped, cost
        elif sweep > 3:
            break
    return best


def _sweep(columns: list[list[Slot]], links: Sequence[tuple[Slot, Slot]], forward: bool) -> list[list[Slot]]:
    columns = [list(column) for column in columns]
    order = range(1, len(columns)) if forward else range(len(columns) - 2, -1, -1)
    for index in order:
        near = columns[index - 1 if forward else index + 1]
        share = {slot: (place + 0.5) / len(near) for place, slot in enumerate(near)}
        means = {}
        for place, slot in enumerate(columns[index]):
            places = [share[other] for other in _neighbours(slot, links) if other in share]
            means[slot] = sum(places) / len(places) if places else (place + 0.5) / len(columns[index])
        columns[index].sort(key=lambda slot: means[slot])
    return columns


def _swap(columns: list[list[Slot]], links: Sequence[tuple[Slot, Slot]]) -> list[list[Slot]]:
    columns = [list(column) for column in columns]
    cost, improved = _tangle(columns, links), True
    while improved:
        improved = False
        for column in columns:
            for place in range(len(column) - 1):
                column[place : place + 2] = column[place + 1], column[place]
                changed = _tangle(columns, links)
                if changed < cost:
                    cost, improved = changed, True
                else:
                    column[place : place + 2] = column[place + 1], column[place]
    return columns


def _tangle(columns: Sequence[Sequence[Slot]], links: Sequence[tuple[Slot, Slot]]) -> float:
    """The number of crossings, plus a small weight on the climb of the links: among equals, short edges win."""
    where = {slot: (index, place) for index, column in enumerate(columns) for place, slot in enumerate(column)}
    crossings, climb = 0, 0.0
    gaps: dict[int, list[tuple[int, int]]] = {}
    for left, right in links:
        (index, start), (other, end) = where[left], where[right]
        gaps.setdefault(index, []).append((start, end))
        climb += abs((start + 0.5) / len(columns[index]) - (end + 0.5) / len(columns[other]))
    for ends in gaps.values():
        crossings += sum((a - c) * (b - d) < 0 for at, (a, b) in enumerate(ends) for c, d in ends[:at])
    return crossings + 0.01 * climb


def _neighbours(slot: Slot, links: Sequence[tuple[Slot, Slot]]) -> list[Slot]:
    return [b if a == slot else a for a, b in links if slot in (a, b)]


def _heights(
    columns: Sequence[Sequence[Slot]], links: Sequence[tuple[Slot, Slot]], size: Callable[[Slot], float]
) -> dict[Slot, float]:
    """Every slot near the weighted mean of its neighbours, without touching the next one in its column."""
    heights: dict[Slot, float] = {}
    for column in columns:
        heights.update(zip(column, _spread([0.0] * len(column), [size(slot) for slot in column]), strict=True))
    near = {slot: _neighbours(slot, links) for slot in heights}
    for sweep in range(SWEEPS):
        for column in columns[:: 1 if sweep % 2 == 0 else -1]:
            wanted = [_pull(slot, near[slot], heights) for slot in column]
            heights.update(zip(column, _spread(wanted, [size(slot) for slot in column]), strict=True))
    return heights


def _pull(slot: Slot, near: Sequence[Slot], heights: Mapping[Slot, float]) -> float:
    if not near:
        return heights[slot]
    weights = [slot.weight * other.weight for other in near]
    return sum(weight * heights[other] for weight, other in zip(weights, near, strict=True)) / sum(weights)


def _spread(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """The heights closest to the wanted ones (least squares) such that slots do not overlap, from top to bottom.

    Subtracting the required distances leaves an isotonic regression: neighbours in the wrong order are pooled at
    their mean.
    """
    offsets = [0.0]
    for above, below in pairwise(sizes):
        offsets.append(offsets[-1] + (above + below) / 2)
    pools: list[tuple[float, int]] = []  # mean, count
    for value in (height + offset for height, offset in zip(wanted, offsets, strict=True)):
        mean, count = value, 1
        while pools and pools[-1][0] < mean:
            above, number = pools.pop()
            mean, count = (mean * count + above * number) / (count + number), count + number
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    return [mean - offset for mean, offset in zip(flat, offsets, strict=True)]
