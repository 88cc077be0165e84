"""Random search at equal budget: the best of n cells, each trained as a network and compared on the valid half.

The baseline of every table. The cells are drawn by the rule of the space. The budget is counted in multiply-adds: all
candidates together may spend what a first-order relaxed search of `search.common` spends on its supernet, one weight
and one architecture pass per step (ours; wall times agree within a small factor that depends on the device).
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from nas.config.params import MethodParams
from nas.config.sections import Section
from nas.contracts import ArchitectureLike, EdgeSpace, Space
from nas.data.dataset import Batch
from nas.engine.tasks import Tally
from nas.methods.shared.base import Derived, SearchMethod, Setting, ValidPass
from nas.methods.shared.short_trainings import Contest, best


class Params(MethodParams):
    samples: int = Field(ge=1)

    needs: ClassVar[str] = "a space of operations on edges"

    @classmethod
    def accepts(cls, space: Any) -> bool:
        return isinstance(space, EdgeSpace)


class DeriveParams(Section):
    rule: Literal["best"]


class Method(SearchMethod[Params]):
    def setup(self) -> None:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        self.begin([self.setting.space.random(generator) for _ in range(self.params.samples)])

    def begin(self, candidates: Sequence[ArchitectureLike]) -> None:
        setting = self.setting
        self.candidate_macs = [setting.space.count(a, setting.form, setting.common).macs for a in candidates]
        self.contest = Contest(setting, candidates, epochs_each(setting, self.candidate_macs))

    @property
    def epochs(self) -> int:
        return self.contest.epochs

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.contest.start_epoch(epoch)

    def step(self, train: Batch, valid: Batch) -> Tally:
        self.passes["train_images"] += len(train.labels)
        return self.contest.step(train)

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        return self.contest.end_epoch(self.epoch, valid_pass)

    def incumbent(self) -> dict[str, ArchitectureLike]:
        return self.contest.incumbent()

    def search_state(self) -> dict[str, Any]:
        rows = zip(self.contest.candidates, self.candidate_macs, self.contest.results, strict=True)
        candidates = [{"architecture": a.to_dict(), "id": a.id, "macs": m, **result} for a, m, result in rows]
        return {"epochs_each": self.contest.epochs_each, "candidates": candidates}

    def macs(self) -> int:
        per_candidate = self.contest.images // len(self.candidate_macs)  # all see equally many images
        return 3 * per_candidate * sum(self.candidate_macs)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "passes": self.passes, "contest": self.contest.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.begin([self.setting.space.parse(a) for a in state["contest"]["candidates"]])
        self.epoch, self.passes = state["epoch"], dict(state["passes"])
        self.contest.load_state_dict(state["contest"], self.epoch)


def epochs_each(setting: Setting, candidate_macs: Sequence[int]) -> int:
    """Epochs per candidate, the same for all, so that the total stays within the budget; at least one."""
    budget = 2 * setting.common.epochs * setting.space.supernet_macs(setting.form, setting.common)
    return max(1, budget // sum(candidate_macs))


def derive(state: dict[str, Any], params: DeriveParams, space: Space) -> list[Derived]:
    """The candidate of highest validation accuracy at its last epoch; ties: lower loss, then the earlier draw."""
    winner = state["candidates"][best(state["candidates"])]
    return [Derived("main", space.parse(winner["architecture"]), {"valid_acc": winner["valid_acc"]})]
