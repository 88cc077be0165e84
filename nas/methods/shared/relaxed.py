"""What the methods share that relax the choice on an edge: alphas with their Adam, DARTS' second order, its rule.

Source: Liu, Simonyan, Yang 2019, arXiv 1806.09055; quark0/darts, cnn/architect.py.
Shapes: alphas [edges, operations], one table per cell type.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.contracts import EdgeSpace, Pairs
from nas.methods.shared.base import WeightTrainer, frozen

SKIP = "skip_connect"


class AlphaTrainer:
    """Architecture variables of some cell types, drawn from 1e-3 N(0, 1), and their Adam (betas .5 and .999).

    `clip`: largest norm of their gradient, all tables together; none in DARTS.
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
        self.alphas = {kind: nn.Parameter((1e-3 * torch.randn(shape)).to(device)) for kind, shape in shapes.items()}
        self.renew()

    def renew(self) -> None:
        """Adam's moments begin anew."""
        self.optimiser = torch.optim.Adam(self.alphas.values(), self.lr, (0.5, 0.999), weight_decay=self.decay)

    def descend(self, gradients: Sequence[Tensor]) -> None:
        """One step; the gradients in the order of `alphas`."""
        for alpha, gradient in zip(self.alphas.values(), gradients, strict=True):
            alpha.grad = gradient
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.alphas.values(), self.clip)
        self.optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        alphas = {kind: alpha.detach() for kind, alpha in self.alphas.items()}
        return {"alphas": alphas, "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for kind, alpha in self.alphas.items():
                alpha.copy_(state["alphas"][kind])
        self.optimiser.load_state_dict(state["optimiser"])
        for moments in self.optimiser.state.values():  # Adam counts on the CPU; on a GPU every step would wait for it
            moments["step"] = moments["step"].cpu()


def shares(alpha: Tensor, alive: Tensor) -> Tensor:
    """softmax(alpha) over the alive operations (bool, as alpha), in float64: no gradient, no noise."""
    return alpha.detach().double().masked_fill(~alive, -torch.inf).softmax(-1)


def strongest_ops(shares: Tensor, first: int = 1) -> list[tuple[int, float]]:
    """(operation, its share) per edge; ties: lower index. `shares`: [edges, operations from `first` on].

    Operation 0 is none, which an edge may be found with in a space where it stays alone.
    """
    best = shares.max(-1)
    lowest = (shares == best.values[:, None]).int().argmax(-1)  # argmax of ties is not promised to be the first
    return [(op + first, share) for op, share in zip(lowest.tolist(), best.values.tolist(), strict=True)]


def discretised(shares: Tensor, space: EdgeSpace, skip: int, most_skips: int | None = None, first: int = 1) -> Pairs:
    """The cell that a table stands for: the strongest operation of each edge, of which the space keeps the strongest.

    `most_skips`: while more skips (operation `skip`) stay, the weakest counts 0 on its edge and the rule is applied
    again (P-DARTS, arXiv 1904.12760, section 3.3). `shares` and `first` as for `strongest_ops`.
    """
    table = shares.clone()
    while True:
        cell = space.discretise(strongest_ops(table, first))
        edges = zip(cell, space.edges_of(cell), strict=True)
        skips = [e for (op, _), e in edges if op == SKIP]
        if most_skips is None or len(skips) <= most_skips:
            return cell
        weakest = min(skips, key=lambda e: (float(table[e, skip - first]), e))
        table[weakest, skip - first] = 0.0


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

    Equations 7 and 8 of DARTS, the product with the mixed second derivative by central differences along the
    valid gradient with step 0.01 / its norm (quark0/darts, cnn/architect.py, which has the momentum in w' as well).
    The two losses read `weights` and `alphas` in place; the weights leave as they came, bit for bit.
    """
    start = [w.detach().clone() for w in weights]
    descent = gradient(train_loss(), weights)
    with torch.no_grad():
        for w, g, v in zip(weights, descent, velocity, strict=True):
            w -= lr * (g + weight_decay * w + (0 if v is None else momentum * v))
    found = gradient(valid_loss(), [*alphas, *weights])
    direct, vector = found[: len(alphas)], found[len(alphas) :]
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


def gradient(loss: Tensor, variables: Sequence[Tensor]) -> list[Tensor]:
    """d loss / d variable, zeros for one that the loss does not see."""
    return list(torch.autograd.grad(loss, variables, allow_unused=True, materialize_grads=True))
