"""When a relaxed search should stop, before skip connections take it over.

Source: `skips`: Liang et al. 2019 (DARTS+), arXiv 1909.06035, its first criterion. `eigenvalue`: Zela et al. 2020,
arXiv 1909.09656, section 4.3 (DARTS-ES): where the validation loss bends ever more sharply along the alphas, the cell
found loses most when it is made discrete. Ours: the eigenvalue by power iteration, where that paper computes the whole
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
    """Largest eigenvalue (by size) of the Hessian of the validation loss in the alphas, epoch by epoch.

    `stop` is the epoch whose alphas should be taken, once the curve has grown too fast.
    """

    def __init__(self) -> None:
        self.values: list[float] = []
        self.past: list[Tables] = []  # alphas after the last WINDOW + 1 epochs

    def note(self, value: float, alphas: Mapping[str, Tensor]) -> None:
        self.values.append(value)
        copies = {kind: alpha.detach().clone() for kind, alpha in alphas.items()}
        self.past = [*self.past, copies][-WINDOW - 1 :]

    @property
    def grows(self) -> bool:
        """Whether the mean size in the window before the last is below RATIO of that in the last one."""
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
    """Largest eigenvalue (by size) of the Hessian of a loss; waits for the device.

    Power iteration from one fixed direction, its products with the Hessian exact. Differences of gradients would be
    cheap as well, but the loss has kinks: of a small supernet they gave a curvature several times too large.
    """
    gradients = torch.autograd.grad(loss, variables, create_graph=True)
    if not any(gradient.requires_grad for gradient in gradients):  # the loss is linear in them
        return 0.0
    generator = torch.Generator().manual_seed(0)  # of its own: the search's stays where it is
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
        value = float(sum((d * p).sum() for d, p in zip(direction, product, strict=True)))  # Rayleigh's quotient
        direction = list(product)
    return value


def norm(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.double().norm() for part in parts]).norm()
