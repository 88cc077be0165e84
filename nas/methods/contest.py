"""Architectures compared by short trainings: random search does so with its draws, `best_of_k` with its searches."""

from collections.abc import Callable, Sequence
from typing import Any

from nas.contracts import ArchitectureLike
from nas.data.dataset import Batch
from nas.methods.base import SearchMethod, Setting, ValidPass, WeightTrainer
from nas.tasks import Tally, judge


class Contest:
    """Networks trained from scratch one after the other, for as many epochs each, and compared on the valid half."""

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
        if (epoch + 1) % self.epochs_each == 0:  # the last epoch of a candidate is what it is judged by
            self.network.eval()
            tally = judge(lambda images: self.network(images)[0], valid_pass(), self.setting.task)
            row["valid_loss"], row["valid_acc"] = tally.means()
            self.results.append({"valid_loss": row["valid_loss"], "valid_acc": row["valid_acc"]})
        return row

    def incumbent(self) -> dict[str, ArchitectureLike]:
        """The best so far, once there is one."""
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
        """Candidates are handed to the constructor; `epoch` is that of the state."""
        self.results, self.images = list(state["results"]), state["images"]
        self.build(epoch // self.epochs_each)
        self.start_epoch(epoch)
        self.network.load_state_dict(state["network"])
        self.trainer.optimiser.load_state_dict(state["weights"])


def best(results: Sequence[dict[str, Any]]) -> int:
    """The candidate of highest validation accuracy; ties: lower loss, then the earlier one."""
    return min(range(len(results)), key=lambda at: (-results[at]["valid_acc"], results[at]["valid_loss"]))


class BestOf(SearchMethod[Any]):
    """`k` searches of one method, one after the other, then a contest of what they found.

    DARTS and P-DARTS choose like this; a row of it is no mean over searches, so it is never the default. `found` reads
    an architecture from a search state.
    """

    def __init__(
        self,
        search: Callable[[], SearchMethod[Any]],
        found: Callable[[dict[str, Any]], ArchitectureLike],
        k: int,
        epochs_each: int,
        params: Any,
        setting: Setting,
    ) -> None:
        self.search, self.read, self.k, self.epochs_each = search, found, k, epochs_each
        super().__init__(params, setting)

    def setup(self) -> None:
        self.states: list[dict[str, Any]] = []
        self.spent, self.run = 0, 0
        self.inner = self.search()
        self.contest: Contest | None = None

    @property
    def searching(self) -> int:
        """Epochs of all searches."""
        return self.k * self.inner.epochs

    @property
    def epochs(self) -> int:
        return self.searching + self.k * self.epochs_each

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        run, own = divmod(epoch, self.inner.epochs)
        if epoch >= self.searching:
            if self.contest is None:
                self.contest = self.begin_contest()
            self.contest.start_epoch(epoch - self.searching)
            return
        if run != self.run:
            self.run, self.inner = run, self.search()
        self.inner.start_epoch(own)

    def begin_contest(self) -> Contest:
        return Contest(self.setting, [self.read(state) for state in self.states], self.epochs_each)

    def step(self, train: Batch, valid: Batch) -> Tally:
        if self.contest is not None:
            self.passes["train_images"] += len(train.labels)
            return self.contest.step(train)
        before = dict(self.inner.passes)
        tally = self.inner.step(train, valid)
        for part in self.passes:
            self.passes[part] += self.inner.passes[part] - before[part]
        return tally

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        if self.contest is not None:
            return self.contest.end_epoch(self.epoch - self.searching, valid_pass)
        row = self.inner.end_epoch(valid_pass)
        if (self.epoch + 1) % self.inner.epochs == 0:
            self.states.append(self.inner.search_state())
            self.spent += self.inner.macs()
        return row

    def incumbent(self) -> dict[str, ArchitectureLike]:
        """What the search under way has, then the best of the contest."""
        return (self.inner if self.contest is None else self.contest).incumbent()

    def search_state(self) -> dict[str, Any]:
        assert self.contest is not None
        return {"best_of": [{"state": s, **r} for s, r in zip(self.states, self.contest.results, strict=True)]}

    def macs(self) -> int:
        assert self.contest is not None
        setting = self.setting
        counts = [setting.space.count(a, setting.form, setting.common).macs for a in self.contest.candidates]
        return self.spent + 3 * self.contest.images // len(counts) * sum(counts)

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "passes": self.passes,
            "spent": self.spent,
            "states": self.states,
            "inner": self.inner.state_dict(),
            "contest": None if self.contest is None else self.contest.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.passes, self.spent, self.states = dict(state["passes"]), state["spent"], list(state["states"])
        self.epoch = state["epoch"]
        self.run, self.inner, self.contest = min(self.epoch // self.inner.epochs, self.k - 1), self.search(), None
        self.inner.load_state_dict(state["inner"])
        if state["contest"] is not None:
            self.contest = self.begin_contest()
            self.contest.load_state_dict(state["contest"], self.epoch - self.searching)
