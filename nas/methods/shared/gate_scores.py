"""Scores of channel gates, and the schedule by which the gates of lowest score are closed.

Source: Molchanov et al., CVPR 2019 (gates) and ICLR 2017 (activations). Ours: the protected gates, the schedule.
Shapes: gates of one cell are [E, 3, C]: edge, axis (OP_GATE, MID_GATE, SKIP_GATE: the order of GATES), channel; of a
whole network they are one vector [G]. Scores are float64.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

OP_GATE, MID_GATE, SKIP_GATE = range(3)


def loss_change(gates: Tensor, gradient: Tensor) -> Tensor:
    """What closing each gate adds to the loss, to first order: -g dL/dg; a gate per image counts for its image."""
    return -(gates * gradient).double()


def images_scores(change: Tensor) -> Tensor:
    """The 2017 form [G] from the changes [B, G] of the mean loss: the mean over images of each one's absolute change.

    The paper's form also divides by the number of pixels of the map, which the norm over a layer cancels.
    """
    return (len(change) * change).abs().mean(0)


def layer_normed(table: Tensor) -> Tensor:
    """Scores [E, 3, C] divided by their l2 norm within each edge and axis; zeros stay zeros."""
    return table / table.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(table.dtype).tiny)


def protected(scores: Tensor, gates: Tensor, feeding: Sequence[Sequence[int]]) -> Tensor:
    """The gates of a cell that must stay open, bool [E, 3, C], so that no node becomes a constant.

    Per node: the best open op or skip gate on an edge from an input, whose channels are always alive; for an op
    gate also the best mid gate of its edge. Ties: lower edge, op, lower channel.
    """
    kept, width = torch.zeros_like(gates), gates.shape[-1]
    open_scores = scores.masked_fill(~gates, -torch.inf)
    for edges in feeding:
        place = first_best(open_scores[list(edges)][:, [OP_GATE, SKIP_GATE]])
        e, axis, channel = edges[place // (2 * width)], (OP_GATE, SKIP_GATE)[place // width % 2], place % width
        kept[e, axis, channel] = True
        if axis == OP_GATE:
            kept[e, MID_GATE, first_best(open_scores[e, MID_GATE])] = True
    return kept


def first_best(values: Tensor) -> int:
    """Index of the largest value, the first one of several; argmax does not guarantee this."""
    flat = values.flatten()
    return int((flat == flat.max()).int().argmax())


def target_size(event: int, events: int, whole: int, budget: float) -> float:
    """Size to reach at event k = 1 .. T_ev: B_k = P_0 - (P_0 - B) k / T_ev, from P_0 (`whole`) to B (`budget`)."""
    return whole - (whole - budget) * event / events


def shortest(count: int, enough: Callable[[int], bool]) -> int | None:
    """The smallest sufficient n from 0 to `count`, or None if no n suffices. If n suffices, so must all larger ones."""
    low, high = -1, 0  # low is not enough
    while not enough(high):
        if high == count:
            return None
        low, high = high, min(2 * high + 1, count)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
