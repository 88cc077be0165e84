"""Colour jitter: random brightness, contrast, saturation and hue for every image, bit-identical on every device.

Distribution and arithmetic are those of torchvision's ColorJitter on Pillow images, which ImageNet recipes commonly
use: each factor is uniform around 1 (here in steps of 1/4096), the hue shifts by whole levels out of 256, and each of
the four adjustments rounds to 8 bits as Pillow does. All arithmetic uses integers. torchvision draws the order of the
adjustments per image, and its v2 for tensors draws one set of factors per batch. Here the factors are drawn per image
and the order per batch, so that a batch takes four passes.

Shapes: B images in a batch, each [H, W, C] with C = 1 or 3. Saturation and hue leave a grey image unchanged.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BITS = 12
ONE = 1 << BITS  # represents a factor of 1; its products with 8-bit pixels are exact in Pillow's float32 too
LEVELS = 255  # levels of the hue circle in Pillow, where 255 and 0 are the same hue


class Jitter(NamedTuple):
    """Four int64 tensors [B]: three factors in units of 1 / ONE, and the hue shift in levels."""

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor

    def select(self, samples: slice) -> "Jitter":
        return Jitter(*(tensor[samples] for tensor in self))


def ranges(strengths: Sequence[float]) -> list[tuple[int, int]]:
    """Minimum and maximum of the four values of a Jitter, in its units.

    A factor lies between max(0, 1 - s) and 1 + s, the hue shift between -s and s turns of the hue circle.
    """
    *factors, hue = strengths
    shift = int(hue * LEVELS)
    return [*((round(max(0.0, 1 - s) * ONE), round((1 + s) * ONE)) for s in factors), (-shift, shift)]


def adjust(images: Tensor, jitter: Jitter, order: Sequence[int]) -> Tensor:
    """Apply the adjustments to uint8 images [B, H, W, C], in this order of the positions in Jitter."""
    values = images.int()
    for which in order:
        values = PROPERTIES[which](values, jitter[which].int().view(-1, 1, 1, 1))
    return values.to(torch.uint8)


def brightness(values: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return blend(torch.zeros_like(factor), values, factor)


def contrast(values: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey of the image."""
    levels = grey(values).flatten(1)
    count = levels.shape[1]
    mean = (2 * levels.sum(1) + count) // (2 * count)  # rounds to the nearest integer
    return blend(mean.int().view(-1, 1, 1, 1), values, factor)


def saturation(values: Tensor, factor: Tensor) -> Tensor:
    """Blend each pixel with its own grey."""
    return blend(grey(values), values, factor)


def hue(values: Tensor, shift: Tensor) -> Tensor:
    """Convert RGB to HSV with 8 bits each, shift the hue, and convert back."""
    if values.shape[-1] == 1:
        return values
    red, green, blue = values.unbind(-1)
    least, value = values.amin(-1), values.amax(-1)
    spread = value - least
    some = spread.clamp(min=1)  # a grey pixel has spread 0; every quotient below is then 0 / 1
    sector = torch.where(
        red == value, green - blue, torch.where(green == value, 2 * some + blue - red, 4 * some + red - green)
    )  # position on the hue circle, in sixths of it, times the spread
    angle = LEVELS * (sector % (6 * some)) // (6 * some)
    share = LEVELS * spread // value.clamp(min=1)
    # Modulo 256, because Pillow adds bytes, although its hue circle has 255 levels.
    shifted = 6 * ((angle + shift.squeeze(-1)) % 256)
    channels = []
    for start in (5, 3, 1):  # the offset of red, green and blue on the circle, in sectors
        away = (start * LEVELS + shifted) % (6 * LEVELS)
        fall = torch.minimum(away, 4 * LEVELS - away).clamp(0, LEVELS)
        channels.append((2 * value * (LEVELS**2 - share * fall) + LEVELS**2) // (2 * LEVELS**2))  # rounds to nearest
    return torch.stack(channels, -1)


PROPERTIES = (brightness, contrast, saturation, hue)


def grey(values: Tensor) -> Tensor:
    """Luma [B, H, W, 1] of ITU-R 601, with Pillow's integer weights."""
    if values.shape[-1] == 1:
        return values
    red, green, blue = values.split(1, -1)
    return (red * 19595 + green * 38470 + blue * 7471 + (1 << 15)) >> 16


def blend(base: Tensor, values: Tensor, factor: Tensor) -> Tensor:
    """base + factor (values - base), truncated to an integer and clipped to 8 bits."""
    return ((base * (ONE - factor) + values * factor) >> BITS).clamp(0, 255)
