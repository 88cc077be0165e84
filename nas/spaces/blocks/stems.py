"""The parts of a network other than cells: stems, input preprocessing, the auxiliary head, widths by depth."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.architectures.base import ArchitectureError
from nas.architectures.cell_shape import NODES, STEM_MULTIPLIER, reductions
from nas.config.params import Size
from nas.contracts import ImageForm
from nas.spaces.blocks.ops import FactorizedReduce, relu_conv_bn


def preprocess(c_in: int, channels: int, halve: bool, affine: bool) -> nn.Module:
    """Bring an input to the width of the cell, and halve its map if the cell in between is a reduction."""
    return FactorizedReduce(c_in, channels, affine) if halve else relu_conv_bn(c_in, channels, affine)


class AuxiliaryHead(nn.Module):
    """DARTS' auxiliary classifier, used only in training.

    It is designed for maps of 8x8 (CIFAR) and 7x7 (ImageNet); any other map is pooled to 2x2. quark0/darts omits the
    last batch norm for ImageNet; P-DARTS and this class have it.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        # on these maps DARTS pools 5x5 windows with stride 3 and 2, where quarters would be 4x4
        height, width = x.shape[-2:]
        stride = {(8, 8): 3, (7, 7): 2}.get((height, width))
        x = F.avg_pool2d(x, 5, stride) if stride else quarters(x)
        return self.classifier(self.features(x).flatten(1))


def quarters(x: Tensor) -> Tensor:
    """Means of the four quarters, [B, C, H, W] -> [B, C, 2, 2]. With an odd side, both halves include the middle line.

    Equal to adaptive_avg_pool2d(x, 2), whose gradient is not deterministic on a GPU.
    """
    height, width = x.shape[-2:]
    rows = (slice(0, (height + 1) // 2), slice(height // 2, height))
    columns = (slice(0, (width + 1) // 2), slice(width // 2, width))
    return torch.stack([torch.stack([x[..., r, c].mean((-2, -1)) for c in columns], -1) for r in rows], -2)


def stem(c_in: int, c_out: int) -> nn.Module:
    """3x3 convolution and batch norm, which is affine in the supernet too (DARTS)."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out))


class CifarStem(nn.Module):
    """One 3x3 convolution to three times the width. Both inputs of the first cell are its output."""

    def __init__(self, c_in: int, channels: int) -> None:
        super().__init__()
        self.whole = stem(c_in, STEM_MULTIPLIER * channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        whole = self.whole(images)
        return whole, whole


class ImageNetStem(nn.Module):
    """Three 3x3 convolutions of stride 2. The first cell's inputs have a quarter and an eighth of the image's side."""

    def __init__(self, c_in: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.quarter = nn.Sequential(*_halving(c_in, half), nn.ReLU(), *_halving(half, channels))
        self.eighth = nn.Sequential(nn.ReLU(), *_halving(channels, channels))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        quarter = self.quarter(images)
        return quarter, self.eighth(quarter)


def _halving(c_in: int, c_out: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False)
    yield nn.BatchNorm2d(c_out)


def input_stem(form: ImageForm, size: Size) -> nn.Module:
    """forward(images) -> the two inputs of the first cell (DARTS, NetworkCIFAR and NetworkImageNet)."""
    return (CifarStem if size.stem == "cifar" else ImageNetStem)(form.channels, size.channels)


def check_stem(size: Size, space: str) -> None:
    """Raises ArchitectureError for the stem of ImageNet, for spaces that do not support it."""
    if size.stem != "cifar":
        raise ArchitectureError(f"stem is '{size.stem}', but {space} supports only 'cifar': set stem: cifar")


class CellWidths:
    """`next` returns, cell by cell, the channels of both inputs, the width, and whether the older input is halved."""

    def __init__(self, size: Size) -> None:
        self.channels = size.channels
        self.halve = size.stem == "imagenet"
        self.before = self.last = size.channels if self.halve else STEM_MULTIPLIER * size.channels

    def next(self, reduce: bool) -> tuple[int, int, int, bool]:
        self.channels *= 2 if reduce else 1
        widths = self.before, self.last, self.channels, self.halve
        self.before, self.last, self.halve = self.last, NODES * self.channels, reduce
        return widths


def reduction_flags(cells: int) -> list[bool]:
    """Whether each cell is a reduction."""
    return [index in reductions(cells) for index in range(cells)]
