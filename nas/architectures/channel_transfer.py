"""Channel masks for a network of another depth or width. Ours: how the paper transfers to ImageNet is not public."""

from collections.abc import Callable, Sequence

from nas.architectures.cell_shape import DARTS_EDGES, reductions
from nas.architectures.channel_masks import Gates, Masks, closed, dead_node, every, widths

Scores = Sequence[Sequence[Sequence[Sequence[float]]]]  # [cells][edges][op, mid, skip][channels]
Stretch = Callable[[int, int, Sequence[float], int], int]  # (set, its width, scores, new width) -> set


class TransferError(ValueError):
    """Masks that cannot be used at this size. The message says which size they are for and what to do."""


def cell_map(source: int, target: int) -> list[int]:
    """For each of `target` cells the index of the `source` cell whose gates it takes; reductions map to reductions.

    The normal cells of a stage are spaced evenly. The first stage starts with its first cell, as the first cells read
    the stem; the other stages take the middle of each stride. From 20 to 14 cells the result is
    0 1 3 4 | 6 | 7 9 10 12 | 13 | 14 16 17 19.

    Raises:
        TransferError: a stage has normal cells in the target but none in the source.
    """
    sources: list[int] = []
    old, new = (-1, *reductions(source), source), (-1, *reductions(target), target)
    for stage in range(3):
        first, have, want = old[stage] + 1, old[stage + 1] - old[stage] - 1, new[stage + 1] - new[stage] - 1
        if want and not have:
            raise TransferError(
                f"masks of {source} cells have no normal cell in stage {stage + 1}, which {target} cells need; "
                "search with more cells, or retrain with fewer"
            )
        sources += [first + (i * have // want if stage == 0 else (2 * i + 1) * have // (2 * want)) for i in range(want)]
        sources += [old[stage + 1]] * (stage < 2)
    return sources


def repeat(channels: int, width: int, scores: Sequence[float], target: int) -> int:
    """New channel c takes the bit of channel floor(c width / target). Scores are not used."""
    return sum((channels >> c * width // target & 1) << c for c in range(target))


def topk(channels: int, width: int, scores: Sequence[float], target: int) -> int:
    """Keep the share of the k open channels: round(k target / width), at least one if k > 0.

    Repeated open channels come first, then those of larger scores, then lower ones.
    """
    sources = [c * width // target for c in range(target)]
    kept = (2 * channels.bit_count() * target + width) // (2 * width)
    order = sorted(range(target), key=lambda c: (-(channels >> sources[c] & 1), -scores[sources[c]], c))
    return sum(1 << c for c in order[: max(kept, channels > 0)])


def resized(
    masks: Masks, cells: int, channels: int, stretch: Stretch, scores: Scores | None = None, fallback: bool = False
) -> Masks:
    """The masks at another size, closed. With `fallback`, skips are open exactly where the operation is closed.

    Raises:
        TransferError: a node would have no channel, or the depth is impossible.
    """
    sources, resized_cells = cell_map(len(masks.cells), cells), []
    for source, width in zip(sources, widths(cells, channels), strict=True):
        old = masks.widths[source]
        edges = []
        for e in range(len(DARTS_EDGES)):
            given = scores[source][e] if scores is not None else [[0.0] * old] * 3
            op, mid, skip = (stretch(s, old, by, width) for s, by in zip(masks.cells[source][e], given, strict=True))
            edges.append(Gates(op, mid, every(width) & ~op if fallback else skip))
        resized_cells.append(tuple(edges))
    new = closed(Masks(masks.op, channels, tuple(resized_cells)))
    if (dead := dead_node(new)) is not None:
        raise TransferError(
            f"at {channels} channels cell {dead[0]} keeps no channel of node {dead[1]}; use resize: topk, or the "
            f"{masks.channels} channels of the search"
        )
    return new
