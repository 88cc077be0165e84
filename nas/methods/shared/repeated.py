"""Several searches of one method in one trial, which keeps all results or the best."""

from collections.abc import Callable, Sequence
from typing import Any

from nas.contracts import ArchitectureLike
from nas.data.dataset import Batch
from nas.engine.tasks import Tally
from nas.methods.shared.base import SearchMethod, Setting, ValidPass
from nas.methods.shared.short_trainings import Contest


class InTurn(SearchMethod[Any]):
    """Searches of equal length, one after the other, each with its own supernet.

    `searches` build them. The generator is not reset between them, so they are independent.
    """

    def __init__(self, searches: Sequence[Callable[[], SearchMethod[Any]]], params: Any, setting: Setting) -> None:
        self.searches = searches
        super().__init__(params, setting)

    def setup(self) -> None:
        self.states: list[dict[str, Any]] = []  # of finished searches
        self.spent, self.at = 0, 0
        self.inner = self.searches[0]()
        self.passes = dict(self.inner.passes)

    @property
    def search_epochs(self) -> int:
        """Epochs of all searches."""
        return len(self.searches) * self.inner.epochs

    @property
    def epochs(self) -> int:
        return self.search_epochs

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        at, own = divmod(epoch, self.inner.epochs)
        if at != self.at:
            self.at, self.inner = at, self.searches[at]()
        self.inner.start_epoch(own)

    def step(self, train: Batch, valid: Batch) -> Tally:
        before = dict(self.inner.passes)
        tally = self.inner.step(train, valid)
        for part in self.passes:
            self.passes[part] += self.inner.passes[part] - before[part]
        return tally

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        row = self.inner.end_epoch(valid_pass)
        if (self.epoch + 1) % self.inner.epochs == 0:
            self.states.append(self.inner.search_state())
            self.spent += self.inner.macs()
        return {"search": self.at, **row}

    def incumbent(self) -> dict[str, ArchitectureLike]:
        """The incumbent of the running search."""
        return self.inner.incumbent()

    def search_state(self) -> dict[str, Any]:
        return {"searches": self.states}

    def macs(self) -> int:
        """Of the finished searches."""
        return self.spent

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "passes": self.passes,
            "spent": self.spent,
            "states": self.states,
            "inner": self.inner.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
        self.passes, self.spent, self.states = dict(state["passes"]), state["spent"], list(state["states"])
        self.at = min(self.epoch // self.inner.epochs, len(self.searches) - 1)
        self.inner = self.searches[self.at]()
        self.inner.load_state_dict(state["inner"])


class BestOf(InTurn):
    """`k` searches of one method, then a contest of their architectures.

    DARTS and P-DARTS select in this way. Such a trial reports its best search, not the mean, so it is never
    the default. `architecture` reads the architecture from a search state.
    """

    def __init__(
        self,
        search: Callable[[], SearchMethod[Any]],
        architecture: Callable[[dict[str, Any]], ArchitectureLike],
        k: int,
        epochs_each: int,
        params: Any,
        setting: Setting,
    ) -> None:
        self.read, self.epochs_each = architecture, epochs_each
        self.contest: Contest | None = None
        super().__init__([search] * k, params, setting)

    @property
    def epochs(self) -> int:
        return self.search_epochs + len(self.searches) * self.epochs_each

    def start_epoch(self, epoch: int) -> None:
        if epoch < self.search_epochs:
            super().start_epoch(epoch)
            return
        self.epoch = epoch
        if self.contest is None:
            self.contest = self.begin_contest()
        self.contest.start_epoch(epoch - self.search_epochs)

    def begin_contest(self) -> Contest:
        return Contest(self.setting, [self.read(state) for state in self.states], self.epochs_each)

    def step(self, train: Batch, valid: Batch) -> Tally:
        if self.contest is None:
            return super().step(train, valid)
        self.passes["train_images"] += len(train.labels)
        return self.contest.step(train)

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        if self.contest is None:
            return super().end_epoch(valid_pass)
        return self.contest.end_epoch(self.epoch - self.search_epochs, valid_pass)

    def incumbent(self) -> dict[str, ArchitectureLike]:
        """During the contest, the best candidate so far."""
        return super().incumbent() if self.contest is None else self.contest.incumbent()

    def search_state(self) -> dict[str, Any]:
        assert self.contest is not None
        return {"best_of": [{"state": s, **r} for s, r in zip(self.states, self.contest.results, strict=True)]}

    def macs(self) -> int:
        assert self.contest is not None
        setting = self.setting
        counts = [setting.space.count(a, setting.form, setting.common).macs for a in self.contest.candidates]
        return self.spent + 3 * self.contest.images // len(counts) * sum(counts)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "contest": None if self.contest is None else self.contest.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.contest = None
        if state["contest"] is not None:
            self.contest = self.begin_contest()
            self.contest.load_state_dict(state["contest"], self.epoch - self.search_epochs)
