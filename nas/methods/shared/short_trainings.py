"""Compare architectures by short trainings: random search compares its draws, `best_of_k` its searches."""

from collections.abc import Sequence
from math import inf
from typing import Any

from nas.contracts import ArchitectureLike
from nas.data.dataset import Batch
from nas.engine.tasks import Tally, judge
from nas.methods.shared.base import Setting, ValidPass, WeightTrainer
from nas.records import finite


class Contest:
    """Train networks from scratch one after the other, for `epochs_each` each, and compare them on the valid half."""

    def __init__(self, setting: Setting, candidates: Sequence[ArchitectureLike], epochs_each: int) -> None:
        self.setting, self.candidates, self.epochs_each = setting, candidates, epochs_each
        self.results: list[dict[str, Any]] = []
        self.images = 0
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

    def start_epoch(self, epoch: int) -> None:
        candidate, own_epoch = divmod(epoch, self.epochs_each)
        if candidate != self.candidate:
            self.build(candidate)
        self.trainer.start_epoch(own_epoch)
        self.network.train()

    def step(self, train: Batch) -> Tally:
        logits, _ = self.network(train.images)
        loss = self.setting.task.loss(logits, train.labels)
        self.trainer.descend(loss)
        self.images += len(train.labels)
        return Tally.of(loss, self.setting.task.correct(logits, train.labels), len(train.labels))

    def end_epoch(self, epoch: int, valid_pass: ValidPass) -> dict[str, Any]:
        row: dict[str, Any] = {"lr": self.trainer.lr, "candidate": self.candidate}
        if (epoch + 1) % self.epochs_each == 0:  # a candidate is judged by its last epoch
            self.network.eval()
            tally = judge(lambda images: self.network(images)[0], valid_pass(), self.setting.task)
            row["valid_loss"], row["valid_acc"] = tally.means()
            self.results.append(finite({"valid_loss": row["valid_loss"], "valid_acc": row["valid_acc"]}))
        return row

    def incumbent(self) -> dict[str, ArchitectureLike]:
        """The best candidate so far; empty before the first is judged."""
        return {"main": self.candidates[best(self.results)]} if self.results else {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "candidates": [a.to_dict() for a in self.candidates],
            "results": self.results,
            "images": self.images,
            "network": self.network.state_dict(),
            "weights": self.trainer.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], epoch: int) -> None:
        """Construct with the candidates of the state first. `epoch`: that of the state."""
        self.results, self.images = list(state["results"]), state["images"]
        self.build(epoch // self.epochs_each)
        self.start_epoch(epoch)
        self.network.load_state_dict(state["network"])
        self.trainer.optimiser.load_state_dict(state["weights"])


def best(results: Sequence[dict[str, Any]]) -> int:
    """The candidate of highest validation accuracy; ties: lower loss (null: infinite), then the earlier one."""

    def rank(at: int) -> tuple[float, float]:
        accuracy, loss = results[at]["valid_acc"], results[at]["valid_loss"]
        return -accuracy, inf if loss is None else loss

    return min(range(len(results)), key=rank)
