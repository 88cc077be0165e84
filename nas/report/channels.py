"""What channel masks keep: a picture of every edge of every cell, and how the cells came out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.architectures.cell_shape import DARTS_EDGES, reductions
from nas.architectures.channel import ChannelArchitecture
from nas.architectures.channel_masks import Gates, statistics
from nas.architectures.channel_sizes import OPERATIONS
from nas.report.style import INK, PAPER, grid, look, save, short

READABLE = 10  # cells up to which a count fits into its square
TITLES = {"op": "of the operation", "mid": "in its middle", "skip": "skipped"}


def kept(architecture: ChannelArchitecture, title: str, path_without_suffix: Path) -> None:
    """Share of the channels that each edge keeps, as .svg and .png: edges down, cells across, a panel per kind."""
    with look():
        kinds = shown(architecture)
        cells = list(architecture.masks.each())
        figure, axes = grid(1, len(kinds), 1.2 + max(2.4, 0.24 * len(cells)), 4.4)
        for place, kind in zip(axes, kinds, strict=True):
            counts = [[getattr(cell[e], kind).bit_count() for cell, _ in cells] for e in range(len(DARTS_EDGES))]
            shares = [[n / width for n, (_, width) in zip(row, cells, strict=True)] for row in counts]
            place.imshow(shares, vmin=0, vmax=1, aspect="auto", cmap="Blues", interpolation="nearest")
            for e, row in enumerate(counts if len(cells) <= READABLE else []):
                for k, count in enumerate(row):
                    shade = PAPER if shares[e][k] > 0.6 else INK
                    place.text(k, e, str(count) if count else "", color=shade, fontsize=7, ha="center", va="center")
            place.grid(False)
            place.spines[:].set_visible(False)
            place.set_title(f"Channels {TITLES[kind]}", fontsize=9)
            place.set_yticks(
                range(len(DARTS_EDGES)), [f"{_node(pred)} → {_node(node)}" for node, pred in DARTS_EDGES], fontsize=7
            )
            halved = reductions(len(cells))
            names = [f"{k}R" if k in halved else str(k) for k in range(len(cells))]
            place.set_xticks(range(len(cells)), names, fontsize=7 if len(cells) <= 2 * READABLE else 5)
            place.set_xlabel("Cell (R halves the map)", fontsize=9)
        figure.suptitle(f"{title}: kept channels, {short(architecture.op)}", fontsize=11, ha="left", x=0.01)
        save(figure, path_without_suffix)


def shown(architecture: ChannelArchitecture) -> list[str]:
    """The kinds of gates that there are: a single operation has no middle."""
    absent = {"mid"} if not OPERATIONS[architecture.op].double else set()
    absent |= {"skip"} if architecture.skip_mode == "none" else set()
    return [kind for kind in Gates._fields if kind not in absent]


def _node(index: int) -> str:
    """As the drawing of a cell names it."""
    return ("k-2", "k-1")[index] if index < 2 else str(index - 2)


def cells_table(architecture: ChannelArchitecture) -> list[list[str]]:
    """Titles, then one list of texts per cell."""
    found, halved = statistics(architecture.masks), reductions(len(architecture.cells))
    titles = ["Cell", "Width", "Edges", "Op channels", "Skip channels", "Depth", "Live: k-2, k-1, 0, 1, 2, 3"]
    columns = (found[key] for key in ("edges", "op_channels", "skip_channels", "depth"))
    rows = zip(architecture.masks.widths, *columns, found["live"], strict=True)
    return [
        titles,
        *([f"{k}R" if k in halved else str(k), *map(str, row[:-1]), ", ".join(map(str, row[-1]))]
          for k, row in enumerate(rows)),
    ]  # fmt: skip


def sentences(architecture: ChannelArchitecture, sizes: Mapping[str, Mapping[str, int]]) -> Sequence[str]:
    """What the table cannot say; `sizes` as the notes of derive have them."""
    found = statistics(architecture.masks)
    told = [
        f"The masks are for {len(architecture.cells)} cells and {architecture.channels} channels, those of the search; "
        f"another size makes of them what resize: {architecture.resize} says.",
        f"{100 * found['skip_share']:.1f} % of what feeds the nodes are skips. An edge that has an operation keeps "
        f"{found['channels_per_edge']:.1f} of its channels on average.",
    ]
    if found["jaccard"] is not None:
        told.append(f"Mean Jaccard distance of normal cells of one stage: {found['jaccard']:.3f} (0: all the same).")
    if sizes:
        told.append("At the size of the search: " + ", ".join(_size(name, sizes[name]) for name in sizes) + ".")
    return told


def _size(name: str, size: Mapping[str, Any]) -> str:
    return f"{name} {size['params']:,} parameters and {size['macs']:,} multiply-adds"
