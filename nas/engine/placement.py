"""Where and how a network runs: device, memory layout, precision and the form of its convolutions.

Only this module decides these. Every network and every batch uses the channels-last layout; bench/ measures it.
"""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nas.config.params import Runtime
from nas.engine.graphs import Graphs

SMALL = 2**19  # B * C * H * W * C: multiplications of a 1x1 convolution that keeps the channels


def place(network: nn.Module, device: torch.device, precision: str, graphs: bool = False) -> nn.Module:
    """Move the network to the device in channels-last layout. It returns float32 logits in either precision.

    Args:
        network: Changed in place and returned.
        device: The device to run on.
        precision: `float32`, or `bf16`: the forward pass runs under autocast, so matrix products, convolutions and
            their gradients use bfloat16, while sums and the weights use float32.
        graphs: Record training passes on a GPU and replay them (nas.engine.graphs).
    """
    network = network.to(device).to(memory_format=torch.channels_last)
    if precision == "bf16":
        setattr(network, "forward", _cast(network.forward, device))  # noqa: B010 (mypy refuses to assign a method)
    if graphs:
        gc.collect()  # frees a replaced network now: it and its recordings refer to each other
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
    """Whether a supernet merges a depthwise convolution and the 1x1 convolution after it into one dense kernel.

    Measured to be faster where a matrix unit does the arithmetic, and for feature maps so small that the number of
    kernels dominates the time.

    Args:
        x: The input of the convolutions, [B, C, H, W].
    """
    return x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or x.numel() * x.shape[1] < SMALL


def describe(runtime: Runtime, device: torch.device) -> str:
    """One line for the log: the device, the precision and the kernels."""
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    else:
        where = f"CPU ({torch.backends.cpu.get_cpu_capability()}), threads: {runtime.threads}"
    kernels = "deterministic kernels" if runtime.deterministic else "fastest kernels"
    dense = device.type != "cpu" or runtime.precision == "bf16"
    form = "supernet convolutions merged" if dense else "supernet convolutions factored, merged on small maps"
    kernels += ", replayed from graphs" if runtime.graphs else ""
    return f"engine: {where}, {runtime.precision}, channels-last, {form}, {kernels}, torch {torch.__version__}"
