"""Mobile blocks, the supernet that runs one at each position of a chain, and the network of chosen blocks.

Source (BASE): Sandler et al. 2018 (MobileNetV2), arXiv 1801.04381, and Cai et al. 2019 (ProxylessNAS), arXiv
1812.00332: 1x1 to three or six times the channels, depthwise k x k, 1x1 to the width, a batch norm after each and ReLU6
after the first two; the input is added if the shapes agree.

Shape legend: B batch, C channels in, D out, H x W the map. A block maps [B, C, H, W] to [B, D, ceil(H / stride),
ceil(W / stride)].
"""

from torch import Tensor, nn
from torch.nn import functional as F

from nas.architectures.base import ArchitectureError
from nas.architectures.mobile import ENTRY, FEATURES, FULL, MOBILE_OPS, ZERO, Chain, Position
from nas.config.params import Size
from nas.contracts import HardMix, ImageForm, Mix
from nas.spaces.blocks.ops import DepthwiseConv2d, PointwiseConv2d, drop_path

DROPOUT = 0.2  # before the classifier of a network
SHARE = 3  # the expansion of each half of a shared block


def norm(channels: int, affine: bool) -> nn.Module:
    """Like nas.spaces.blocks.ops.batch_norm, with aiaccel's constants."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01, affine=affine, track_running_stats=affine)


def scaled(width: int, channels: int) -> int:
    """A width of the full form, scaled to a network whose first convolution has this many channels: the nearest even
    number, at least 2; ties go up."""
    return max(2, 2 * ((width * channels + FULL) // (2 * FULL)))


def check_size(size: Size, chain: Chain) -> None:
    """Raises ArchitectureError unless the size has the depth and stem of the chain."""
    expected = {"cells": len(chain.positions), "stem": chain.stem}
    wrong = {key: value for key, value in expected.items() if getattr(size, key) != value}
    if wrong:
        given = " and ".join(f"{key} is {getattr(size, key)!r}" for key in wrong)
        wanted = ", ".join(f"{key}: {value}" for key, value in wrong.items())
        raise ArchitectureError(
            f"{given}, but {chain.space} is one chain of {len(chain.positions)} positions: set {wanted}"
        )


class Stem(nn.Sequential):
    """3x3 convolution of stride 2, then a depthwise-separable block. No decision precedes it, so it has scales and
    running statistics in the supernet too."""

    def __init__(self, form: ImageForm, channels: int) -> None:
        entry = scaled(ENTRY, channels)
        super().__init__(
            nn.Conv2d(form.channels, channels, 3, stride=2, padding=1, bias=False), norm(channels, True), nn.ReLU6(),
            DepthwiseConv2d(channels, 3, 1, 1), norm(channels, True), nn.ReLU6(),
            PointwiseConv2d(channels, entry), norm(entry, True),
        )  # fmt: skip


class Features(nn.Sequential):
    """1x1 convolution to the input channels of the classifier."""

    def __init__(self, chain: Chain, channels: int, affine: bool) -> None:
        before, after = (scaled(width, channels) for width in (chain.positions[-1].width, FEATURES))
        super().__init__(PointwiseConv2d(before, after), norm(after, affine), nn.ReLU6())


class MobileBlock(nn.Module):
    """A block of a network."""

    def __init__(self, op: str, place: Position, channels: int) -> None:
        super().__init__()
        kernel, expansion = MOBILE_OPS[op]
        before, after = scaled(place.before, channels), scaled(place.width, channels)
        hidden = expansion * before
        self.residual = place.residual
        self.expand = nn.Sequential(PointwiseConv2d(before, hidden), norm(hidden, True), nn.ReLU6())
        self.depthwise = nn.Sequential(DepthwiseConv2d(hidden, kernel, place.stride, 1), norm(hidden, True), nn.ReLU6())
        self.project = nn.Sequential(PointwiseConv2d(hidden, after), norm(after, True))

    def forward(self, x: Tensor, drop_probability: float = 0.0) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        if not self.residual:
            return y
        return x + (drop_path(y, drop_probability) if self.training and drop_probability > 0 else y)


class Half(nn.Module):
    """Half of the hidden channels of a shared block, with their weights in all three convolutions."""

    def __init__(self, kernel: int, before: int, after: int, stride: int) -> None:
        super().__init__()
        hidden = SHARE * before
        self.expand = PointwiseConv2d(before, hidden)
        self.norm_1 = norm(hidden, False)
        self.depthwise = DepthwiseConv2d(hidden, kernel, stride, 1)
        self.norm_2 = norm(hidden, False)
        self.project = PointwiseConv2d(hidden, after)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm_1(self.expand(x)))
        return self.project(F.relu6(self.norm_2(self.depthwise(x))))


class SharedBlock(nn.Module):
    """The blocks of one kernel size at one position: expansion 3 is the first half of the channels of expansion 6.

    The projection is a sum over channels, and everything before it treats each hidden channel separately, so the sum of
    both halves is the whole block. The second half has its own parameters. They get no gradient, and so neither
    momentum nor decay, when only the first half runs.
    """

    def __init__(self, kernel: int, place: Position, channels: int) -> None:
        super().__init__()
        before, after = scaled(place.before, channels), scaled(place.width, channels)
        self.halves = nn.ModuleList(Half(kernel, before, after, place.stride) for _ in range(2))
        self.norm = norm(after, False)

    def forward(self, x: Tensor, expansion: int) -> Tensor:
        y: Tensor = self.halves[0](x)
        return self.norm(y if expansion == SHARE else y + self.halves[1](x))


class SharedPosition(nn.Module):
    """A position of the supernet, with separate weights for every kernel size."""

    def __init__(self, place: Position, channels: int) -> None:
        super().__init__()
        self.place = place
        kernels = dict.fromkeys(kernel for kernel, _ in MOBILE_OPS.values())
        self.blocks = nn.ModuleDict({str(kernel): SharedBlock(kernel, place, channels) for kernel in kernels})

    def forward(self, x: Tensor, choice: int) -> Tensor:
        name = self.place.categories[choice]
        if name == ZERO:
            return x
        kernel, expansion = MOBILE_OPS[name]
        y: Tensor = self.blocks[str(kernel)](x, expansion)
        return x + y if self.place.residual else y


class MobileSupernet(nn.Module):
    """All architectures of a chain, one of which runs at a time: forward(images, mix) -> logits [B, classes].

    Everything after a decision normalises by the batch. There is no dropout: ASNG ranks losses in training mode, and
    dropout would add noise to them.
    """

    def __init__(self, chain: Chain, form: ImageForm, size: Size) -> None:
        super().__init__()
        check_size(size, chain)
        self.space = chain.space
        self.stem = Stem(form, size.channels)
        self.positions = nn.ModuleList(SharedPosition(place, size.channels) for place in chain.positions)
        self.features = Features(chain, size.channels, False)
        self.classifier = nn.Linear(scaled(FEATURES, size.channels), form.classes)

    def forward(self, images: Tensor, mix: Mix) -> Tensor:
        if not isinstance(mix, HardMix):
            raise TypeError(
                f"the supernet of space '{self.space}' runs one block per position and takes a HardMix, not a "
                f"{type(mix).__name__}"
            )
        x = self.stem(images)
        for position, choice in zip(self.positions, mix.choices["chain"], strict=True):
            x = position(x, choice)
        return self.classifier(self.features(x).mean((2, 3)))


class MobileNetwork(nn.Module):
    """The network that is retrained and evaluated: forward(images) -> (logits, None). A chain has no auxiliary head.

    Drop path, if used, drops whole blocks with a residual (stochastic depth).
    """

    def __init__(self, blocks: tuple[str, ...], chain: Chain, form: ImageForm, size: Size) -> None:
        super().__init__()
        check_size(size, chain)
        self.drop_path = 0.0  # probability, set by the training loop at each epoch
        self.stem = Stem(form, size.channels)
        self.blocks = nn.ModuleList(
            MobileBlock(block, place, size.channels)
            for block, place in zip(blocks, chain.positions, strict=True)
            if block != ZERO
        )
        self.features = Features(chain, size.channels, True)
        self.classifier = nn.Linear(scaled(FEATURES, size.channels), form.classes)

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x, self.drop_path)
        x = F.dropout(self.features(x).mean((2, 3)), DROPOUT, self.training)
        return self.classifier(x), None
