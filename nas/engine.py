"""Where and how a network runs: device, memory layout, arithmetic. The one place that decides it.

Every network and batch lies in channels-last. Which form the convolutions of a supernet take on top of that is decided
by nas.spaces.batched.prefers_merged; bench/ has the measurements.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nas.config import Runtime


def place(network: nn.Module, device: torch.device, precision: str) -> nn.Module:
    """The network on the device, channels last; it gives float32 logits whatever it computes in.

    With `bf16` its forward pass runs under autocast: matrix products and convolutions in bfloat16 (and so their
    gradients), sums and the weights themselves in float32.
    """
    network = network.to(device).to(memory_format=torch.channels_last)
    if precision == "bf16":
        setattr(network, "forward", _cast(network.forward, device))  # noqa: B010 (mypy minds a method that is assigned)
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


def describe(runtime: Runtime, device: torch.device) -> str:
    """One line for the log: what the network runs on, and by which kernels."""
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    else:
        where = f"CPU ({torch.backends.cpu.get_cpu_capability()}), threads: {runtime.threads}"
    kernels = "deterministic kernels" if runtime.deterministic else "fastest kernels"
    return f"engine: {where}, {runtime.precision}, channels-last, {kernels}, torch {torch.__version__}"
