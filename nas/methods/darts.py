"""DARTS, first and second order: an alpha step on the valid batch, then a weight step on the train batch.

Source: Liu, Simonyan, Yang 2019, arXiv 1806.09055, sections 2.2 to 2.4; quark0/darts, cnn/architect.py.
Shapes: alphas [edges, ops], one table per cell type. First order is xi = 0 of equation 7, second order xi = lr of the
weights. Ours: `warmup_epochs` (0 in the paper), batches of the two halves paired by step, and that the supernet is
judged by batch statistics.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from nas.config import Section
from nas.contracts import ArchitectureLike, EdgeSpace, SoftMix
from nas.data.dataset import Batch
from nas.methods.base import Derived, SearchMethod, ValidPass, WeightTrainer, entropy, frozen, op_counts
from nas.methods.relaxed import AlphaTrainer, strongest_ops, unrolled_gradient
from nas.tasks import Tally, judge


class Params(Section):
    space: Literal["darts", "nasbench201"]
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
        self.space = space
        self.names = variables = space.variables()
        self.supernet = setting.place(setting.space.supernet(setting.form, setting.common))
        self.trainer = WeightTrainer(self.supernet, setting.common, self.epochs)
        shapes = {kind: (len(edges), len(edges[0])) for kind, edges in variables.items()}
        self.architect = AlphaTrainer(shapes, self.params.alpha_lr, self.params.alpha_decay, setting.device)
        self.alphas = self.architect.alphas

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
        self.architect.descend(gradients)

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

    def incumbent(self) -> dict[str, ArchitectureLike]:
        return {"main": architecture(self.search_state(), "top2", self.space)}

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
            "architect": self.architect.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start_epoch(state["epoch"])
        self.passes = dict(state["passes"])
        self.supernet.load_state_dict(state["supernet"])
        self.trainer.optimiser.load_state_dict(state["weights"])
        self.architect.load_state_dict(state["architect"])


def derive(state: dict[str, Any], params: DeriveParams, space: EdgeSpace) -> list[Derived]:
    """The paper's rule (section 2.4): per edge the strongest operation but none, per node the two strongest edges.

    Where none may stay (NAS-Bench-201) all edges do, and `top2` lets it win one (the benchmark's own DARTS: the argmax
    over all five); `top2_without_none` does not.
    """
    return [Derived("main", architecture(state, params.rule, space), {})]


def architecture(state: dict[str, Any], rule: str, space: EdgeSpace) -> ArchitectureLike:
    tables = {kind: torch.tensor(rows, dtype=torch.float64) for kind, rows in state["alphas"].items()}
    if space.none_stays and rule == "top2":
        return space.assemble({kind: strongest_ops(table.softmax(-1), first=0) for kind, table in tables.items()})
    return space.assemble({kind: strongest_ops(real_shares(table, rule)) for kind, table in tables.items()})


def real_shares(alpha: Tensor, rule: str) -> Tensor:
    """Shares of all operations but none (index 0); none takes its part of the softmax, unless `top2_without_none`."""
    return alpha[:, 1:].softmax(-1) if rule == "top2_without_none" else alpha.softmax(-1)[:, 1:]
