"""Parts of relaxed methods: alphas and their Adam, Gumbel samples, DARTS' second-order gradient and rule of derivation.

Source: Liu, Simonyan, Yang 2019, arXiv 1806.09055; quark0/darts, cnn/architect.py.
Shapes: alphas [edges, operations], one table per cell type.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.architectures.cell_shape import is_reduction
from nas.contracts import EdgeSpace, Pairs
from nas.methods.shared.base import WeightTrainer, frozen

SKIP_CONNECT = "skip_connect"


class AlphaTrainer:
    """Architecture variables of some cell types, drawn from 1e-3 N(0, 1), and their Adam (betas .5 and .999).

    `clip`: largest norm of their gradient over all tables together; None (as in DARTS): no clipping.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        lr: float,
        decay: float,
        device: torch.device,
        clip: float | None = None,
    ) -> None:
        self.lr, self.decay, self.clip = lr, decay, clip
        self.alphas = {
            cell_type: nn.Parameter((1e-3 * torch.randn(shape)).to(device)) for cell_type, shape in shapes.items()
        }
        self.renew()

    def renew(self) -> None:
        """Reset the moments of Adam."""
        self.optimiser = torch.optim.Adam(self.alphas.values(), self.lr, (0.5, 0.999), weight_decay=self.decay)

    def descend(self, gradients: Sequence[Tensor]) -> None:
        """One step; the gradients are in the order of `alphas`."""
        for alpha, gradient in zip(self.alphas.values(), gradients, strict=True):
            alpha.grad = gradient
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.alphas.values(), self.clip)
        self.optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        alphas = {cell_type: alpha.detach() for cell_type, alpha in self.alphas.items()}
        return {"alphas": alphas, "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for cell_type, alpha in self.alphas.items():
                alpha.copy_(state["alphas"][cell_type])
        self.optimiser.load_state_dict(state["optimiser"])
        for moments in self.optimiser.state.values():  # Adam counts on the CPU; on a GPU every step would wait for it
            moments["step"] = moments["step"].cpu()


# --- Probabilities


def shares(alpha: Tensor, alive: Tensor) -> Tensor:
    """softmax(alpha) over the alive operations (bool, same shape as alpha), in float64: no gradient, no noise."""
    return alpha.detach().double().masked_fill(~alive, -torch.inf).softmax(-1)


def gumbel_softmax(alpha: Tensor, alive: Tensor, tau: float) -> Tensor:
    """softmax((alpha + g) / tau) over the alive operations, g standard Gumbel; the others get exactly 0.

    Its largest entry is a draw from softmax(alpha) at any tau. The noise is drawn on the CPU, so it is the same on
    every device.
    """
    gumbel = -torch.empty(alpha.shape).exponential_().log()
    return ((alpha + gumbel.to(alpha.device, non_blocking=True)) / tau).masked_fill(~alive, -math.inf).softmax(-1)


# --- From tables to cells


def strongest_ops(shares: Tensor, first: int = 1) -> list[tuple[int, float]]:
    """(operation, its share) per edge; ties: lower index. `shares`: [edges, operations from `first` on].

    Operation 0 is `none`. With `first=0` an edge may end with it, in a space where `none` stays.
    """
    best = shares.max(-1)
    lowest = (shares == best.values[:, None]).int().argmax(-1)  # argmax does not guarantee the first of several ties
    return [(op + first, share) for op, share in zip(lowest.tolist(), best.values.tolist(), strict=True)]


def discretised(shares: Tensor, space: EdgeSpace, skip: int, most_skips: int | None = None, first: int = 1) -> Pairs:
    """The cell of a table: the strongest operation of each edge, of which the space keeps the strongest edges.

    `most_skips`: while more skips (operation `skip`) stay, the weakest of them counts 0 on its edge and the rule is
    applied again (P-DARTS, arXiv 1904.12760, section 3.3). `shares` and `first`: see `strongest_ops`.
    """
    table = shares.clone()
    while True:
        cell = space.discretise(strongest_ops(table, first))
        edges = zip(cell, space.edges_of(cell), strict=True)
        skips = [e for (op, _), e in edges if op == SKIP_CONNECT]
        if most_skips is None or len(skips) <= most_skips:
            return cell
        weakest = min(skips, key=lambda e: (float(table[e, skip - first]), e))
        table[weakest, skip - first] = 0.0


def darts_cells(
    alphas: Mapping[str, Any], space: EdgeSpace, rule: str = "top2", max_skips: int | None = None
) -> dict[str, Pairs]:
    """The cells of alphas (rows of numbers per cell type) by DARTS' rule (section 2.4).

    Per edge the strongest operation except `none`, per node the two strongest edges. In a space where `none` stays
    (NAS-Bench-201), all edges stay, and `top2` lets `none` win one (the benchmark's own DARTS takes the argmax over all
    five); `top2_without_none` does not. `max_skips`: of a cell that is not a reduction cell, see `discretised`.
    """
    names, cells = space.variables(), {}
    for cell_type, rows in alphas.items():
        alpha = torch.tensor(rows, dtype=torch.float64)
        none = space.none_stays and rule == "top2"
        table = alpha.softmax(-1) if none else real_shares(alpha, rule)
        most = None if is_reduction(cell_type) else max_skips
        skip = names[cell_type][0].index(SKIP_CONNECT)
        cells[cell_type] = discretised(table, space, skip, most, first=0 if none else 1)
    return cells


def real_shares(alpha: Tensor, rule: str) -> Tensor:
    """Shares of all operations except `none` (index 0). With `top2_without_none` they are a softmax of their own;
    otherwise `none` takes part in the softmax."""
    return alpha[:, 1:].softmax(-1) if rule == "top2_without_none" else alpha.softmax(-1)[:, 1:]


# --- Gradients


def gradient(loss: Tensor, variables: Sequence[Tensor]) -> list[Tensor]:
    """d loss / d variable, zeros for a variable that the loss does not depend on."""
    if not loss.requires_grad:  # it depends on none of them
        return [torch.zeros_like(variable) for variable in variables]
    return list(torch.autograd.grad(loss, variables, allow_unused=True, materialize_grads=True))


def second_order(
    train_loss: Callable[[], Tensor], valid_loss: Callable[[], Tensor], trainer: WeightTrainer, alphas: Sequence[Tensor]
) -> list[Tensor]:
    """`unrolled_gradient` through the step that this trainer would take next."""
    common = trainer.common
    return unrolled_gradient(
        train_loss,
        valid_loss,
        trainer.parameters,
        alphas,
        trainer.velocity(),
        trainer.lr,
        common.momentum,
        common.weight_decay,
    )


def unrolled_gradient(
    train_loss: Callable[[], Tensor],
    valid_loss: Callable[[], Tensor],
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    velocity: Sequence[Tensor | None],
    lr: float,
    momentum: float,
    weight_decay: float,
) -> list[Tensor]:
    """d/d alpha of L_valid(w'(alpha), alpha), where w' is w after one SGD step on L_train(w, alpha).

    Equations 7 and 8 of DARTS. The product with the mixed second derivative is a central difference along the valid
    gradient with step 0.01 / its norm (quark0/darts, cnn/architect.py, which also has the momentum in w'). The two
    losses read `weights` and `alphas` in place; afterwards the weights have the same bits as before.
    """
    start = [w.detach().clone() for w in weights]
    descent = gradient(train_loss(), weights)
    with torch.no_grad():
        for w, g, v in zip(weights, descent, velocity, strict=True):
            w -= lr * (g + weight_decay * w + (0 if v is None else momentum * v))
    gradients = gradient(valid_loss(), [*alphas, *weights])
    direct, vector = gradients[: len(alphas)], gradients[len(alphas) :]
    step = 0.01 / torch.stack([v.norm() for v in vector]).norm()

    def alpha_gradient(offset: Tensor) -> list[Tensor]:
        with torch.no_grad():
            for w, w0, v in zip(weights, start, vector, strict=True):
                w.copy_(w0 + offset * v)
        with frozen(weights):
            return gradient(train_loss(), alphas)

    above, below = alpha_gradient(step), alpha_gradient(-step)
    with torch.no_grad():
        for w, w0 in zip(weights, start, strict=True):
            w.copy_(w0)
    return [d - lr * (a - b) / (2 * step) for d, a, b in zip(direct, above, below, strict=True)]
