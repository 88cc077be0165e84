"""Criteria for stopping a relaxed search before skip connections dominate it.

Source: `skips`: Liang et al. 2019 (DARTS+), arXiv 1909.06035, its first criterion. `eigenvalue`: Zela et al. 2020,
arXiv 1909.09656, section 4.3 (DARTS-ES): the sharper the validation loss gets along the alphas, the more a cell loses
when it is made discrete. Ours: the eigenvalue by power iteration, where that paper computes the whole
Hessian.
Shapes: alphas [edges, operations], one table per cell type.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

WINDOW, RATIO = 5, 0.75  # k and the largest growth 1 / 0.75 of the mean over k epochs within k epochs (Zela et al.)
ITERATIONS = 20  # of the power iteration (ours)
Tables = dict[str, Tensor]


class Sharpness:
    """Largest eigenvalue (in absolute value) of the Hessian of the validation loss in the alphas, epoch by epoch.

    Once `grows` is true, the search should stop with the alphas of `past[0]`.
    """

    def __init__(self) -> None:
        self.values: list[float] = []
        self.past: list[Tables] = []  # alphas after the last WINDOW + 1 epochs

    def note(self, value: float, alphas: Mapping[str, Tensor]) -> None:
        self.values.append(value)
        copies = {cell_type: alpha.detach().clone() for cell_type, alpha in alphas.items()}
        self.past = [*self.past, copies][-WINDOW - 1 :]

    @property
    def grows(self) -> bool:
        """Whether the mean absolute value of the window before the last is below RATIO times that of the last one."""
        if len(self.values) < 2 * WINDOW:
            return False
        sizes = [abs(value) for value in self.values[-2 * WINDOW :]]
        return sum(sizes[:WINDOW]) < RATIO * sum(sizes[WINDOW:])

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "past": self.past}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = list(state["values"])
        self.past = [dict(tables) for tables in state["past"]]


def dominant_eigenvalue(loss: Tensor, variables: Sequence[Tensor]) -> float:
    """Largest eigenvalue (in absolute value) of the Hessian of a loss; waits for the device.

    Power iteration from a fixed direction, with exact Hessian-vector products. Differences of gradients would be as
    cheap, but the loss has kinks: on a small supernet they gave a curvature several times too large.
    """
    gradients = torch.autograd.grad(loss, variables, create_graph=True)
    if not any(gradient.requires_grad for gradient in gradients):  # the loss is linear in them
        return 0.0
    generator = torch.Generator().manual_seed(0)  # its own: the search's generator is unchanged
    direction = [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v) for v in variables]
    value = 0.0
    for _ in range(ITERATIONS):
        length = norm(direction)
        if length == 0 or not length.isfinite():
            break
        direction = [part / length for part in direction]
        product = torch.autograd.grad(
            gradients, variables, direction, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        value = float(sum((d * p).sum() for d, p in zip(direction, product, strict=True)))  # Rayleigh quotient
        direction = list(product)
    return value


def norm(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.double().norm() for part in parts]).norm()
