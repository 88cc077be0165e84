"""How many kernels a pass starts on a GPU, counted without one: on torch's `meta` device, whose tensors are empty.

A GPU is given small kernels more slowly than it runs them, so their number is what a supernet costs there.
"""

from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.work import Step, Work, search_halves

# What moves no data: memory that is reserved, the same memory seen otherwise, autograd's notes.
STILL = {"empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "_unsafe_view", "alias"}


class Kernels(TorchDispatchMode):
    """Counts the operations that move data. One may be two or three kernels, the same in every engine."""

    count: int = 0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = func._schema
        sees = any(part.alias_info is not None and not part.alias_info.is_write for part in schema.arguments)
        self.count += not sees and schema.name.removeprefix("aten::") not in STILL
        return func(*args, **(kwargs or {}))


def kernels(engine: str, work: Work) -> dict[str, int]:
    """Of the forward and backward pass in an architecture step and in a weight step. Optimisers are left out: on a GPU
    they take all weights in a few kernels, here one after the other."""
    alpha_step, weight_step = search_halves(engine, work)
    steps: dict[str, Step] = {"architecture step": alpha_step, "weight step": lambda: weight_step(None)}
    found = {}
    for name, step in steps.items():
        with (
            patch.object(nn.utils, "clip_grad_norm_"),
            patch.object(torch.optim.SGD, "step"),
            patch.object(torch.optim.Adam, "step"),
            Kernels() as seen,
        ):
            step()
        found[name] = seen.count
    return found
