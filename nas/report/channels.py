"""Channel masks: a picture of the channels that each edge of each cell keeps, and statistics of the cells."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.architectures.cell_shape import DARTS_EDGES, reductions
from nas.architectures.channel import ChannelArchitecture
from nas.architectures.channel_masks import Gates, statistics
from nas.architectures.channel_sizes import OPERATIONS
from nas.report.chart import BLUES, heat
from nas.report.style import INK, PAPER, SOFT, short
from nas.report.svg import Box, Canvas

READABLE = 10  # up to this many cells, counts fit into their squares
LEFT, TOP, DOWN = 56.0, 42.0, 17.0  # points: left of a panel, above it, height of an edge
TITLES = {"op": "of the operation", "mid": "in its middle", "skip": "skipped"}


def kept(architecture: ChannelArchitecture, title: str, path: Path) -> None:
    """Draw the share of channels that each edge keeps: edges down, cells across, a panel per gate kind."""
    gate_kinds, cells = shown(architecture), list(architecture.masks.each())
    across = max(160.0, 17.0 * len(cells))
    canvas = Canvas(8 + (LEFT + across) * len(gate_kinds), TOP + DOWN * len(DARTS_EDGES) + 46)
    canvas.text((8, 12), f"{title}: kept channels, {short(architecture.op)}", 11, fill=SOFT)
    for place, gate_kind in enumerate(gate_kinds):
        left = LEFT + place * (LEFT + across)
        area = Box(left, TOP, left + across, TOP + DOWN * len(DARTS_EDGES))
        counts = [[getattr(cell[edge], gate_kind).bit_count() for cell, _ in cells] for edge in range(len(DARTS_EDGES))]
        shares = [[n / width for n, (_, width) in zip(row, cells, strict=True)] for row in counts]
        heat(canvas, shares, area, BLUES)
        if len(cells) <= READABLE:
            _write_counts(canvas, counts, shares, area)
        canvas.text((left, TOP - 10), f"Channels {TITLES[gate_kind]}", 9)
        _name_axes(canvas, area, len(cells))
    canvas.save(path)


def _write_counts(
    canvas: Canvas, counts: Sequence[Sequence[int]], shares: Sequence[Sequence[float]], area: Box
) -> None:
    wide = (area.x1 - area.x0) / len(counts[0])
    for edge, row in enumerate(counts):
        for cell, count in enumerate(row):
            if count:
                at = area.x0 + wide * (cell + 0.5), area.y0 + DOWN * (edge + 0.5)
                canvas.text(at, str(count), 7, anchor=0.5, fill=PAPER if shares[edge][cell] > 0.6 else INK)


def _name_axes(canvas: Canvas, area: Box, cells: int) -> None:
    for edge, (node, pred) in enumerate(DARTS_EDGES):
        at = area.x0 - 5, area.y0 + DOWN * (edge + 0.5)
        canvas.text(at, f"{_node(pred)} → {_node(node)}", 7, anchor=1.0)
    halved, wide = reductions(cells), (area.x1 - area.x0) / cells
    for cell in range(cells):
        at = area.x0 + wide * (cell + 0.5), area.y1 + 10
        canvas.text(at, f"{cell}R" if cell in halved else str(cell), 7, anchor=0.5)
    canvas.text(((area.x0 + area.x1) / 2, area.y1 + 25), "Cell (R halves the map)", 9, anchor=0.5)


def shown(architecture: ChannelArchitecture) -> list[str]:
    """The gate kinds in use: a single operation has no middle."""
    absent = {"mid"} if not OPERATIONS[architecture.op].double else set()
    absent |= {"skip"} if architecture.skip_mode == "none" else set()
    return [kind for kind in Gates._fields if kind not in absent]


def _node(index: int) -> str:
    """The name in the drawing of a cell."""
    return ("k-2", "k-1")[index] if index < 2 else str(index - 2)


def cells_table(architecture: ChannelArchitecture) -> list[list[str]]:
    """Titles, then one row of texts per cell."""
    stats, halved = statistics(architecture.masks), reductions(len(architecture.cells))
    titles = ["Cell", "Width", "Edges", "Op channels", "Skip channels", "Depth", "Live: k-2, k-1, 0, 1, 2, 3"]
    columns = (stats[key] for key in ("edges", "op_channels", "skip_channels", "depth"))
    rows = zip(architecture.masks.widths, *columns, stats["live"], strict=True)
    return [
        titles,
        *([f"{k}R" if k in halved else str(k), *map(str, row[:-1]), ", ".join(map(str, row[-1]))]
          for k, row in enumerate(rows)),
    ]  # fmt: skip


def sentences(architecture: ChannelArchitecture, sizes: Mapping[str, Mapping[str, int]]) -> Sequence[str]:
    """Statistics of the whole network; `sizes` come from the notes of derive."""
    stats = statistics(architecture.masks)
    texts = [
        f"The masks have the size of the search: {len(architecture.cells)} cells, {architecture.channels} channels. "
        f"Networks of another size resize them by the rule '{architecture.resize}'.",
        f"{100 * stats['skip_share']:.1f} % of the inputs of nodes are skips. An edge with an operation keeps "
        f"{stats['channels_per_edge']:.1f} channels on average.",
    ]
    if stats["jaccard"] is not None:
        distance = f"{stats['jaccard']:.3f}"
        texts.append(f"Mean Jaccard distance between normal cells of a stage: {distance} (0 if all are equal).")
    if sizes:
        texts.append("At the size of the search: " + ", ".join(_size(name, sizes[name]) for name in sizes) + ".")
    return texts


def _size(name: str, size: Mapping[str, Any]) -> str:
    return f"{name} {size['params']:,} parameters and {size['macs']:,} multiply-adds"
