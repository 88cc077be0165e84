"""DARTS, first and second order: an alpha step on the valid batch, then a weight step on the train batch.

Source: Liu, Simonyan, Yang 2019, arXiv 1806.09055, sections 2.2 to 2.4; quark0/darts, cnn/architect.py. The relaxation
and both steps are the defaults of RelaxedSearch (nas/methods/shared/relaxed_search.py). First order is xi = 0 of
equation 7, second order xi = lr of the weights. Ours: `warmup_epochs` (0 in the paper), batches of the two halves
paired by step, and that the supernet is judged by batch statistics.
Options against the collapse into skip connections: `early_stop` (nas/methods/shared/early_stopping.py), a dropout
behind skips that decreases (P-DARTS, arXiv 1904.12760, section 3.3; here linearly to 0, ours) and a limit on their
number when a cell is derived.
"""

from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from nas.architectures.cell_shape import is_reduction
from nas.config.params import SearchCommon
from nas.config.sections import Section
from nas.contracts import ArchitectureLike, EdgeSpace, Pairs
from nas.data.dataset import Batch
from nas.methods.shared.base import Derived, ValidPass
from nas.methods.shared.early_stopping import ITERATIONS, WINDOW, Sharpness, dominant_eigenvalue
from nas.methods.shared.relaxed import SKIP_CONNECT, darts_cells
from nas.methods.shared.relaxed_search import RelaxedParams, RelaxedSearch


class Params(RelaxedParams):
    order: Literal["first", "second"]
    warmup_epochs: int = Field(ge=0)
    early_stop: Literal["none", "skips", "eigenvalue"]
    stop_skips: int = Field(ge=1)  # in the derived cell, at which `skips` stops the search
    skip_dropout: float = Field(ge=0, lt=1)  # in the first epoch

    @model_validator(mode="after")
    def no_dropout_in_second_order(self) -> Self:
        if self.skip_dropout > 0 and self.order == "second":
            raise ValueError(
                "'order: second' needs 'skip_dropout: 0': its finite difference would compare dropout masks"
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
    max_skips: int | None = Field(ge=0)  # of a cell that is not a reduction cell


class Method(RelaxedSearch[Params]):
    def setup(self) -> None:
        self.second_order = self.params.order == "second"
        self.stopped: int | None = None  # the last epoch, after an early stop
        self.sharpness = Sharpness()
        super().setup()

    @property
    def epochs(self) -> int:
        return super().epochs if self.stopped is None else self.stopped + 1

    @property
    def alphas_learn(self) -> bool:
        return self.epoch >= self.params.warmup_epochs

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.skip_dropout = self.params.skip_dropout * (1 - epoch / self.setting.common.epochs)

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        watched = self.watch(valid_pass)  # first: it may restore earlier alphas, which the row then describes
        return {**super().end_epoch(valid_pass), **watched}

    def incumbent(self) -> dict[str, ArchitectureLike]:
        return {"main": self.space.compose(self.cells())}

    def cells(self) -> dict[str, Pairs]:
        """The cells that `top2` would derive now."""
        return darts_cells(self.search_state()["alphas"], self.space)

    # --- Early stopping

    def watch(self, valid_pass: ValidPass) -> dict[str, Any]:
        """The stopping criterion's figure in an epoch that moves alphas; ends the search if the criterion is met."""
        criterion = self.params.early_stop
        if criterion == "none" or not self.alphas_learn:
            return {}
        if criterion == "skips":
            skips = most_skips(self.cells())
            if skips >= self.params.stop_skips:
                self.stop(f"{skips} skip connections in the cell that would be derived")
            return {"skips": skips}
        first = next(iter(valid_pass()))
        value = self.eigenvalue(Batch(*(part[: self.setting.common.batch] for part in first)))
        self.sharpness.note(value, self.alphas)
        if self.sharpness.grows:
            for cell_type, alpha in self.sharpness.past[0].items():
                self.alphas[cell_type].data.copy_(alpha)
            self.stop(f"the loss gets sharper along the alphas; those of {WINDOW} epochs ago are restored")
        return {"eigenvalue": value}

    def eigenvalue(self, batch: Batch) -> float:
        """On the plain supernet: the kernels of the fast one cannot be differentiated twice."""
        setting = self.setting
        self.spend("valid_images", (1 + ITERATIONS) * len(batch.labels))
        with torch.random.fork_rng([setting.device] if setting.device.type == "cuda" else []):
            plain = self.space.supernet(setting.form, setting.common, reference=True)
        plain.load_state_dict(self.supernet.state_dict())
        plain.to(setting.device).eval().requires_grad_(False)
        loss = setting.task.loss(plain(batch.images, self.mix()), batch.labels)
        return dominant_eigenvalue(loss, list(self.alphas.values()))

    def stop(self, reason: str) -> None:
        self.stopped = self.epoch
        print(f"early stop after epoch {self.epoch + 1}: {reason}", flush=True)

    # --- State

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "stopped": self.stopped, "sharpness": self.sharpness.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.stopped = state["stopped"]
        self.sharpness.load_state_dict(state["sharpness"])


def most_skips(cells: dict[str, Pairs]) -> int:
    """The largest number of skip connections in a cell that is not a reduction cell."""
    counts = {cell_type: sum(op == SKIP_CONNECT for op, _ in cell) for cell_type, cell in cells.items()}
    return max(count for cell_type, count in counts.items() if not is_reduction(cell_type))


def derive(state: dict[str, Any], params: DeriveParams, space: EdgeSpace) -> list[Derived]:
    """The paper's rule (section 2.4), see `darts_cells`."""
    return [Derived("main", space.compose(darts_cells(state["alphas"], space, params.rule, params.max_skips)), {})]
