"""Candidate operations and the small blocks that cells are made of (DARTS, cnn/operations.py).

Shapes: an operation maps [B, C, H, W] to [B, C, ceil(H / stride), ceil(W / stride)].
`affine` is False in a supernet, where the architecture variables would compete with the scales, and True in a network.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.spaces.blocks import kernels

Factory = Callable[[int, int, bool], nn.Module]  # channels, stride, affine
OPS: dict[str, Factory] = {}


def register_op(name: str) -> Callable[[Factory], Factory]:
    """Register a factory under a name. Raises ValueError if the name is taken."""

    def register(factory: Factory) -> Factory:
        if name in OPS:
            raise ValueError(f"'{name}' is already registered")
        OPS[name] = factory
        return factory

    return register


def batch_norm(channels: int, affine: bool) -> nn.Module:
    """Batch norm with scales and running statistics in a network, with neither in a supernet.

    A supernet is evaluated with the statistics of the batch (as in IS-NAS' base method), so a cell needs no buffers.
    DARTS keeps running statistics, which affect only its logged validation accuracy.
    """
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=affine)


class Zero(nn.Module):
    """No connection: zeros. Stride 2 halves the map."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution. On a CPU in channels-last it is the matrix product of nas.spaces.blocks.kernels."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not kernels.suit(x):
            return super().forward(x)
        return kernels.pointwise(x[:, :, :: self.stride[0], :: self.stride[1]], self.weight)


class FactorizedReduce(nn.Module):
    """Halve the map without losing pixels: two stride-2 1x1 convolutions, the second shifted by one pixel.

    DARTS needs even maps. An odd map gets a row or column of zeros, so any image size works (ours).
    """

    def __init__(self, c_in: int, c_out: int, affine: bool) -> None:
        super().__init__()
        self.conv_1 = PointwiseConv2d(c_in, c_out // 2, stride=2)
        self.conv_2 = PointwiseConv2d(c_in, c_out // 2, stride=2)
        self.bn = batch_norm(c_out, affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        height, width = x.shape[-2:]
        if height % 2 or width % 2:
            x = F.pad(x, (0, width % 2, 0, height % 2))
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1))


def relu_conv_bn(c_in: int, c_out: int, affine: bool) -> nn.Module:
    """ReLU, 1x1 convolution, batch norm: [B, c_in, H, W] -> [B, c_out, H, W]."""
    return nn.Sequential(
        nn.ReLU(),  # never in place: every candidate of the edge reads the same tensor
        PointwiseConv2d(c_in, c_out),
        batch_norm(c_out, affine),
    )


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution, `same` padding. On a CPU in channels-last it is that of nas.spaces.blocks.kernels."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int) -> None:
        padding = dilation * (kernel - 1) // 2
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not kernels.suit(x):
            return super().forward(x)
        stride, dilation = self.stride[0], self.dilation[0]
        if stride == dilation == 2:  # it reads only every second row and column
            x, stride, dilation = x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last), 1, 1
        return kernels.depthwise(x, self.weight, stride, dilation)


def separable(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    """ReLU, depthwise k x k, 1x1, batch norm."""
    return [
        nn.ReLU(),
        DepthwiseConv2d(channels, kernel, stride, dilation),
        PointwiseConv2d(channels, channels),
        batch_norm(channels, affine),
    ]


@register_op("none")
def none(channels: int, stride: int, affine: bool) -> nn.Module:
    return Zero(stride)


@register_op("max_pool_3x3")
def max_pool_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.MaxPool2d(3, stride, padding=1)


@register_op("avg_pool_3x3")
def avg_pool_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)


@register_op("skip_connect")
def skip_connect(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


@register_op("sep_conv_3x3")
def sep_conv_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(*separable(channels, 3, stride, 1, affine), *separable(channels, 3, 1, 1, affine))


@register_op("sep_conv_5x5")
def sep_conv_5x5(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(*separable(channels, 5, stride, 1, affine), *separable(channels, 5, 1, 1, affine))


@register_op("dil_conv_3x3")
def dil_conv_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(*separable(channels, 3, stride, 2, affine))


@register_op("dil_conv_5x5")
def dil_conv_5x5(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(*separable(channels, 5, stride, 2, affine))


def supernet_op(name: str, channels: int, stride: int) -> nn.Module:
    """The candidate in a supernet: without affine scales, and with a batch norm after pools (DARTS)."""
    op = OPS[name](channels, stride, False)
    return nn.Sequential(op, batch_norm(channels, False)) if "pool" in name else op


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Zero whole samples with `probability`, scale the rest by 1 / (1 - probability)."""
    keep = 1.0 - probability
    mask = torch.empty(x.shape[0], 1, 1, 1, device=x.device, dtype=x.dtype).bernoulli_(keep)
    return x * (mask / keep)
