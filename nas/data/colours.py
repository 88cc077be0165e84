"""Colour jitter: brightness, contrast, saturation and hue of every image at random, the same bits on every device.

Law and arithmetic are those of torchvision's ColorJitter on Pillow's images, which the ImageNet recipes of the field
use: each factor is even around 1 (here in steps of 1/4096), a hue is turned by whole levels of 256, and each of the
four rounds to 8 bits as Pillow does. All of it is whole numbers. torchvision draws the order of the four for each
image, and its v2 on tensors one set of factors for a whole batch; here factors are an image's own and the order is a
batch's, so that a batch takes four passes.

Shapes: B images of a batch, [H, W, C] of one, C = 1 or 3; a grey image has neither saturation nor hue, and these leave
it as it is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BITS = 12
ONE = 1 << BITS  # a factor of 1; times 8 bits of a pixel it is exact in Pillow's float32, too
LEVELS = 255  # of a hue's circle, as Pillow counts it: 255 is 0 again


class Jitter(NamedTuple):
    """Four tensors, int64 [B]: three factors in parts of ONE, and by how many levels the hue is turned."""

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor

    def part(self, of: slice) -> "Jitter":
        return Jitter(*(tensor[of] for tensor in self))


def ranges(strengths: Sequence[float]) -> list[tuple[int, int]]:
    """Least and largest of each of the four, as Jitter has them: 1 - s (or 0) to 1 + s; a hue by -s to s circles."""
    *factors, hue = strengths
    turn = int(hue * LEVELS)
    return [*((round(max(0.0, 1 - s) * ONE), round((1 + s) * ONE)) for s in factors), (-turn, turn)]


def jittered(images: Tensor, jitter: Jitter, order: Sequence[int]) -> Tensor:
    """uint8 [B, H, W, C] to the same. `order`: positions in Jitter, first to last."""
    values = images.int()
    for which in order:
        values = PROPERTIES[which](values, jitter[which].int().view(-1, 1, 1, 1))
    return values.to(torch.uint8)


def brightness(values: Tensor, factor: Tensor) -> Tensor:
    """Away from black, or towards it."""
    return blended(torch.zeros_like(factor), values, factor)


def contrast(values: Tensor, factor: Tensor) -> Tensor:
    """Away from the mean grey of the image."""
    levels = grey(values).flatten(1)
    count = levels.shape[1]
    mean = (2 * levels.sum(1) + count) // (2 * count)  # to the nearest
    return blended(mean.int().view(-1, 1, 1, 1), values, factor)


def saturation(values: Tensor, factor: Tensor) -> Tensor:
    """Away from each pixel's own grey."""
    return blended(grey(values), values, factor)


def hue(values: Tensor, turn: Tensor) -> Tensor:
    """From red, green, blue to hue, saturation, value in 8 bits each, and back with the hue turned."""
    if values.shape[-1] == 1:
        return values
    red, green, blue = values.unbind(-1)
    least, value = values.amin(-1), values.amax(-1)
    spread = value - least
    some = spread.clamp(min=1)  # without a spread all below is 0 / 1
    sector = torch.where(
        red == value, green - blue, torch.where(green == value, 2 * some + blue - red, 4 * some + red - green)
    )  # in sixths of the circle, times the spread
    angle = LEVELS * (sector % (6 * some)) // (6 * some)
    share = LEVELS * spread // value.clamp(min=1)
    turned = 6 * ((angle + turn.squeeze(-1)) % 256)  # 256: Pillow adds bytes, although its circle has 255 levels
    found = []
    for start in (5, 3, 1):  # sectors after which a channel begins to fall off from the value
        away = (start * LEVELS + turned) % (6 * LEVELS)
        fall = torch.minimum(away, 4 * LEVELS - away).clamp(0, LEVELS)
        found.append((2 * value * (LEVELS**2 - share * fall) + LEVELS**2) // (2 * LEVELS**2))  # to the nearest
    return torch.stack(found, -1)


PROPERTIES = (brightness, contrast, saturation, hue)


def grey(values: Tensor) -> Tensor:
    """[B, H, W, 1]: luma of ITU-R 601 by Pillow's whole-number weights."""
    if values.shape[-1] == 1:
        return values
    red, green, blue = values.split(1, -1)
    return (red * 19595 + green * 38470 + blue * 7471 + (1 << 15)) >> 16


def blended(base: Tensor, values: Tensor, factor: Tensor) -> Tensor:
    """base + factor (values - base), clipped, without its fraction."""
    return ((base * (ONE - factor) + values * factor) >> BITS).clamp(0, 255)
