"""The supernet cell that runs all edges of a state at once: the same sums as the reference cell, in far fewer kernels.

- The cells of a type share the weights of their operations, so these are sorted by operation only once (`Running`).
- The edges share their input, so they share its ReLU, its pools and the pools' batch norms.
- The same operation of several edges is one convolution, and the weight of an operation is the scale of its last
  batch norm, instead of a product and a sum per operation.
- A depthwise convolution followed by a 1x1 has two forms. `factored`: two steps, the second of which is one matrix
  product together with its batch norm (nas.spaces.blocks.kernels). `merged`: one dense convolution whose kernel is
  built from both (exact, since nothing non-linear lies between them). It needs more arithmetic, which matrix units
  do at no extra cost.

Shape legend: B batch, C width of the cell, E edges that leave the state and hold the operation, H x W the map.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.architectures.cell_shape import DARTS_EDGES, NODES
from nas.architectures.darts import PRIMITIVES
from nas.engine.placement import prefers_merged
from nas.spaces.blocks.kernels import depthwise, normed_relu, normed_sum, reached, repeat_channels
from nas.spaces.blocks.mixing import Held, Part, Running, batch_norm, summed, times, weighted

LEAVING = tuple(tuple(e for e, (_, pred) in enumerate(DARTS_EDGES) if pred == state) for state in range(1 + NODES))


def run_nodes(mixed_ops: Any, inputs: Sequence[Tensor], running: Running, skip_dropout: float) -> list[Tensor]:
    """The intermediate nodes of a cell, computed from its preprocessed inputs and what runs on its edges.

    `mixed_ops`: the 14 MixedOps of the cell, whose weights are used in place.
    """
    states = list(inputs)
    incoming: dict[int, list[Tensor]] = defaultdict(list)
    for state, leaving in enumerate(LEAVING):
        if state >= 2:
            states.append(summed(incoming[state]))
        for e, y in _leave(states[state], mixed_ops, leaving, running, skip_dropout):
            incoming[DARTS_EDGES[e][0]].append(y)
    return [*states[2:], summed(incoming[1 + NODES])]


def _leave(x: Tensor, mixed_ops: Any, leaving: tuple[int, ...], running: Running, skip_dropout: float) -> list[Part]:
    """The maps of every edge that leaves the state x, at least one per edge."""
    stride = mixed_ops[leaving[0]].stride
    relu = F.relu(x)
    parts: list[Part] = []
    plain: list[tuple[Tensor, Held]] = []  # maps that all edges with the operation share
    convolutions: dict[tuple[int, ...], list[tuple[list[Any], Held]]] = defaultdict(list)  # by the edges that have them
    for op, held in running.leaving(leaving).items():
        name = PRIMITIVES[op]
        ops = [mixed_ops[e].ops[op] for e in held.edges]
        if name == "none":
            continue  # adds zero; its weight only lowers the share of the others
        if name == "skip_connect" and stride == 1:
            if skip_dropout and ops[0].training:
                parts += [(e, times(F.dropout(x, skip_dropout), w)) for e, w in held]
            else:
                plain.append((x, held))
        elif name == "skip_connect":
            parts += zip(held.edges, _factorized_reduce(relu, ops, held.scale(x.shape[1])), strict=True)
        elif "pool" in name:
            plain.append((batch_norm(ops[0][0](x), None), held))
        else:
            convolutions[held.edges].append((ops, held))
    form = merged if prefers_merged(x) else factored
    for edges, some in convolutions.items():
        parts += zip(edges, form(relu, some), strict=True)
    parts += weighted(plain)
    empty = set(leaving) - {e for e, _ in parts}
    return parts + [(e, mixed_ops[e].ops[0](x)) for e in sorted(empty)]


def factored(relu: Tensor, convolutions: Sequence[tuple[list[Any], Held]]) -> Sequence[Tensor]:
    """The weighted sum of the separable and dilated convolutions that the same E edges have: E maps [B, C, H', W']."""
    count = len(convolutions[0][1].edges)
    inputs: dict[bool, Tensor] = {}  # of all pixels, or of every second row and column; [B, E C, H, W]
    maps, kernels = [], []
    for ops, _ in convolutions:
        conv = ops[0][1]
        skips = conv.stride[0] == conv.dilation[0] == 2  # then it reads only every second row and column
        if skips not in inputs:
            read = relu[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last) if skips else relu
            inputs[skips] = repeat_channels(read, count)
        stride, dilation = (1, 1) if skips else (conv.stride[0], conv.dilation[0])
        y = inputs[skips]
        for first in range(0, len(ops[0]), 4):  # halves of four modules: ReLU, depthwise, 1x1, batch norm
            y = depthwise(y, torch.cat([op[first + 1].weight for op in ops]), stride, dilation)
            kernel = torch.stack([op[first + 2].weight.flatten(1) for op in ops]).mT  # [E, C, C']
            if first + 4 < len(ops[0]):
                y, stride = normed_relu(y, kernel), 1
        maps.append(y)
        kernels.append(kernel)
    weights = [held.weights for _, held in convolutions if held.weights is not None]
    table = torch.stack(weights) if weights else None
    return normed_sum(maps, torch.stack(kernels), table)


def merged(relu: Tensor, convolutions: Sequence[tuple[list[Any], Held]]) -> Sequence[Tensor]:
    """The same result as `factored`."""
    edges, maps = len(convolutions[0][1].edges), []
    dense = iter(dense_kernels(relu, [ops for ops, _ in convolutions]))
    for ops, held in convolutions:
        y = relu
        for first in range(0, len(ops[0]), 4):
            conv, kernel, groups = ops[0][first + 1], next(dense), 1 if first == 0 else edges
            dilation = conv.dilation[0]
            y = F.conv2d(y, kernel, None, conv.stride, dilation * (kernel.shape[-1] // 2), dilation, groups)
            last = first + 4 == len(ops[0])
            y = batch_norm(y, held.scale(relu.shape[1])) if last else F.relu(batch_norm(y, None))
        maps.append(y)
    return summed(maps).chunk(edges, dim=1)


def dense_kernels(x: Tensor, convolutions: Sequence[Sequence[Any]]) -> list[Tensor]:
    """The halves of operations on E edges as dense kernels [E C', C, k, k], in order.

    A half is a depthwise [C, 1, k, k] and a 1x1 [C', C, 1, 1] kernel per edge. Kernels of the same size are computed
    together. x [B, C, H, W] is the input of the operations.
    """
    sizes: dict[int, list[int]] = defaultdict(list)  # size of a kernel -> the places in the row of halves
    depthwise: list[list[Tensor]] = []
    pointwise: list[list[Tensor]] = []
    for ops in convolutions:
        side = max(x.shape[-2:])
        for first in range(0, len(ops[0]), 4):
            conv = ops[0][first + 1]
            weights = [reached(op[first + 1].weight, side, conv.dilation[0]) for op in ops]
            sizes[weights[0].shape[-1]].append(len(depthwise))
            depthwise.append(weights)
            pointwise.append([op[first + 2].weight for op in ops])
            side = -(-side // conv.stride[0])
    dense: dict[int, Tensor] = {}
    for places in sizes.values():
        dw = torch.stack([w for at in places for w in depthwise[at]]).transpose(1, 2)  # [halves E, 1, C, k, k]
        pw = torch.stack([w for at in places for w in pointwise[at]])  # [halves E, C', C, 1, 1]
        kernels = (pw * dw).flatten(0, 1).chunk(len(places))
        dense |= dict(zip(places, kernels, strict=True))
    return [dense[at] for at in range(len(depthwise))]


def _factorized_reduce(relu: Tensor, ops: Sequence[Any], scale: Tensor | None) -> Sequence[Tensor]:
    height, width = relu.shape[-2:]
    if height % 2 or width % 2:
        relu = F.pad(relu, (0, width % 2, 0, height % 2))
    first = F.conv2d(relu, torch.cat([op.conv_1.weight for op in ops]), stride=2)
    second = F.conv2d(relu[:, :, 1:, 1:], torch.cat([op.conv_2.weight for op in ops]), stride=2)
    halves = [y.unflatten(1, (len(ops), -1)) for y in (first, second)]
    return batch_norm(torch.cat(halves, dim=2).flatten(1, 2), scale).chunk(len(ops), dim=1)
