"""Parameters and multiply-adds by one convention, used by searches, tables and tests.

Parameters: all trainable numbers of the network that is evaluated, so without the auxiliary head.
Multiply-adds: one multiplication with its addition counts once; convolutions and linear layers only (no batch norm,
pooling, activation, bias or addition); one image; the network in evaluation mode. Figures in the literature are often
2 to 8 % higher because they include some of what is left out here: DARTS_V2 on ImageNet has 530 M here, 574 M in print.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


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
    """Count the network that `build` returns, for one image of `shape` (C, H, W).

    The network runs on the CPU with its expensive operations replaced, so that only the shapes are right. The global
    random state does not change. `inputs` are the further arguments of the forward.
    """
    network, macs = macs_by_module(build, shape, *inputs)
    return Count(params=parameters(network), macs=sum(macs.values()))


def macs_by_module(
    build: Callable[[], nn.Module], shape: tuple[int, int, int], *inputs: object
) -> tuple[nn.Module, dict[str, int]]:
    """The network, whose weights are unusable, and the multiply-adds of each convolution and linear layer by name."""
    macs: dict[str, int] = {}

    def add(name: str, module: nn.Module, _: object, output: Tensor) -> None:
        macs[name] = macs.get(name, 0) + output[0].numel() * _macs_per_output(module)

    with torch.random.fork_rng(devices=[]), torch.no_grad(), _ShapesOnly():
        network = build().eval()
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(partial(add, name))
        network(_hollow(1, *shape), *inputs)
    return network, macs


def nearest_width(params_at: Callable[[int], int], target: int, start: int) -> int:
    """The even width of at least 2 whose network is nearest to `target` parameters (ties: the narrower).

    `params_at` must grow with the width; `start` is the first width to try.
    """
    width = start
    while params_at(width) < target:
        width += 2
    while width > 2 and params_at(width - 2) >= target:
        width -= 2
    below = max(width - 2, 2)
    return below if target - params_at(below) <= params_at(width) - target else width


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# --- A forward pass that computes only shapes. torch's meta device does so too, but imports 900 modules for it (2 s).


def _macs_per_output(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features
    assert isinstance(module, nn.Conv2d)
    return module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]


class _ShapesOnly(TorchFunctionMode):
    """Replaces expensive functions by ones whose results have the same shape; leaves weights uninitialised."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _SHAPES.get(func, func)(*args, **(kwargs or {}))


def _hollow(*shape: int) -> Tensor:
    """Zeros of this shape that occupy the memory of one number."""
    return torch.zeros(()).expand(shape)


def _unchanged(x: Tensor, *_: object, **__: object) -> Tensor:
    return x


def _uninitialised(tensor: Tensor, *_: object, **__: object) -> Tensor:
    """Unlike `_unchanged`, called with the keyword `tensor` (torch.nn.init)."""
    return tensor


def _linear(x: Tensor, weight: Tensor, bias: object = None) -> Tensor:
    return _hollow(*x.shape[:-1], len(weight))


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: object = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Raises ValueError if x does not have the channels that the weight expects."""
    if x.shape[1] != weight.shape[1] * groups:
        raise ValueError(f"a convolution expects {weight.shape[1] * groups} channels, not {x.shape[1]}")
    spans = [spread * (kernel - 1) for kernel, spread in zip(weight.shape[2:], _pair(dilation), strict=True)]
    pads = spans if padding == "same" else [0, 0] if padding == "valid" else [2 * pad for pad in _pair(padding)]
    sides = (
        (side + pad - span - 1) // step + 1
        for side, pad, span, step in zip(x.shape[2:], pads, spans, _pair(stride), strict=True)
    )
    return _hollow(x.shape[0], len(weight), *sides)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


_SHAPES: dict[Any, Callable[..., Any]] = {
    nn.init.kaiming_uniform_: _uninitialised,
    nn.init.uniform_: _uninitialised,
    F.conv2d: _conv2d,
    F.linear: _linear,
    F.batch_norm: _unchanged,
    F.relu: _unchanged,
    F.relu6: _unchanged,
}
