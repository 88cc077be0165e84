"""Where and how a network runs: device, memory layout, arithmetic, form of convolutions. The one place that decides it.

Every network and batch lies in channels-last; bench/ has the measurements.
"""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nas.config.params import Runtime
from nas.engine.graphs import Graphs

SMALL = 2**19  # multiplications of a 1x1 convolution of the map


def place(network: nn.Module, device: torch.device, precision: str, graphs: bool = False) -> nn.Module:
    """The network on the device, channels last; it gives float32 logits whatever it computes in.

    With `bf16` its forward pass runs under autocast: matrix products and convolutions in bfloat16 (and so their
    gradients), sums and the weights themselves in float32. With `graphs` training passes on a GPU are recorded and
    replayed (nas.engine.graphs).
    """
    network = network.to(device).to(memory_format=torch.channels_last)
    if precision == "bf16":
        setattr(network, "forward", _cast(network.forward, device))  # noqa: B010 (mypy minds a method that is assigned)
    if graphs:
        gc.collect()  # a network that this one replaces holds its recordings, and they it
        setattr(network, "forward", Graphs(network))  # noqa: B010
    return network


def _cast(forward: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    def cast(*inputs: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return _float32(forward(*inputs))

    return cast


def _float32(outputs: Any) -> Any:
    if isinstance(outputs, tuple):
        return tuple(_float32(output) for output in outputs)
    return outputs.float() if isinstance(outputs, Tensor) else outputs


def prefers_merged(x: Tensor) -> bool:
    """Whether a depthwise convolution and the 1x1 behind it become one dense kernel in a supernet, for x [B, C, H, W].

    Measured: where a matrix unit does its arithmetic, and for maps so small that the number of kernels is what costs.
    """
    return x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or x.numel() * x.shape[1] < SMALL


def describe(runtime: Runtime, device: torch.device) -> str:
    """One line for the log: what the network runs on, and by which kernels."""
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    else:
        where = f"CPU ({torch.backends.cpu.get_cpu_capability()}), threads: {runtime.threads}"
    kernels = "deterministic kernels" if runtime.deterministic else "fastest kernels"
    dense = device.type != "cpu" or runtime.precision == "bf16"
    form = "supernet convolutions merged" if dense else "supernet convolutions factored, merged on small maps"
    kernels += ", replayed from graphs" if runtime.graphs else ""
    return f"engine: {where}, {runtime.precision}, channels-last, {form}, {kernels}, torch {torch.__version__}"
