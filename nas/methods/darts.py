"""DARTS, first and second order: an alpha step on the valid batch, then a weight step on the train batch.

Source: Liu, Simonyan, Yang 2019, arXiv 1806.09055, sections 2.2 to 2.4; quark0/darts, cnn/architect.py.
Shapes: alphas [edges, ops], one table per cell type. First order is xi = 0 of equation 7, second order xi = lr of the
weights. Ours: `warmup_epochs` (0 in the paper), batches of the two halves paired by step, and that the supernet is
judged by batch statistics.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nas.config import Section
from nas.contracts import EdgeSpace, SoftMix
from nas.data.dataset import Batch
from nas.methods.base import Derived, SearchMethod, ValidPass, WeightTrainer, entropy, frozen, op_counts
from nas.tasks import Tally, judge


class Params(Section):
    space: Literal["darts"]
    order: Literal["first", "second"]
    alpha_lr: float = Field(gt=0)  # Adam, betas .5 and .999, constant over the search
    alpha_decay: float = Field(ge=0)
    warmup_epochs: int = Field(ge=0)


class DeriveParams(Section):
    rule: Literal["top2", "top2_without_none"]


class Method(SearchMethod[Params]):
    def setup(self) -> None:
        setting, space = self.setting, self.setting.space
        assert isinstance(space, EdgeSpace)
        self.names = variables = space.variables()
        self.supernet = setting.place(setting.space.supernet(setting.form, setting.common))
        self.trainer = WeightTrainer(self.supernet, setting.common, self.epochs)
        self.alphas = {
            kind: nn.Parameter((1e-3 * torch.randn(len(edges), len(edges[0]))).to(setting.device))
            for kind, edges in variables.items()
        }
        self.alpha_optimiser = torch.optim.Adam(
            self.alphas.values(), self.params.alpha_lr, (0.5, 0.999), weight_decay=self.params.alpha_decay
        )

    def mix(self) -> SoftMix:
        return SoftMix({kind: alpha.softmax(-1) for kind, alpha in self.alphas.items()})  # each row sums to 1

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.trainer.start_epoch(epoch)
        self.supernet.train()

    def step(self, train: Batch, valid: Batch) -> Tally:
        if self.epoch >= self.params.warmup_epochs:  # alphas first, as in the paper
            self.alpha_step(train, valid)
        with torch.no_grad():  # a weight step needs no gradient of the alphas
            mix = self.mix()
        logits = self.supernet(train.images, mix)
        loss = self.setting.task.loss(logits, train.labels)
        self.trainer.descend(loss)
        self.passes["train_images"] += len(train.labels)
        return Tally.of(loss, self.setting.task.correct(logits, train.labels), len(train.labels))

    def alpha_step(self, train: Batch, valid: Batch) -> None:
        alphas = list(self.alphas.values())
        if self.params.order == "first":
            with frozen(self.trainer.parameters):
                gradients = list(torch.autograd.grad(self.loss(valid), alphas))
            self.passes["valid_images"] += len(valid.labels)
        else:
            common = self.setting.common
            gradients = unrolled_gradient(
                lambda: self.loss(train),
                lambda: self.loss(valid),
                self.trainer.parameters,
                alphas,
                self.trainer.velocity(),
                self.trainer.lr,
                common.momentum,
                common.weight_decay,
            )
            self.passes["valid_images"] += len(valid.labels)
            self.passes["train_images"] += 3 * len(train.labels)
        for alpha, gradient in zip(alphas, gradients, strict=True):
            alpha.grad = gradient
        self.alpha_optimiser.step()

    def loss(self, batch: Batch) -> Tensor:
        return self.setting.task.loss(self.supernet(batch.images, self.mix()), batch.labels)

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        self.supernet.eval()
        with torch.no_grad():
            mix = self.mix()
        tally = judge(lambda images: self.supernet(images, mix), valid_pass(), self.setting.task)
        valid_loss, valid_acc = tally.means()
        return {
            "lr": self.trainer.lr,
            "valid_loss": valid_loss,
            "valid_acc": valid_acc,
            "entropy": entropy(mix.weights.values()),
            **op_counts(mix.weights, self.names),
        }

    def search_state(self) -> dict[str, Any]:
        return {"alphas": {kind: alpha.tolist() for kind, alpha in self.alphas.items()}}

    def macs(self) -> int:
        one = self.setting.space.supernet_macs(self.setting.form, self.setting.common)
        return 3 * one * sum(self.passes.values())

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "passes": self.passes,
            "supernet": self.supernet.state_dict(),
            "weights": self.trainer.optimiser.state_dict(),
            "alphas": {kind: alpha.detach() for kind, alpha in self.alphas.items()},
            "alpha_optimiser": self.alpha_optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start_epoch(state["epoch"])
        self.passes = dict(state["passes"])
        self.supernet.load_state_dict(state["supernet"])
        self.trainer.optimiser.load_state_dict(state["weights"])
        with torch.no_grad():
            for kind, alpha in self.alphas.items():
                alpha.copy_(state["alphas"][kind])
        self.alpha_optimiser.load_state_dict(state["alpha_optimiser"])


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

    Equations 7 and 8 of the paper, the product with the mixed second derivative by central differences along the
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


def derive(state: dict[str, Any], params: DeriveParams, space: EdgeSpace) -> list[Derived]:
    """The paper's rule (section 2.4): per edge the strongest operation but none, per node the two strongest edges."""
    tables = {kind: torch.tensor(rows, dtype=torch.float64) for kind, rows in state["alphas"].items()}
    edges = {kind: strongest_ops(table, params.rule == "top2_without_none") for kind, table in tables.items()}
    return [Derived("main", space.assemble(edges), {})]


def strongest_ops(alpha: Tensor, without_none: bool) -> list[tuple[int, float]]:
    """(operation, its share) per edge, over all operations but none (index 0); ties: lower index.

    The softmax runs over all eight, so that none takes its share of an edge, unless `without_none`.
    """
    shares = alpha[:, 1:].softmax(-1) if without_none else alpha.softmax(-1)[:, 1:]
    best = shares.max(-1)
    first = (shares == best.values[:, None]).int().argmax(-1)  # argmax of ties is not promised to be the first
    return [(op + 1, share) for op, share in zip(first.tolist(), best.values.tolist(), strict=True)]
