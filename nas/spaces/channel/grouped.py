"""The convolutions and batch norms of several edges as one each: the same function in fewer, larger kernels.

A cell has up to 28 passes (ReLU, convolution, batch norm) of a few channels. On small maps most of their time is the
cost of starting a kernel, which does not depend on the number of channels. The functions here take the passes of
several edges at once and use the edges' own parameters and statistics. They differ from the passes one by one in
rounding only.

Shape legend: B batch, H x W the map; u, m, s channels at the input, in the middle and at the output of an edge.
"""

from collections.abc import Sequence
from functools import cache
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nas.spaces.blocks import kernels

SMALL = 2**23  # B H W C^2 up to which groups were faster on a CPU: 5 cells of 8 to 32 channels, batch 96, 8x8 images
TINY = 2  # side of maps whose convolution is one product of whole maps
GROUPS = ((0, 1), (2,), (3,), (4,))  # states whose edges are computed together


def is_small(x: Tensor, channels: int) -> bool:
    """Whether edges that read maps like x [B, ., H, W] with this number of channels are computed in groups.

    On a CPU only: that is where it was measured.
    """
    batch, _, height, width = x.shape
    return x.device.type == "cpu" and batch * height * width * channels**2 <= SMALL


def owners(counts: Sequence[int]) -> Tensor:
    """[sum of counts, len(counts)]: a one in each row, in the column of the edge that owns the channel."""
    return torch.block_diag(*(torch.ones(count, 1) for count in counts))


class _Joined(torch.autograd.Function):
    """torch.cat of the first `counts[0]` tensors, of the next `counts[1]`, and so on, as one step of autograd."""

    @staticmethod
    def forward(ctx: Any, counts: Sequence[int], *tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        lists = [list(islice(rest, count)) for count in counts]
        ctx.shapes = [[part.shape for part in parts] for parts in lists]
        ctx.flat = [any(shape[1:] != shapes[0][1:] for shape in shapes) for shapes in ctx.shapes]
        pairs = zip(lists, ctx.flat, strict=True)
        return tuple(torch.cat([part.flatten() for part in parts] if flat else parts) for parts, flat in pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor | None] = [None]  # `counts` has none
        for grad, shapes, flat in zip(grads, ctx.shapes, ctx.flat, strict=True):
            parts = grad.split_with_sizes([shape.numel() if flat else shape[0] for shape in shapes])
            gradients += [part.view(shape) for part, shape in zip(parts, shapes, strict=True)] if flat else parts
        return tuple(gradients)


def joined(lists: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Each list of tensors concatenated along the first dimension; flattened where their other dimensions differ."""
    return list(_Joined.apply([len(parts) for parts in lists], *(part for parts in lists for part in parts)))


def weights(passes: Sequence[Any]) -> list[list[Tensor]]:
    """Kernels of the passes: those of the 1x1 or the only convolution, then those of the depthwise ones if any."""
    lists = [[one.convolution.weight for one in passes]]
    return lists if passes[0].depthwise is None else [*lists, [one.depthwise.weight for one in passes]]


def affine(passes: Sequence[Any]) -> list[list[Tensor]]:
    """Scales and shifts of the passes' batch norms."""
    return [[one.bn.weight for one in passes], [one.bn.bias for one in passes]]


def of_one_input(x: Tensor, one: Any, parts: Sequence[Tensor], owner: Tensor) -> Tensor:
    """The convolutions of passes like `one` that read the same x [B, u, H, W]: [B, sum m, H', W'].

    A depthwise convolution followed by a 1x1 becomes one dense convolution, whose kernel is the product of both: the
    additional arithmetic costs less than one more kernel. `parts`: weights of them, joined; `owner`: owners of the
    output channels.
    """
    if one.depthwise is None:
        return F.conv2d(x, parts[0], None, one.convolution.stride, one.convolution.padding)
    pointwise, depthwise = parts
    stride, dilation = one.depthwise.stride[0], one.depthwise.dilation[0]
    if stride == dilation == 2:  # it reads every second row and column only
        x, stride, dilation = x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last), 1, 1
    depthwise = kernels.reached(depthwise, max(x.shape[-2:]), dilation)
    square = depthwise.shape[-1]
    if owner.shape[1] > 1:  # the depthwise kernels of its edge for each output channel
        depthwise = (owner @ depthwise.reshape(owner.shape[1], -1)).view(len(pointwise), -1, square, square)
    else:
        depthwise = depthwise.transpose(0, 1)
    kernel = pointwise * depthwise
    if x.shape[-2] == x.shape[-1] == TINY and (stride, dilation) == (1, 1) and x.dtype == kernel.dtype:
        return of_tiny_maps(x, kernel)
    return F.conv2d(x, kernel, None, stride, dilation * (square // 2), dilation)


def of_tiny_maps(x: Tensor, kernel: Tensor) -> Tensor:
    """The convolution of maps [B, u, TINY, TINY] by kernel [s, u, 3, 3], `same` padding, as one product of whole maps:
    half the time of oneDNN's."""
    outputs, inputs, pixels = *kernel.shape[:2], TINY**2
    each = kernel.reshape(outputs * inputs, -1) @ taps(kernel.device).to(kernel.dtype)
    whole = each.view(outputs, inputs, pixels, pixels).permute(2, 1, 3, 0).reshape(pixels * inputs, pixels * outputs)
    y = x.permute(0, 2, 3, 1).flatten(1) @ whole
    return y.view(-1, TINY, TINY, outputs).permute(0, 3, 1, 2)


@cache
def taps(device: torch.device) -> Tensor:
    """[9, pixels in * pixels out] of a 3x3 kernel on maps of TINY x TINY: a one where a weight joins two pixels."""
    joins = torch.zeros(3, 3, TINY, TINY, TINY, TINY)
    for row, column, i, j in product(range(TINY), repeat=4):
        if abs(i - row) <= 1 and abs(j - column) <= 1:
            joins[i - row + 1, j - column + 1, i, j, row, column] = 1
    return joins.flatten(2).flatten(0, 1).to(device)


def of_own_inputs(x: Tensor, one: Any, parts: Sequence[Tensor], blocks: Tensor, outputs: int) -> Tensor:
    """The separable convolutions of passes like `one` that read channels of their own: [B, sum m, H, W] ->
    [B, sum s, H, W].

    The 1x1 convolutions are one, with a block-diagonal kernel; `blocks` are the places of their weights in it.
    """
    pointwise, depthwise = parts
    conv, inputs = one.depthwise, len(depthwise)
    if kernels.suit(x):
        x = kernels.depthwise(x, depthwise, conv.stride[0], conv.dilation[0])
    else:
        x = F.conv2d(x, depthwise, None, conv.stride, conv.padding, conv.dilation, inputs)
    if len(blocks) < outputs * inputs:
        pointwise = pointwise.new_zeros(outputs * inputs).index_copy(0, blocks, pointwise.flatten())
    return kernels.pointwise(x, pointwise.view(outputs, inputs))


def blocks(outputs: Sequence[int], inputs: Sequence[int]) -> Tensor:
    """Places of the weights of kernels [outputs, inputs] in a block-diagonal kernel, both flattened."""
    whole, row, column, places = sum(inputs), 0, 0, []
    for s, m in zip(outputs, inputs, strict=True):
        rows, columns = torch.arange(row, row + s), torch.arange(column, column + m)
        places.append((rows[:, None] * whole + columns).flatten())
        row, column = row + s, column + m
    return torch.cat(places)


class Statistics:
    """The running statistics of the batch norms of several passes, concatenated while a step updates them."""

    def __init__(self, passes: Sequence[Sequence[Any]], channels: Sequence[Sequence[int]]) -> None:
        """`passes`: groups of passes whose batch norms run as one. `channels`: of each of these batch norms."""
        self.counters = [one.bn.num_batches_tracked for some in passes for one in some]
        self.stored = [
            statistic
            for some in passes
            for statistics in ([one.bn.running_mean for one in some], [one.bn.running_var for one in some])
            for statistic in statistics
        ]
        self.lengths = [length for lengths in channels for length in (*lengths, *lengths)]
        self.whole = torch.cat(self.stored)
        self.rest = iter(self.whole.split_with_sizes([sum(lengths) for lengths in channels for _ in range(2)]))

    def next(self) -> tuple[Tensor, Tensor]:
        """Running means and variances of the next group."""
        return next(self.rest), next(self.rest)

    def store(self) -> None:
        torch._foreach_copy_(self.stored, self.whole.split_with_sizes(self.lengths))
        torch._foreach_add_(self.counters, 1)


def batch_norm(x: Tensor, one: Any, parts: Sequence[Tensor], statistics: Statistics) -> Tensor:
    """Batch norms like `one` of concatenated channels, by batch statistics; `parts`: joined scales and shifts."""
    (mean, variance), (scale, shift) = statistics.next(), parts
    return F.batch_norm(x, mean, variance, scale, shift, True, one.momentum, one.eps)


def rows(x: Tensor) -> Tensor:
    """[B, C, H, W] as [B H W, C]; no copy of a channels-last map."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def added(total: Tensor | None, x: Tensor, matrix: Tensor) -> Tensor:
    """`total` + the pixels of x [B, C, H, W], as rows, times the matrix."""
    pixels = rows(x)
    return pixels @ matrix if total is None else torch.addmm(total, pixels, matrix)
