"""Random resized crops: a box of each image, stretched to the whole, all in one go and the same bits on every device.

The law is that of torchvision's RandomResizedCrop: the box has a random share of the area and a ratio of width to
height between 3/4 and 4/3, even on a logarithmic scale (in 4,096 steps here); of ten tries the first that fits counts,
else the largest box (somewhere; torchvision's lies in the middle). A box only grows, so there is nothing that
antialiasing would change. Positions and weights are whole numbers of 2^-11 pixels, so the mean of four pixels is exact;
what comes out is rounded to 8 bits, as torchvision's is.

Shapes: N images of a split, B of a batch, [H, W, C] of one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

TRIES = 10
RATIO = 4 / 3
ROOTS = [RATIO ** ((2 * step + 1) / 8192 - 0.5) for step in range(4096)]  # square roots of the ratios
BITS = 11
ONE = 1 << BITS  # a pixel; with the products of two weights 8 bits of a pixel fill an int32


class Boxes(NamedTuple):
    """Four tensors, int64 [B]: upper left corner and size, in pixels."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def part(self, of: slice) -> "Boxes":
        return Boxes(*(tensor[of] for tensor in self))


def sizes(area: Tensor, root: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Height and width [B] of the first of the tries that fits in an image of height x width.

    area: float64 [TRIES, B], shares of the image's; root: float64 [TRIES, B], square roots of the ratios.
    """
    # products, quotients and roots are rounded alike everywhere, which powers and logarithms are not
    side = (area * (height * width)).sqrt()
    tall, long = (side / root).round().long(), (side * root).round().long()
    fits = (tall >= 1) & (tall <= height) & (long >= 1) & (long <= width)
    first = (fits * torch.arange(TRIES, 0, -1, device=fits.device)[:, None]).argmax(0, keepdim=True)
    found = fits.any(0)
    largest = largest_box(height, width)
    return tuple(
        torch.where(found, side.gather(0, first)[0], whole) for side, whole in zip((tall, long), largest, strict=True)
    )  # type: ignore[return-value]


def largest_box(height: int, width: int) -> tuple[int, int]:
    """Of the ratios that are allowed."""
    if width * 4 < height * 3:
        return round(width * RATIO), width
    return height, min(width, round(height * RATIO))


def stretched(images: Tensor, which: Tensor, boxes: Boxes, mirror: Tensor | None) -> Tensor:
    """The boxes of the images `which` [B], stretched to [B, H, W, C] by bilinear means; mirrored where `mirror` [B].

    images: uint8 [N, H, W, C]. Outside a box nothing is read.
    """
    count, (_, height, width, channels) = len(which), images.shape
    above, under, down = between(boxes.top, boxes.height, height)
    left, right, along = between(boxes.left, boxes.width, width)
    if mirror is not None:
        left, right, along = (torch.where(mirror[:, None], t.flip(1), t) for t in (left, right, along))
    lines = images.view(-1, width * channels)
    first = which[:, None] * height
    upper, lower = (lines.index_select(0, (first + at).flatten()).int() for at in (above, under))
    tall = mixed(upper, lower, down.view(-1, 1)).view(count, height, -1)
    entries = torch.arange(channels, device=images.device)
    before, behind = (
        tall.gather(2, (at[:, :, None] * channels + entries).flatten(1)[:, None].expand(-1, height, -1))
        for at in (left, right)
    )
    weights = along.repeat_interleave(channels, 1)[:, None]
    values = (mixed(before, behind, weights) + (1 << (2 * BITS - 1))) >> (2 * BITS)
    return values.to(torch.uint8).view(count, height, width, channels)


def between(start: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Between which two of `length` positions from `start` on each of `size` new ones lies, the weight of the second
    in parts of ONE: [B, size] each, the weight int32."""
    places = torch.arange(1, 2 * size, 2, device=start.device)
    at = places * length[:, None] * ONE // (2 * size) - ONE // 2  # centres of pixels fall on centres of pixels
    at = torch.minimum(at.clamp(min=0), (length[:, None] - 1) * ONE)
    first = at >> BITS
    second = torch.minimum(first + 1, length[:, None] - 1)
    return start[:, None] + first, start[:, None] + second, (at & (ONE - 1)).int()


def mixed(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """ONE times the weighted mean."""
    return first * ONE + (second - first) * weight
