"""Random resized crops: a random box of each image, resized to the full image size; bit-identical on every device.

The distribution is that of torchvision's RandomResizedCrop: a box has a random share of the area and a ratio of width
to height between 3/4 and 4/3, uniform on a logarithmic scale (here in 4,096 steps). Of ten tries the first box that
fits is used. If none fits, the largest allowed box is used, at a random position (torchvision centres it). Boxes are
only ever enlarged, so antialiasing would change nothing. Positions and weights are integers in units of 2^-11 pixels,
so the weighted mean of four pixels is exact; the result is rounded to 8 bits, as in torchvision.

Shapes: N images in a split, B in a batch, each [H, W, C].
"""

from typing import NamedTuple

import torch
from torch import Tensor

TRIES = 10
RATIO = 4 / 3
ROOTS = [RATIO ** ((2 * step + 1) / 8192 - 0.5) for step in range(4096)]  # square roots of the ratios
BITS = 11
ONE = 1 << BITS  # represents a pixel; the product of two weights and an 8-bit pixel fits in an int32


class Boxes(NamedTuple):
    """Four int64 tensors [B]: upper left corner and size, in pixels."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def select(self, samples: slice) -> "Boxes":
        return Boxes(*(tensor[samples] for tensor in self))


def box_sizes(area: Tensor, root: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Height and width [B] of the first box that fits in an image of height x width, in pixels.

    Args:
        area: Shares of the image's area, float64 [TRIES, B].
        root: Square roots of the ratios of width to height, float64 [TRIES, B].
        height: Height of the image.
        width: Width of the image.
    """
    # Products, quotients and square roots are rounded in the same way on every device; powers and logarithms are not.
    side = (area * (height * width)).sqrt()
    heights, widths = (side / root).round().long(), (side * root).round().long()
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = (fits * torch.arange(TRIES, 0, -1, device=fits.device)[:, None]).argmax(0, keepdim=True)
    any_fits = fits.any(0)
    largest = largest_box(height, width)
    return tuple(
        torch.where(any_fits, sides.gather(0, first)[0], fallback)
        for sides, fallback in zip((heights, widths), largest, strict=True)
    )  # type: ignore[return-value]


def largest_box(height: int, width: int) -> tuple[int, int]:
    """Height and width of the largest box with an allowed ratio, in pixels."""
    if width * 4 < height * 3:
        return round(width * RATIO), width
    return height, min(width, round(height * RATIO))


def crop_and_resize(images: Tensor, which: Tensor, boxes: Boxes, mirror: Tensor | None) -> Tensor:
    """Resize a box of each selected image to the full size by bilinear interpolation: uint8 [B, H, W, C].

    Pixels outside a box are not read.

    Args:
        images: uint8 [N, H, W, C].
        which: Indices of the selected images, [B].
        boxes: One box per selected image.
        mirror: Which results to mirror left-right, bool [B]; None for none.
    """
    count, (_, height, width, channels) = len(which), images.shape
    upper_row, lower_row, row_weight = neighbours(boxes.top, boxes.height, height)
    left_column, right_column, column_weight = neighbours(boxes.left, boxes.width, width)
    if mirror is not None:
        left_column, right_column, column_weight = (
            torch.where(mirror[:, None], t.flip(1), t) for t in (left_column, right_column, column_weight)
        )
    rows = images.view(-1, width * channels)
    first = which[:, None] * height
    upper, lower = (rows.index_select(0, (first + at).flatten()).int() for at in (upper_row, lower_row))
    resized = interpolate(upper, lower, row_weight.view(-1, 1)).view(count, height, -1)  # vertically
    entries = torch.arange(channels, device=images.device)
    left, right = (
        resized.gather(2, (at[:, :, None] * channels + entries).flatten(1)[:, None].expand(-1, height, -1))
        for at in (left_column, right_column)
    )
    weights = column_weight.repeat_interleave(channels, 1)[:, None]
    values = (interpolate(left, right, weights) + (1 << (2 * BITS - 1))) >> (2 * BITS)
    return values.to(torch.uint8).view(count, height, width, channels)


def neighbours(start: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For resizing `length` pixels from `start` to `size` pixels: the two source pixels of each new one.

    Returns:
        Positions of the first and of the second source pixel, and the weight of the second in units of 1 / ONE (int32);
        [B, size] each.
    """
    odd = torch.arange(1, 2 * size, 2, device=start.device)  # centres of the new pixels, in halves of one
    at = odd * length[:, None] * ONE // (2 * size) - ONE // 2  # relative to the centre of the first source pixel
    at = torch.minimum(at.clamp(min=0), (length[:, None] - 1) * ONE)
    first = at >> BITS
    second = torch.minimum(first + 1, length[:, None] - 1)
    return start[:, None] + first, start[:, None] + second, (at & (ONE - 1)).int()


def interpolate(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """ONE times the weighted mean, where `weight` is that of the second in units of 1 / ONE."""
    return first * ONE + (second - first) * weight
