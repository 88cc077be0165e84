"""The convolutions and batch norms of several edges as one each: the same function in fewer, larger kernels.

A cell has up to 28 passes (ReLU, convolution, batch norm) of a few channels. On small maps most of their time is the
cost of starting a kernel, which does not depend on the number of channels. The functions here take the passes of several
edges at once and use the edges' own parameters and statistics. They differ from the passes one by one in rounding only.

Shape legend: B batch, H x W the map; u, m, s channels at the input, in the middle and at the output of an edge.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.spaces.blocks import kernels

SMALL = 2**21  # B H W C^2 up to which groups of edges are faster than single ones on a CPU: bench/channels.py


def is_small(x: Tensor, channels: int) -> bool:
    """Whether edges that read maps like x [B, ., H, W] with this number of channels are computed in groups."""
    batch, _, height, width = x.shape
    return batch * height * width * channels**2 <= SMALL


def owners(counts: Sequence[int]) -> Tensor:
    """[sum of counts, len(counts)]: a one in each row, in the column of the edge that owns the channel."""
    return torch.block_diag(*(torch.ones(count, 1) for count in counts))


def of_one_input(x: Tensor, passes: Sequence[Any], owner: Tensor) -> Tensor:
    """The convolutions of passes that read the same x [B, u, H, W]: [B, sum m, H', W'].

    A depthwise convolution followed by a 1x1 becomes one dense convolution, whose kernel is the product of both: the
    additional arithmetic costs less than one more kernel. `owner`: owners of the output channels.
    """
    pointwise = torch.cat([one.convolution.weight for one in passes])
    if passes[0].depthwise is None:
        conv = passes[0].convolution
        return F.conv2d(x, pointwise, None, conv.stride, conv.padding)
    conv = passes[0].depthwise
    stride, dilation = conv.stride[0], conv.dilation[0]
    if stride == dilation == 2:  # it reads every second row and column only
        x, stride, dilation = x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last), 1, 1
    depthwise = torch.stack([one.depthwise.weight for one in passes])  # [E, u, 1, k, k]
    depthwise = kernels.reached(depthwise, max(x.shape[-2:]), dilation)
    square = depthwise.shape[-1]
    each = (owner @ depthwise.flatten(1)).unflatten(1, (-1, square, square))  # [sum m, u, k, k]
    return F.conv2d(x, pointwise * each, None, stride, dilation * (square // 2), dilation)


def of_own_inputs(x: Tensor, passes: Sequence[Any]) -> Tensor:
    """The separable convolutions of passes that read channels of their own: [B, sum m, H, W] -> [B, sum s, H, W]."""
    conv = passes[0].depthwise
    depthwise = torch.cat([one.depthwise.weight for one in passes])
    pointwise = [one.convolution.weight.flatten(1) for one in passes]
    whole = torch.block_diag(*pointwise) if len(passes) > 1 else pointwise[0]
    if kernels.suit(x):
        x = kernels.depthwise(x, depthwise, conv.stride[0], conv.dilation[0])
    else:
        x = F.conv2d(x, depthwise, None, conv.stride, conv.padding, conv.dilation, len(depthwise))
    return kernels.pointwise(x, whole)


def batch_norm(x: Tensor, norms: Sequence[Any]) -> Tensor:
    """Affine batch norms of channels next to each other, by the batch's statistics; updates the running ones."""
    if len(norms) == 1:
        y: Tensor = norms[0](x)
        return y
    means, variances = [norm.running_mean for norm in norms], [norm.running_var for norm in norms]
    mean, variance = torch.cat(means), torch.cat(variances)
    weight, bias = (torch.cat([getattr(norm, name) for norm in norms]) for name in ("weight", "bias"))
    x = F.batch_norm(x, mean, variance, weight, bias, True, norms[0].momentum, norms[0].eps)
    counts = [len(part) for part in means]
    torch._foreach_copy_(means + variances, [*mean.split(counts), *variance.split(counts)])
    torch._foreach_add_([norm.num_batches_tracked for norm in norms], 1)
    return x


def rows(x: Tensor) -> Tensor:
    """[B, C, H, W] as [B H W, C]; no copy of a channels-last map."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)
