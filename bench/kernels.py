"""Counts the kernels that a pass launches on a GPU. Needs no GPU: it uses PyTorch's `meta` device, without data.

Launching a small kernel takes longer than running it, so the number of kernels determines the time of a supernet there.
"""

from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.work import Step, Work, search_halves

# Operations without a kernel: they allocate memory, return a view of a tensor, or concern autograd only.
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "_unsafe_view", "alias"}


class Kernels(TorchDispatchMode):
    """Counts the operations that move data. An operation may launch two or three kernels, equally in every engine."""

    count: int = 0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = func._schema
        is_view = any(part.alias_info is not None and not part.alias_info.is_write for part in schema.arguments)
        self.count += not is_view and schema.name.removeprefix("aten::") not in NO_KERNEL
        return func(*args, **(kwargs or {}))


def kernels(engine: str, work: Work) -> dict[str, int]:
    """Kernels of the forward and backward passes in an architecture step and in a weight step.

    Optimisers are not counted: on a GPU they update all weights with a few kernels, here one weight at a time.
    """
    alpha_step, weight_step = search_halves(engine, work)
    steps: dict[str, Step] = {"architecture step": alpha_step, "weight step": lambda: weight_step(None)}
    counts = {}
    for name, step in steps.items():
        with (
            patch.object(nn.utils, "clip_grad_norm_"),
            patch.object(torch.optim.SGD, "step"),
            patch.object(torch.optim.Adam, "step"),
            Kernels() as kernels_seen,
        ):
            step()
        counts[name] = kernels_seen.count
    return counts
