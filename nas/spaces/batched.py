"""The supernet cell, all edges that leave one state at once: the same sums as the plain cell, in far fewer kernels.

- The edges share their input, so they share its ReLU, its pools and the pools' batch norms.
- The same operation of several edges is one convolution, and the weight of an operation is the scale of its last
  batch norm, instead of a product and a sum per operation.
- A depthwise convolution followed by a 1x1 has two forms. `factored`: the two, the second one matrix product with its
  batch norm (nas.spaces.kernels). `merged`: one dense convolution whose kernel is built from both (exact: nothing
  non-linear lies between); more arithmetic, which matrix units give away.

Shape legend: B batch, C width of the cell, E edges that leave the state and hold the operation, H x W the map.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.engine import prefers_merged
from nas.spaces.architecture import EDGES, NODES, PRIMITIVES
from nas.spaces.kernels import BATCH_NORM_EPS, beside, depthwise, normed_relu, normed_sum, reached

Edge = Sequence[tuple[int, Tensor | None]]  # (operation, weight; None is 1) of what runs on an edge
Held = list[tuple[int, Tensor | None]]  # (edge, weight) of the edges that hold an operation
Part = tuple[int, Tensor]  # an edge and a map that adds to it
LEAVING = tuple([e for e, (_, pred) in enumerate(EDGES) if pred == state] for state in range(1 + NODES))


def nodes(mixed_ops: Any, inputs: Sequence[Tensor], running: Sequence[Edge], skip_dropout: float) -> list[Tensor]:
    """The intermediate nodes of a cell, from its preprocessed inputs and what runs on each of its edges.

    `mixed_ops` are the cell's 14 MixedOps, whose weights are used in place.
    """
    states = list(inputs)
    incoming: dict[int, list[Tensor]] = defaultdict(list)
    for state, leaving in enumerate(LEAVING):
        if state >= 2:
            states.append(_sum(incoming[state]))
        for e, y in _leave(states[state], mixed_ops, leaving, running, skip_dropout):
            incoming[EDGES[e][0]].append(y)
    return [*states[2:], _sum(incoming[1 + NODES])]


def _leave(
    x: Tensor, mixed_ops: Any, leaving: Sequence[int], running: Sequence[Edge], skip_dropout: float
) -> list[Part]:
    """Every edge that leaves the state x, at least once."""
    stride = mixed_ops[leaving[0]].stride
    relu = F.relu(x)
    parts: list[Part] = []
    plain: list[tuple[Tensor, Held]] = []  # maps that are the same for every edge that holds the operation
    convolutions: dict[tuple[int, ...], list[tuple[list[Any], Held]]] = defaultdict(list)  # by the edges that hold them
    for op, held in _holders(leaving, running).items():
        name, on = PRIMITIVES[op], tuple(e for e, _ in held)
        ops = [mixed_ops[e].ops[op] for e in on]
        if name == "none":
            continue  # adds zero; its weight acts through the others' share
        if name == "skip_connect" and stride == 1:
            if skip_dropout and ops[0].training:
                parts += [(e, _times(F.dropout(x, skip_dropout), w)) for e, w in held]
            else:
                plain.append((x, held))
        elif name == "skip_connect":
            parts += zip(on, _factorized_reduce(relu, ops, _scale(held, x.shape[1])), strict=True)
        elif "pool" in name:
            plain.append((batch_norm(ops[0][0](x), None), held))
        else:
            convolutions[on].append((ops, held))
    form = merged if prefers_merged(x) else factored
    for edges, some in convolutions.items():
        parts += zip(edges, form(relu, some), strict=True)
    parts += _weighted(plain)
    empty = set(leaving) - {e for e, _ in parts}
    return parts + [(e, mixed_ops[e].ops[0](x)) for e in sorted(empty)]


def _holders(leaving: Sequence[int], running: Sequence[Edge]) -> dict[int, Held]:
    """Operation -> the edges that run it."""
    holders: dict[int, Held] = defaultdict(list)
    for e in leaving:
        for op, weight in running[e]:
            holders[op].append((e, weight))
    return holders


def _weighted(plain: Sequence[tuple[Tensor, Held]]) -> list[Part]:
    """Weighted maps per edge; where all edges hold all of them, as one small matrix product."""
    if not plain:
        return []
    on = [e for e, _ in plain[0][1]]
    weights = [w for _, held in plain for _, w in held if w is not None]
    if any([e for e, _ in held] != on for _, held in plain) or len(weights) < len(on) * len(plain):
        return [(e, _times(y, w)) for y, held in plain for e, w in held]
    maps = torch.stack([y.permute(0, 2, 3, 1) for y, _ in plain])  # [K, B, H, W, C]: channels-last stays dense
    table = torch.stack(weights).view(len(plain), len(on)).t()  # [E, K]
    mixed = (table.to(maps.dtype) @ maps.flatten(1)).view(len(on), *maps.shape[1:])
    return [(e, y.permute(0, 3, 1, 2)) for e, y in zip(on, mixed.unbind(), strict=True)]


def factored(relu: Tensor, convolutions: Sequence[tuple[list[Any], Held]]) -> Sequence[Tensor]:
    """Separable and dilated convolutions that the same E edges hold, weighted and summed: E maps [B, C, H', W']."""
    count = len(convolutions[0][1])
    inputs: dict[bool, Tensor] = {}  # of all pixels, or of every second row and column; [B, E C, H, W]
    maps, kernels = [], []
    for ops, _ in convolutions:
        conv = ops[0][1]
        skips = conv.stride[0] == conv.dilation[0] == 2  # then it reads every second row and column alone
        if skips not in inputs:
            read = relu[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last) if skips else relu
            inputs[skips] = beside(read, count)
        stride, dilation = (1, 1) if skips else (conv.stride[0], conv.dilation[0])
        y = inputs[skips]
        for first in range(0, len(ops[0]), 4):  # halves of four modules: ReLU, depthwise, 1x1, batch norm
            y = depthwise(y, torch.cat([op[first + 1].weight for op in ops]), stride, dilation)
            kernel = torch.stack([op[first + 2].weight.flatten(1) for op in ops]).mT  # [E, C, C']
            if first + 4 < len(ops[0]):
                y, stride = normed_relu(y, kernel), 1
        maps.append(y)
        kernels.append(kernel)
    weights = [weight for _, held in convolutions for _, weight in held if weight is not None]
    table = torch.stack(weights).view(len(maps), count) if weights else None
    return normed_sum(maps, torch.stack(kernels), table)


def merged(relu: Tensor, convolutions: Sequence[tuple[list[Any], Held]]) -> Sequence[Tensor]:
    """As `factored`."""
    total = _sum([_merged(relu, ops, _scale(held, relu.shape[1])) for ops, held in convolutions])
    return total.chunk(len(convolutions[0][1]), dim=1)


def _merged(relu: Tensor, ops: Sequence[Any], scale: Tensor | None) -> Tensor:
    """An operation of E edges, from the state's ReLU [B, C, H, W] to [B, E C, H', W']."""
    y = relu
    for first in range(0, len(ops[0]), 4):
        conv, groups = ops[0][first + 1], 1 if first == 0 else len(ops)
        dilation = conv.dilation[0]
        depthwise = [reached(op[first + 1].weight, y, dilation) for op in ops]
        kernel = dense_kernel(depthwise, [op[first + 2].weight for op in ops])
        y = F.conv2d(y, kernel, None, conv.stride, dilation * (kernel.shape[-1] // 2), dilation, groups)
        last = first + 4 == len(ops[0])
        y = batch_norm(y, scale) if last else F.relu(batch_norm(y, None))
    return y


def dense_kernel(depthwise: Sequence[Tensor], pointwise: Sequence[Tensor]) -> Tensor:
    """Depthwise [C, 1, k, k] then 1x1 [C', C, 1, 1], per edge, as one dense kernel [E C', C, k, k]."""
    dw = torch.stack(tuple(depthwise)).permute(0, 2, 1, 3, 4)  # [E, 1, C, k, k]
    return (torch.stack(tuple(pointwise)) * dw).flatten(0, 1)


def _factorized_reduce(relu: Tensor, ops: Sequence[Any], scale: Tensor | None) -> Sequence[Tensor]:
    height, width = relu.shape[-2:]
    if height % 2 or width % 2:
        relu = F.pad(relu, (0, width % 2, 0, height % 2))
    first = F.conv2d(relu, torch.cat([op.conv_1.weight for op in ops]), stride=2)
    second = F.conv2d(relu[:, :, 1:, 1:], torch.cat([op.conv_2.weight for op in ops]), stride=2)
    halves = [y.unflatten(1, (len(ops), -1)) for y in (first, second)]
    return batch_norm(torch.cat(halves, dim=2).flatten(1, 2), scale).chunk(len(ops), dim=1)


def batch_norm(x: Tensor, scale: Tensor | None) -> Tensor:
    """Batch norm by the batch's own statistics, as every cell of a supernet has it, with a given scale."""
    return F.batch_norm(x, None, None, scale, None, True, 0.0, BATCH_NORM_EPS)


def _scale(held: Held, channels: int) -> Tensor | None:
    """The weights of E edges as a scale per channel [E C]; None when all are 1."""
    given = [weight for _, weight in held if weight is not None]
    return torch.stack(given).repeat_interleave(channels) if len(given) == len(held) else None


def _times(y: Tensor, weight: Tensor | None) -> Tensor:
    return y if weight is None else weight * y


def _sum(maps: Sequence[Tensor]) -> Tensor:
    total = maps[0]
    for y in maps[1:]:
        total = total + y
    return total
