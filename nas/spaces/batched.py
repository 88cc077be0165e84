"""The supernet cell, all edges that leave one state at once: the same sums as the plain cell, in far fewer kernels.

- The edges share their input, so they share its ReLU, its pools and the pools' batch norms.
- A depthwise convolution followed by a 1x1 is one dense convolution whose kernel is built from both (exact: nothing
  non-linear lies between), and the dense kernels of all edges that leave a state are one convolution.
- The weight of an operation is the scale of its last batch norm, instead of a product and a sum per operation.

Shape legend: B batch, C width of the cell, E edges that leave the state and hold the operation, H x W the map.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.spaces.architecture import EDGES, NODES, PRIMITIVES

Edge = Sequence[tuple[int, Tensor | None]]  # (operation, weight; None is 1) of what runs on an edge
LEAVING = tuple([e for e, (_, pred) in enumerate(EDGES) if pred == state] for state in range(1 + NODES))
BATCH_NORM_EPS = 1e-5


def nodes(edges: nn.ModuleList, inputs: Sequence[Tensor], running: Sequence[Edge], skip_dropout: float) -> list[Tensor]:
    """The intermediate nodes of a cell, from its two preprocessed inputs and what runs on each of its edges."""
    states, parts = list(inputs), defaultdict(list)
    for state, leaving in enumerate(LEAVING):
        if state >= 2:
            states.append(_sum(parts[state]))
        for e, y in _leave(states[state], edges, leaving, running, skip_dropout):
            parts[EDGES[e][0]].append(y)
    return [*states[2:], _sum(parts[1 + NODES])]


def _leave(
    x: Tensor, edges: nn.ModuleList, leaving: Sequence[int], running: Sequence[Edge], skip_dropout: float
) -> list[tuple[int, Tensor]]:
    """(edge, map) for the edges that leave the state x; an edge may come several times, its maps are to be added."""
    stride = edges[leaving[0]].stride
    holders: dict[int, list[tuple[int, Tensor | None]]] = defaultdict(list)  # operation -> (edge, weight)
    for e in leaving:
        for op, weight in running[e]:
            holders[op].append((e, weight))
    shared: dict[str, Tensor] = {}
    wide: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)  # edges -> maps [B, E C, H, W]
    maps: list[tuple[int, Tensor]] = []
    plain: list[tuple[Tensor, list[tuple[int, Tensor | None]]]] = []  # one map for all edges, and their weights
    for op, held in holders.items():
        name, on = PRIMITIVES[op], tuple(e for e, _ in held)
        modules = [edges[e].ops[op] for e in on]
        weight = _scale([w for _, w in held], x.shape[1])
        if name == "none":
            continue  # adds zero; its weight acts through the others' share
        if name == "skip_connect" and stride == 1:
            if skip_dropout and modules[0].training:
                maps += [(e, _times(F.dropout(x, skip_dropout), w)) for e, w in held]
            else:
                plain.append((x, held))
        elif "pool" in name:
            plain.append((batch_norm(modules[0][0](x), None), held))
        else:
            if "relu" not in shared:
                shared["relu"] = F.relu(x)
            run = _factorized_reduce if name == "skip_connect" else _convolutions
            wide[on].append(run(shared["relu"], modules, weight))
    for on, summands in wide.items():
        maps += zip(on, _sum(summands).chunk(len(on), dim=1), strict=True)
    maps += _mixed(plain)
    if not maps:
        maps = [(e, edges[e].ops[0](x)) for e in leaving]
    missing = set(leaving) - {e for e, _ in maps}
    return maps + [(e, edges[e].ops[0](x)) for e in sorted(missing)]


def _mixed(plain: Sequence[tuple[Tensor, list[tuple[int, Tensor | None]]]]) -> list[tuple[int, Tensor]]:
    """Weighted sums of maps that are the same for every edge, as one small matrix product where all edges hold all."""
    if not plain:
        return []
    on = [e for e, _ in plain[0][1]]
    weights = [[w for _, w in held] for _, held in plain]
    if any([e for e, _ in held] != on for _, held in plain) or any(w is None for row in weights for w in row):
        return [(e, _times(y, w)) for y, held in plain for e, w in held]
    maps = torch.stack([y.permute(0, 2, 3, 1) for y, _ in plain])  # [K, B, H, W, C]: channels-last stays dense
    table = torch.stack([torch.stack([w for w in row if w is not None]) for row in weights], dim=1)  # [E, K]
    mixed = (table.to(maps.dtype) @ maps.flatten(1)).view(len(on), *maps.shape[1:])
    return [(e, y.permute(0, 3, 1, 2)) for e, y in zip(on, mixed.unbind(), strict=True)]


def _convolutions(relu: Tensor, ops: Sequence[nn.Module], weight: Tensor | None) -> Tensor:
    """Separable or dilated convolutions of several edges, from the state's ReLU [B, C, H, W] to [B, E C, H', W']."""
    halves = len(ops[0]) // 4  # each is ReLU, depthwise, 1x1, batch norm
    y = relu
    for half in range(halves):
        last = half == halves - 1
        depthwise = [op[4 * half + 1] for op in ops]
        kernel = merged([conv.weight for conv in depthwise], [op[4 * half + 2].weight for op in ops])
        first = depthwise[0]
        y = F.conv2d(y, kernel, None, first.stride, first.padding, first.dilation, 1 if half == 0 else len(ops))
        y = batch_norm(y, weight if last else None)
        y = y if last else F.relu(y)
    return y


def merged(depthwise: Sequence[Tensor], pointwise: Sequence[Tensor]) -> Tensor:
    """Depthwise [C, 1, k, k] then 1x1 [C', C, 1, 1], per edge, as one dense kernel [E C', C, k, k]."""
    dw = torch.stack(tuple(depthwise)).permute(0, 2, 1, 3, 4)  # [E, 1, C, k, k]
    return (torch.stack(tuple(pointwise)) * dw).flatten(0, 1)


def _factorized_reduce(relu: Tensor, ops: Sequence[nn.Module], weight: Tensor | None) -> Tensor:
    height, width = relu.shape[-2:]
    if height % 2 or width % 2:
        relu = F.pad(relu, (0, width % 2, 0, height % 2))
    first = F.conv2d(relu, torch.cat([op.conv_1.weight for op in ops]), stride=2)
    second = F.conv2d(relu[:, :, 1:, 1:], torch.cat([op.conv_2.weight for op in ops]), stride=2)
    halves = (y.unflatten(1, (len(ops), -1)) for y in (first, second))
    return batch_norm(torch.cat(tuple(halves), dim=2).flatten(1, 2), weight)


def batch_norm(x: Tensor, scale: Tensor | None) -> Tensor:
    """Batch norm by the batch's own statistics, as every cell of a supernet has it, with a given scale."""
    return F.batch_norm(x, None, None, scale, None, True, 0.0, BATCH_NORM_EPS)


def _scale(weights: Sequence[Tensor | None], channels: int) -> Tensor | None:
    """The weights of E edges as a scale per channel [E C]; None when all are 1."""
    given = [weight for weight in weights if weight is not None]
    return torch.stack(given).repeat_interleave(channels) if len(given) == len(weights) else None


def _times(y: Tensor, weight: Tensor | None) -> Tensor:
    return y if weight is None else weight * y


def _sum(maps: Sequence[Tensor]) -> Tensor:
    total = maps[0]
    for y in maps[1:]:
        total = total + y
    return total
