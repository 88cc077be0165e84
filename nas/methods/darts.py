"""DARTS, first and second order: an alpha step on the valid batch, then a weight step on the train batch.

Source: Liu, Simonyan, Yang 2019, arXiv 1806.09055, sections 2.2 to 2.4; quark0/darts, cnn/architect.py.
Shapes: alphas [edges, ops], one table per cell type. First order is xi = 0 of equation 7, second order xi = lr of the
weights. Ours: `warmup_epochs` (0 in the paper), batches of the two halves paired by step, and that the supernet is
judged by batch statistics.
Remedies against the collapse into skip connections are options: `early_stop` (nas/methods/shared/early_stopping.py), a
dropout behind skips that decreases (P-DARTS, arXiv 1904.12760, section 3.3; here linearly to 0, ours) and, when a cell
is derived, a limit on their number.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from nas.config.params import MethodParams, SearchCommon
from nas.config.sections import Section
from nas.contracts import ArchitectureLike, EdgeSpace, Pairs, SoftMix
from nas.data.dataset import Batch
from nas.engine.tasks import Tally, judge
from nas.methods.shared.base import Derived, SearchMethod, ValidPass, WeightTrainer, entropy, frozen, op_counts
from nas.methods.shared.early_stopping import ITERATIONS, WINDOW, Sharpness, dominant_eigenvalue
from nas.methods.shared.relaxed import SKIP, AlphaTrainer, discretised, second_order


class Params(MethodParams):
    space: Literal["darts", "nasbench201"]
    order: Literal["first", "second"]
    alpha_lr: float = Field(gt=0)  # Adam, betas .5 and .999, constant over the search
    alpha_decay: float = Field(ge=0)
    warmup_epochs: int = Field(ge=0)
    early_stop: Literal["none", "skips", "eigenvalue"]
    stop_skips: int = Field(ge=1)  # of the cell found, at which `skips` stops
    skip_dropout: float = Field(ge=0, lt=1)  # in the first epoch

    @model_validator(mode="after")
    def differences_are_of_one_loss(self) -> Self:
        if self.skip_dropout > 0 and self.order == "second":
            raise ValueError(
                "'order: second' needs 'skip_dropout: 0': its difference of two passes would be one of masks"
            )
        return self

    def check(self, common: SearchCommon) -> None:
        if self.warmup_epochs >= common.epochs:
            raise ValueError(
                f"'warmup_epochs' is {self.warmup_epochs}: expected less than the {common.epochs} of "
                "'search.common.epochs', or alpha never moves"
            )


class DeriveParams(Section):
    rule: Literal["top2", "top2_without_none"]
    max_skips: int | None = Field(ge=0)  # of a cell other than a reduction cell


class Method(SearchMethod[Params]):
    def setup(self) -> None:
        setting, space = self.setting, self.setting.space
        assert isinstance(space, EdgeSpace)
        self.space = space
        self.names = variables = space.variables()
        self.stopped: int | None = None  # after this epoch
        self.sharpness = Sharpness()
        self.supernet = setting.place(setting.space.supernet(setting.form, setting.common))
        self.trainer = WeightTrainer(self.supernet, setting.common, self.epochs)
        shapes = {kind: (len(edges), len(edges[0])) for kind, edges in variables.items()}
        self.architect = AlphaTrainer(shapes, self.params.alpha_lr, self.params.alpha_decay, setting.device)
        self.alphas = self.architect.alphas

    @property
    def epochs(self) -> int:
        return super().epochs if self.stopped is None else self.stopped + 1

    def mix(self) -> SoftMix:
        weights = {kind: alpha.softmax(-1) for kind, alpha in self.alphas.items()}  # each row sums to 1
        return SoftMix(weights, skip_dropout=self.params.skip_dropout * (1 - self.epoch / self.setting.common.epochs))

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
            gradients = second_order(lambda: self.loss(train), lambda: self.loss(valid), self.trainer, alphas)
            self.passes["valid_images"] += len(valid.labels)
            self.passes["train_images"] += 3 * len(train.labels)
        self.architect.descend(gradients)

    def loss(self, batch: Batch) -> Tensor:
        return self.setting.task.loss(self.supernet(batch.images, self.mix()), batch.labels)

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        watched = self.watch(valid_pass)  # may put other alphas back: the row is of those that stay
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
            **watched,
        }

    # --- Early stopping

    def watch(self, valid_pass: ValidPass) -> dict[str, Any]:
        """What the criterion sees in this epoch, of those that move the alphas; ends the search when it is met."""
        criterion = self.params.early_stop
        if criterion == "none" or self.epoch < self.params.warmup_epochs:
            return {}
        if criterion == "skips":
            skips = most_skips(self.search_state(), self.space)
            if skips >= self.params.stop_skips:
                self.stop(f"{skips} skip connections in the cell that would be found")
            return {"skips": skips}
        first = next(iter(valid_pass()))
        value = self.eigenvalue(Batch(*(part[: self.setting.common.batch] for part in first)))
        self.sharpness.note(value, self.alphas)
        if self.sharpness.grows:
            for kind, alpha in self.sharpness.past[0].items():
                self.alphas[kind].data.copy_(alpha)
            self.stop(f"the loss bends ever more sharply along the alphas; they are taken of {WINDOW} epochs ago")
        return {"eigenvalue": value}

    def eigenvalue(self, batch: Batch) -> float:
        """By the plain supernet: the fast one's kernels have one derivative."""
        setting = self.setting
        self.passes["valid_images"] += (1 + ITERATIONS) * len(batch.labels)
        with torch.random.fork_rng([setting.device] if setting.device.type == "cuda" else []):
            plain = self.space.supernet(setting.form, setting.common, reference=True)
        plain.load_state_dict(self.supernet.state_dict())
        plain.to(setting.device).eval().requires_grad_(False)
        loss = setting.task.loss(plain(batch.images, self.mix()), batch.labels)
        return dominant_eigenvalue(loss, list(self.alphas.values()))

    def stop(self, reason: str) -> None:
        self.stopped = self.epoch
        print(f"early stop after epoch {self.epoch + 1}: {reason}", flush=True)

    def incumbent(self) -> dict[str, ArchitectureLike]:
        return {"main": self.space.compose(found_cells(self.search_state(), "top2", self.space))}

    def search_state(self) -> dict[str, Any]:
        return {"alphas": {kind: alpha.tolist() for kind, alpha in self.alphas.items()}}

    def macs(self) -> int:
        one = self.setting.space.supernet_macs(self.setting.form, self.setting.common)
        return 3 * one * sum(self.passes.values())

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "stopped": self.stopped,
            "sharpness": self.sharpness.state_dict(),
            "passes": self.passes,
            "supernet": self.supernet.state_dict(),
            "weights": self.trainer.optimiser.state_dict(),
            "architect": self.architect.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start_epoch(state["epoch"])
        self.stopped = state["stopped"]
        self.sharpness.load_state_dict(state["sharpness"])
        self.passes = dict(state["passes"])
        self.supernet.load_state_dict(state["supernet"])
        self.trainer.optimiser.load_state_dict(state["weights"])
        self.architect.load_state_dict(state["architect"])


def derive(state: dict[str, Any], params: DeriveParams, space: EdgeSpace) -> list[Derived]:
    """The paper's rule (section 2.4): per edge the strongest operation but none, per node the two strongest edges.

    Where none may stay (NAS-Bench-201) all edges do, and `top2` lets it win one (the benchmark's own DARTS: the argmax
    over all five); `top2_without_none` does not.
    """
    cells = found_cells(state, params.rule, space, params.max_skips)
    return [Derived("main", space.compose(cells), {})]


def found_cells(
    state: Mapping[str, Any], rule: str, space: EdgeSpace, max_skips: int | None = None
) -> dict[str, Pairs]:
    names, found = space.variables(), {}
    for kind, rows in state["alphas"].items():
        alpha = torch.tensor(rows, dtype=torch.float64)
        none = space.none_stays and rule == "top2"
        shares = alpha.softmax(-1) if none else real_shares(alpha, rule)
        most = None if kind.startswith("reduce") else max_skips
        found[kind] = discretised(shares, space, names[kind][0].index(SKIP), most, first=0 if none else 1)
    return found


def most_skips(state: Mapping[str, Any], space: EdgeSpace) -> int:
    """Skip connections of the cell that would be found, the most of any but a reduction cell."""
    cells = found_cells(state, "top2", space)
    return max(sum(op == SKIP for op, _ in cell) for kind, cell in cells.items() if not kind.startswith("reduce"))


def real_shares(alpha: Tensor, rule: str) -> Tensor:
    """Shares of all operations but none (index 0); none takes its part of the softmax, unless `top2_without_none`."""
    return alpha[:, 1:].softmax(-1) if rule == "top2_without_none" else alpha.softmax(-1)[:, 1:]
