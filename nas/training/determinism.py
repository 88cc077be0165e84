"""Determinism and seeding: the same params, data, code and device type give the same bits."""

import hashlib
import os

import torch

from nas.config.params import Runtime


class DeviceError(ValueError):
    """The device that params.yaml asks for is not available."""


def prepare_device(runtime: Runtime) -> torch.device:
    """Set threads and kernels for this process and return the device to work on.

    Raises:
        DeviceError: params.yaml asks for cuda, and torch finds no GPU.
    """
    torch.set_num_threads(runtime.threads)
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"params.yaml: 'runtime.device' is 'cuda', but torch {torch.__version__} finds no GPU. "
            "Set runtime.device: cpu, or install a CUDA build and driver."
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not deterministic without it
    # use_deterministic_algorithms sets the same switch, but imports the compiler: seconds at every stage's start
    torch.set_deterministic_debug_mode("error" if runtime.deterministic else "default")
    torch.backends.cudnn.deterministic = runtime.deterministic
    torch.backends.cudnn.benchmark = not runtime.deterministic  # picks kernels by timing, so bits vary
    return torch.device(runtime.device)


def derived_seed(*parts: object) -> int:
    """A seed of 62 bits, hashed from words and numbers: equal parts give equal seeds, others unrelated ones."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def seed_everything(*parts: object) -> int:
    """Seed torch's generators on every device and return the seed."""
    seed = derived_seed(*parts)
    torch.manual_seed(seed)
    return seed


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_rng_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
