"""Random search at equal budget: the best of n cells, each trained as a network and compared on the valid half.

Every table needs this row. The cells are drawn by the rule of the space. The budget is counted in multiply-adds: all
candidates together may spend what a first-order relaxed search of `search.common` spends on its supernet, one weight
and one architecture pass per step (ours; by the clock the two agree within a small factor that depends on the device).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field

from nas.config import Section
from nas.contracts import Space
from nas.data.dataset import Batch
from nas.methods.base import Derived, SearchMethod, Setting, ValidPass, WeightTrainer
from nas.tasks import Tally, judge


class Params(Section):
    space: Literal["darts", "layered"]
    samples: int = Field(ge=1)


class DeriveParams(Section):
    rule: Literal["best"]


class Method(SearchMethod[Params]):
    def setup(self) -> None:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        self.candidates = [self.setting.space.random(generator) for _ in range(self.params.samples)]
        self.candidate_macs = self.count_candidates()
        self.epochs_each = epochs_each(self.setting, self.candidate_macs)
        self.results: list[dict[str, Any]] = []
        self.build(0)

    @property
    def epochs(self) -> int:
        return self.epochs_each * len(self.candidates)

    def build(self, candidate: int) -> None:
        """A fresh network, optimiser and schedule for one candidate."""
        setting = self.setting
        network = setting.space.network(self.candidates[candidate], setting.form, setting.common, auxiliary=False)
        self.candidate, self.network = candidate, setting.place(network)
        self.trainer = WeightTrainer(self.network, setting.common, self.epochs_each)

    def count_candidates(self) -> list[int]:
        """Multiply-adds of each candidate at search size, one image."""
        setting = self.setting
        return [setting.space.count(a, setting.form, setting.common).macs for a in self.candidates]

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        candidate, own_epoch = divmod(epoch, self.epochs_each)
        if candidate != self.candidate:
            self.build(candidate)
        self.trainer.start_epoch(own_epoch)
        self.network.train()

    def step(self, train: Batch, valid: Batch) -> Tally:
        logits, _ = self.network(train.images)
        loss = self.setting.task.loss(logits, train.labels)
        self.trainer.descend(loss)
        self.passes["train_images"] += len(train.labels)
        return Tally.of(loss, self.setting.task.correct(logits, train.labels), len(train.labels))

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        row: dict[str, Any] = {"lr": self.trainer.lr, "candidate": self.candidate}
        if (self.epoch + 1) % self.epochs_each == 0:  # the last epoch of a candidate is what it is judged by
            self.network.eval()
            tally = judge(lambda images: self.network(images)[0], valid_pass(), self.setting.task)
            row["valid_loss"], row["valid_acc"] = tally.means()
            self.results.append({"valid_loss": row["valid_loss"], "valid_acc": row["valid_acc"]})
        return row

    def search_state(self) -> dict[str, Any]:
        rows = zip(self.candidates, self.candidate_macs, self.results, strict=True)
        candidates = [{"architecture": a.to_dict(), "id": a.id, "macs": m, **result} for a, m, result in rows]
        return {"epochs_each": self.epochs_each, "candidates": candidates}

    def macs(self) -> int:
        per_candidate = self.passes["train_images"] // len(self.candidates)  # all see the same images equally often
        return 3 * per_candidate * sum(self.candidate_macs)

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "passes": self.passes,
            "candidates": [a.to_dict() for a in self.candidates],
            "results": self.results,
            "network": self.network.state_dict(),
            "weights": self.trainer.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.candidates = [self.setting.space.parse(a) for a in state["candidates"]]
        self.candidate_macs = self.count_candidates()
        self.epochs_each = epochs_each(self.setting, self.candidate_macs)
        self.passes, self.results = dict(state["passes"]), list(state["results"])
        self.build(state["epoch"] // self.epochs_each)
        self.start_epoch(state["epoch"])
        self.network.load_state_dict(state["network"])
        self.trainer.optimiser.load_state_dict(state["weights"])


def epochs_each(setting: Setting, candidate_macs: Sequence[int]) -> int:
    """Epochs per candidate, the same for all, so that together they stay within the budget; at least one."""
    budget = 2 * setting.common.epochs * setting.space.supernet_macs(setting.form, setting.common)
    return max(1, budget // sum(candidate_macs))


def derive(state: dict[str, Any], params: DeriveParams, space: Space) -> list[Derived]:
    """The candidate of highest validation accuracy at its last epoch; ties: lower loss, then the earlier draw."""
    ranked = sorted(state["candidates"], key=lambda c: (-c["valid_acc"], c["valid_loss"]))
    best = ranked[0]
    return [Derived("main", space.parse(best["architecture"]), {"valid_acc": best["valid_acc"]})]
