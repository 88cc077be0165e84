"""Parameters and multiply-adds by one convention, used by search, tables and tests.

Parameters: every trainable number of the network that is evaluated, so without the auxiliary head.
Multiply-adds: one multiplication with its addition counts once; convolutions and linear layers alone (no batch norm,
pooling, activation, bias or addition); one image; the network in evaluation mode. Figures in the literature are often
2 to 8 % higher, because they count some of what is left out here: DARTS_V2 on ImageNet has 530 M here, 574 M in print.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Count:
    params: int
    macs: int

    @property
    def params_m(self) -> float:
        return self.params / 1e6

    @property
    def macs_m(self) -> float:
        return self.macs / 1e6


def count(build: Callable[[], nn.Module], shape: tuple[int, int, int], *inputs: object) -> Count:
    """Count the network that `build` makes, for one image of `shape` (C, H, W). Computes nothing: shapes alone flow.

    `inputs` are what its forward takes beside the images.
    """
    with torch.device("meta"), torch.no_grad():
        network = build().eval()
        macs = 0

        def add(module: nn.Module, _: object, output: Tensor) -> None:
            nonlocal macs
            macs += output[0].numel() * _macs_per_output(module)

        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(add)
            if isinstance(module, nn.BatchNorm2d):
                # keeps shapes; on the meta device the real one takes most of the time
                setattr(module, "forward", _as_it_is)  # noqa: B010 (mypy minds a method that is assigned)
        network(torch.zeros(1, *shape), *inputs)
    return Count(params=parameters(network), macs=macs)


def nearest_width(params_at: Callable[[int], int], target: int, start: int) -> int:
    """The even width, 2 or more, at which a network comes nearest to `target` parameters (ties: the narrower).

    `params_at` grows with the width; `start` is where to look first.
    """
    width = start
    while params_at(width) < target:
        width += 2
    while width > 2 and params_at(width - 2) >= target:
        width -= 2
    below = max(width - 2, 2)
    return below if target - params_at(below) <= params_at(width) - target else width


def _as_it_is(x: Tensor) -> Tensor:
    return x


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _macs_per_output(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features
    assert isinstance(module, nn.Conv2d)
    return module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
