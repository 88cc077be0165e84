"""A GPU's place taken by torch's `meta` device: tensors without numbers, which nobody can read or wait for.

What code for a GPU must not do in a step is seen here on any machine: a number that is read (`meta` has none), tensors
of two devices in one operation, a copy between them that is waited for.
"""

import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


class CrossingError(AssertionError):
    """An operation has tensors of two devices, or waits for one of them."""


class Apart(TorchDispatchMode):
    """Numbers of no axis may meet any device's, as on a GPU: they travel with the launch of the kernel."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        places = {tensor.device.type for tensor in tensors if tensor.dim()}
        name = func._schema.name
        if name in ("aten::_to_copy", "aten::copy_") and not kwargs.get("non_blocking"):
            target = torch.device(kwargs.get("device") or tensors[0].device)
            places |= {target.type, tensors[-1].device.type}
        if name == "aten::lift_fresh":  # torch.tensor(...), whose numbers come from here
            places.add("cpu")
        if len(places) > 1:
            where = [f"{line.filename}:{line.lineno}" for line in traceback.extract_stack() if "/nas/" in line.filename]
            raise CrossingError(f"{func} of {' and '.join(sorted(places))} at {where[-1] if where else 'a test'}")
        return func(*args, **kwargs)


def never_waits(device: torch.device, run: Callable[..., Any], *arguments: Any) -> Any:
    """What `run` gives for the arguments. Fails where it waits for the device, `meta` or `cuda`."""
    if device == META:
        with Apart():
            return run(*arguments)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
        return run(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
