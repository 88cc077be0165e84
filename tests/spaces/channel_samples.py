"""Random legal channel masks, for property tests."""

from hypothesis import strategies as st

from nas.architectures.cell_shape import DARTS_EDGES
from nas.architectures.channel_masks import Cell, Gates, Masks, closed, every, widths
from nas.architectures.channel_sizes import OPERATIONS


@st.composite
def legal(draw, ops=tuple(OPERATIONS), cells=3, channels=2, skip_mode="gated"):
    """Closed masks in which every node has a channel: an op or a skip from an input feeds it."""
    op = draw(st.sampled_from(ops))
    found = tuple(draw(cell(width, OPERATIONS[op].double, skip_mode)) for width in widths(cells, channels))
    return closed(Masks(op, channels, found))


@st.composite
def cell(draw, width: int, double: bool, skip_mode: str) -> Cell:
    whole, some = every(width), st.one_of(st.just(0), st.integers(1, every(width)))
    edges = [Gates(draw(some), draw(some) if double else whole, draw(some)) for _ in DARTS_EDGES]
    lifelines = {node: draw(st.integers(0, 1)) for node in range(2, 6)}
    for e, (node, pred) in enumerate(DARTS_EDGES):
        op, mid, skip = edges[e]
        if pred == lifelines[node] and (skip_mode == "none" or draw(st.booleans())):
            op, mid = op | 1, mid | 1
        elif pred == lifelines[node]:
            skip |= 1
        op, mid = (op, mid) if op and mid else (0, 0)
        skip = {"none": 0, "fallback": whole & ~op}.get(skip_mode, skip)
        edges[e] = Gates(op, mid, skip)
    return tuple(edges)
