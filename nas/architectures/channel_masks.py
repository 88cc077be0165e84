"""The open channels of a network and the channels that they leave alive, as sets. Imports no torch.

The network is DARTS' skeleton with one fixed operation on each of the 14 edges of every cell; cells share nothing.
A set of channels is an int whose bit c is channel c: S is the output of the operation, M the middle of a double
operation, K the channel-level skip, U the live channels of a node. All of this is our reading of TENAS
(docs/methods/tenas.md).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any, NamedTuple

from nas.architectures.cell_shape import DARTS_EDGES, NODES, reductions


class Gates(NamedTuple):
    """The open channels of an edge. For a single operation `mid` is all channels if the edge has the operation."""

    op: int
    mid: int
    skip: int


Cell = tuple[Gates, ...]  # in the order of DARTS_EDGES


@dataclass(frozen=True)
class Masks:
    """The gates of a whole network; `channels` is the width of the first cells; each reduction doubles it."""

    op: str
    channels: int
    cells: tuple[Cell, ...]

    @property
    def widths(self) -> list[int]:
        return widths(len(self.cells), self.channels)

    def each(self) -> Iterator[tuple[Cell, int]]:
        """Every cell with its width."""
        return zip(self.cells, self.widths, strict=True)


def widths(cells: int, channels: int) -> list[int]:
    """Channels of every node of each cell."""
    first, second = reductions(cells)
    return [channels << (index >= first) + (index >= second) for index in range(cells)]


def stages(cells: int) -> list[range]:
    """The normal cells before, between and after the reductions."""
    first, second = reductions(cells)
    return [range(first), range(first + 1, second), range(second + 1, cells)]


def every(width: int) -> int:
    """The set of all channels."""
    return (1 << width) - 1


def members(channels: int) -> list[int]:
    """The channels of a set in ascending order."""
    return [c for c in range(channels.bit_length()) if channels >> c & 1]


def to_hex(channels: int, width: int) -> str:
    """A set as hexadecimal digits of fixed length; channel 0 is the lowest bit of the last digit."""
    return f"{channels:0{-(-width // 4)}x}"


def all_open(width: int) -> Gates:
    return Gates(every(width), every(width), every(width))


def uniform(op: str, cells: int, channels: int, gates: Callable[[int], Gates] = all_open) -> Masks:
    """The same gates on every edge of a cell; `gates` computes them from the width."""
    return Masks(op, channels, tuple((gates(width),) * len(DARTS_EDGES) for width in widths(cells, channels)))


def closed(masks: Masks) -> Masks:
    """The masks after also closing every gate that leads nowhere; the result is called complete.

    An edge without a channel at its output or in its middle loses both sets; skips from dead channels are closed. In
    each cell one pass over the nodes in ascending order suffices.
    """
    return Masks(masks.op, masks.channels, tuple(_closed(cell, width) for cell, width in masks.each()))


def _closed(cell: Cell, width: int) -> Cell:
    alive = [every(width)] * 2 + [0] * NODES
    edges = []
    for (node, pred), (op, mid, skip) in zip(DARTS_EDGES, cell, strict=True):
        gates = Gates(op, mid, skip & alive[pred]) if op and mid else Gates(0, 0, skip & alive[pred])
        edges.append(gates)
        alive[node] |= gates.op | gates.skip
    return tuple(edges)


def live(cell: Cell, width: int) -> list[int]:
    """U of nodes 0..5: of the two inputs the channels in use, of the others the channels that anything reaches.

    An operation uses all channels of an input.
    """
    alive = [0] * (2 + NODES)
    for (node, pred), gates in zip(DARTS_EDGES, cell, strict=True):
        alive[node] |= gates.op | gates.skip
        if pred < 2:
            alive[pred] |= every(width) if gates.op else gates.skip
    return alive


def dead_node(masks: Masks) -> tuple[int, int] | None:
    """The first (cell, node) that would be a constant zero."""
    for k, (cell, width) in enumerate(masks.each()):
        for node, channels in enumerate(live(cell, width)[2:], start=2):
            if not channels:
                return k, node
    return None


def statistics(masks: Masks) -> dict[str, Any]:
    """Statistics of complete masks. Lists have one value per cell.

    `depth`: largest number of operations on a path through the cell. `skip_share`: share of channel-level skips among
    all channels that feed a node. `jaccard`: mean distance |A xor B| / |A or B| of the op masks of any two normal cells
    between the same reductions; None if no stage has two.
    """
    cells = list(masks.each())
    ops = [sum(g.op.bit_count() for g in cell) for cell, _ in cells]
    skips = [sum(g.skip.bit_count() for g in cell) for cell, _ in cells]
    pairs = [pair for stage in stages(len(cells)) for pair in combinations(stage, 2)]
    distances = [_distance(masks.cells[a], masks.cells[b], masks.widths[a]) for a, b in pairs]
    return {
        "edges": [sum(g.op > 0 for g in cell) for cell, _ in cells],
        "op_channels": ops,
        "skip_channels": skips,
        "skip_share": sum(skips) / (sum(ops) + sum(skips)),
        "channels_per_edge": fmean([g.op.bit_count() for cell, _ in cells for g in cell if g.op] or [0]),
        "depth": [_depth(cell) for cell, _ in cells],
        "live": [[u.bit_count() for u in live(cell, width)] for cell, width in cells],
        "jaccard": fmean(distances) if distances else None,
    }


def _depth(cell: Cell) -> int:
    depths = [0] * (2 + NODES)
    for (node, pred), gates in zip(DARTS_EDGES, cell, strict=True):
        if gates.op or gates.skip:
            depths[node] = max(depths[node], depths[pred] + (gates.op > 0))
    return max(depths)


def _distance(a: Cell, b: Cell, width: int) -> float:
    """The Jaccard distance of the op channels of all edges; 0 if neither cell has any."""
    one, other = ([g.op << e * width for e, g in enumerate(cell)] for cell in (a, b))
    both = [(x ^ y, x | y) for x, y in zip(one, other, strict=True)]
    union = sum(y.bit_count() for _, y in both)
    return sum(x.bit_count() for x, _ in both) / union if union else 0.0
