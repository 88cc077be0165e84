"""The most expensive operations of a cell in forms that are fast on a CPU. Other devices use torch's own operations.

- A 1x1 convolution in channels-last as a matrix product: half the time of oneDNN's (torch 2.15).
- A depthwise convolution in channels-last whose gradients avoid oneDNN's slow paths (up to ten times slower, torch
  2.15): those of a dilated one are computed on interleaved maps, those of a kernel wider than three column by column.
- A 1x1 convolution followed by batch norm as one matrix product: the moments of its input give the mean and variance
  of its output, so the norm becomes a scale of the kernel and a bias, and its gradient is a matrix product too.

Shape legend: B batch, K operations, E edges, C channels in, D channels out, H x W the map, N = B H W.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BATCH_NORM_EPS = 1e-5
NARROW = 16  # up to this many channels a product with an identity copies a map faster


def suit(x: Tensor) -> bool:
    """Whether these forms are faster for x [B, C, H, W]. This includes NCHW maps of a single channel or pixel, which
    have both layouts at once."""
    return (
        x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled("cpu")
    )


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """The 1x1 convolution of x [B, C, H, W], channels-last, with weight [D, C, 1, 1]."""
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """The depthwise convolution of x [B, C, H, W] with weight [C, 1, k, k] and `same` padding; k is 3, 5 or 7.

    Dilation is 1 or 2; with dilation 2 the stride is 1.
    """
    weight = reached(weight, max(x.shape[-2:]), dilation)
    return _Depthwise.apply(x, weight, stride, dilation if weight.shape[-1] > 1 else 1)


def reached(weight: Tensor, side: int, dilation: int) -> Tensor:
    """The part of a kernel [.., k, k] that reads more than padding somewhere on a map whose longer side is `side`."""
    spare = weight.shape[-1] // 2 - (side - 1) // dilation
    return weight[..., spare:-spare, spare:-spare] if spare > 0 else weight


class _Depthwise(torch.autograd.Function):
    """The backward pass consists of differentiable operations, so that second derivatives exist."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.dilation = stride, dilation
        return F.conv2d(x, weight, None, stride, dilation * (weight.shape[-1] // 2), dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        size, spread = x.shape[-2:], ctx.dilation == 2
        if spread:
            grad, weight = _interleaved_maps(grad), weight.repeat(2, 1, 1, 1)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            like = grad if spread else x  # its values are not used
            of_x = _gradients(grad, like, weight, ctx.stride, weight.shape[-1] // 2, (True, False))[0]
            of_x = _whole_map(of_x, *size) if spread else of_x
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(grad, _interleaved_maps(x) if spread else x, weight, ctx.stride)
            of_weight = of_weight.unflatten(0, (2, -1)).sum(0) if spread else of_weight
        return of_x, of_weight, None, None


def _interleaved_maps(x: Tensor) -> Tensor:
    """The four maps of even and odd rows and columns: [B, C, H, W] -> [2 B, 2 C, ceil(H / 2), ceil(W / 2)].

    A convolution of dilation 2 is one of dilation 1 on each map. In channels-last the columns need no copy.
    """
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    rows = x.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).flatten(3).unflatten(1, (-1, 2))  # [B, H/2, 2, W/2, 2 C]
    return rows.transpose(1, 2).flatten(0, 1).permute(0, 3, 1, 2)


def _whole_map(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `_interleaved_maps`."""
    rows = x.permute(0, 2, 3, 1).unflatten(0, (-1, 2)).transpose(1, 2).flatten(1, 2)  # [B, H, W/2, 2 C]
    return rows.unflatten(3, (2, -1)).flatten(2, 3)[:, :height, :width].permute(0, 3, 1, 2)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """oneDNN's fast gradient handles kernels of up to three columns, so the outer columns are computed separately.

    For 7x7 with stride 2 the whole kernel is faster.
    """
    half = weight.shape[-1] // 2
    if half < 2 or half * stride == 6:
        return _gradients(grad, x, weight, stride, half, (False, True))[1]
    middle = _gradients(grad, x, weight[..., half - 1 : half + 2], stride, (half, 1), (False, True))[1]
    before = [_column_gradient(grad, x, weight, stride, at) for at in range(-half, -1)]
    after = [_column_gradient(grad, x, weight, stride, at) for at in range(2, half + 1)]
    return torch.cat([*before, middle, *after], dim=-1)


def _column_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, at: int) -> Tensor:
    """The gradient of the column of the kernel that is `at` columns from its middle."""
    half, width = weight.shape[-1] // 2, x.shape[-1]
    column = weight[..., half + at : half + at + 1]
    skipped = -(at // stride) if at < 0 else 0  # pixels whose neighbour is in the padding
    if width <= (stride * skipped if at < 0 else at):  # it reads only padding
        return torch.zeros_like(column)
    if at < 0:
        grad, x = grad[..., skipped:], x[..., stride * skipped + at : width + at]
    else:
        grad, x = grad[..., : -(-(width - at) // stride)], x[..., at:]
    return _gradients(grad, x, column, stride, (half, 0), (False, True))[1]


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int | tuple[int, int], wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    pads = [padding, padding] if isinstance(padding, int) else list(padding)
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, pads, [1, 1], False, [0, 0], len(weight), [*wanted, False]
    )
    return gradients[0], gradients[1]


def repeat_channels(x: Tensor, count: int) -> Tensor:
    """`count` copies of x [B, C, H, W], concatenated by channel: [B, count C, H, W], channels-last."""
    channels = x.shape[1]
    if count == 1:
        return x
    if channels > NARROW:
        return torch.cat([x] * count, dim=1)
    copies = torch.eye(channels, dtype=x.dtype, device=x.device).repeat(1, count)
    return (x.permute(0, 2, 3, 1) @ copies).permute(0, 3, 1, 2)


def normed_relu(x: Tensor, kernel: Tensor) -> Tensor:
    """ReLU(batch norm(1x1 convolution)) of E edges, whose maps are concatenated by channel.

    x: [B, E C, H, W], channels-last; kernel: [E, C, D]; result: [B, E D, H, W], channels-last.
    """
    batch, _, height, width = x.shape
    flat = _NormedProducts.apply(True, kernel[None], None, _edges(x, len(kernel)))
    return flat.transpose(0, 1).reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def normed_sum(maps: Sequence[Tensor], kernels: Tensor, weights: Tensor | None) -> list[Tensor]:
    """The weighted sum over K operations of batch norm(1x1 convolution), per edge.

    maps: K times [B, E C, H, W], channels-last; kernels: [K, E, C, D]; weights: [K, E], None for 1;
    result: E times [B, D, H, W], channels-last.
    """
    batch, _, height, width = maps[0].shape
    edges = [_edges(x, kernels.shape[1]) for x in maps]
    flat = _NormedProducts.apply(False, kernels, weights, *edges)
    # split before they are permuted, so that their gradients have the same layout
    return [y.unflatten(0, (batch, height, width)).permute(0, 3, 1, 2) for y in flat.unbind()]


def _edges(x: Tensor, edges: int) -> Tensor:
    """[B, E C, H, W], channels-last, as [E, N, C], without a copy."""
    return x.permute(0, 2, 3, 1).flatten(0, 2).unflatten(1, (edges, -1)).transpose(0, 1)


def _affine(x: Tensor, product: Tensor, bias: Tensor, wide: bool) -> Tensor:
    """x [E, N, C] @ product [E, C, D] + bias [E, 1, D]. `wide`: the memory is [N, E, D], as depthwise ones read."""
    if not wide:
        return torch.baddbmm(bias, x, product)
    pixels, (edges, _, channels) = x.shape[1], product.shape
    flat = x.new_empty(pixels, edges * channels)
    y = flat.view(pixels, edges, channels).transpose(0, 1)
    torch.bmm(x, product, out=y)
    flat.add_(bias.flatten())
    return y


class _NormedProducts(torch.autograd.Function):
    """sum_k w_k batch norm(x_k @ P_k): x_k [E, N, C], P [K, E, C, D], w [K, E] or None. `relu`: then ReLU, wide."""

    @staticmethod
    def forward(ctx: Any, relu: bool, kernels: Tensor, weights: Tensor | None, *xs: Tensor) -> Tensor:
        small = [*moments(xs), kernels, *([] if weights is None else [weights])]
        small = [t.detach().requires_grad_() for t in small]
        with torch.enable_grad():
            folded = fold(*small)
        products, bias = (t.detach() for t in folded)
        y = _affine(xs[0], products[0], bias, wide=relu)
        for x, product in zip(xs[1:], products[1:], strict=True):
            y.baddbmm_(x, product)
        if relu:
            y.relu_()
        ctx.save_for_backward(*xs, *([y] if relu else []))
        ctx.relu, ctx.small, ctx.folded = relu, small, folded
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        xs = ctx.saved_tensors
        if ctx.relu:
            *xs, y = xs
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        of_products = torch.stack([torch.bmm(x.mT, grad) for x in xs])
        of_bias = grad.sum(1, keepdim=True)
        mean, second, of_kernels, *of_weights = torch.autograd.grad(ctx.folded, ctx.small, (of_products, of_bias))
        pixels, products = xs[0].shape[1], ctx.folded[0].detach()
        mean, second = mean / pixels, (second + second.mT) / pixels
        of_xs: list[Tensor | None] = [None] * len(xs)
        for k, x in enumerate(xs):
            if ctx.needs_input_grad[3 + k]:
                of_xs[k] = _affine(x, second[k], mean[k], wide=True).baddbmm_(grad, products[k].mT)
        return None, of_kernels, of_weights[0] if of_weights else None, *of_xs


def moments(xs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of K maps x [E, N, C]: the means [K, E, 1, C] and the mean product of every two channels [K, E, C, C]."""
    pixels = xs[0].shape[1]
    means = torch.stack([x.transpose(0, 1).flatten(1).sum(0) for x in xs]).unflatten(1, (len(xs[0]), 1, -1))
    return means.div_(pixels), torch.stack([torch.bmm(x.mT, x) for x in xs]).div_(pixels)


def fold(means: Tensor, second: Tensor, kernels: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """sum_k w_k batch norm(x_k @ kernel_k), without scale and shift, as sum_k x_k @ product_k + bias.

    x @ kernel has mean `mean @ kernel` and variance `kernel' cov(x) kernel`, so no pass over the pixels is needed.
    """
    covariance = second - means.mT @ means
    variance = (kernels * (covariance @ kernels)).sum(2, keepdim=True).clamp_min(0)  # rounding may leave -1e-9
    scale = (variance + BATCH_NORM_EPS).rsqrt()
    if weights is not None:
        scale = scale * weights[:, :, None, None]
    return kernels * scale, -((means @ kernels) * scale).sum(0)
