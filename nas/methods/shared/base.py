"""The contract of a search method, and what every method needs: the weights' optimiser and the validation pass.

A method owns its supernet (or networks), its architecture variables and their optimisers. The loop hands it batches
and keeps the checkpoint; `search_state` is all that `derive` will ever see. Randomness comes from torch's global
generator, which the loop seeds and checkpoints.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from nas.config.params import SearchCommon
from nas.config.sections import Section
from nas.contracts import ArchitectureLike, ImageForm, Space
from nas.data.dataset import Batch
from nas.engine.placement import place
from nas.engine.schedules import cosine, warmup_from_third
from nas.engine.tasks import Classification, Tally

P = TypeVar("P", bound=Section)


@dataclass(frozen=True)
class Setting:
    """What a search is given: where, on what, at which budget. `steps` are weight steps per epoch."""

    space: Space
    form: ImageForm
    common: SearchCommon
    device: torch.device
    precision: str
    steps: int
    graphs: bool = False
    task: Classification = field(default_factory=Classification)

    def place(self, network: nn.Module) -> nn.Module:
        """As every network here runs (nas.engine.placement)."""
        return place(network, self.device, self.precision, self.graphs)


@dataclass(frozen=True)
class Derived:
    """An architecture that a search found; `name` tells several of one trial apart.

    Its network has `retrain.channels`, or with `like` the even width that comes nearest to the parameters of the
    architecture of that name.
    """

    name: str
    architecture: ArchitectureLike
    notes: dict[str, Any]
    like: str | None = None


ValidPass = Callable[[], Iterator[Batch]]  # every validation image once, in file order, not augmented


class SearchMethod(ABC, Generic[P]):
    """One search. Everything that changes in it is in `state_dict`, so that a killed search ends with the same bits."""

    def __init__(self, params: P, setting: Setting) -> None:
        self.params = params
        self.setting = setting
        self.epoch = 0
        self.passes = {"train_images": 0, "valid_images": 0}  # images that went forward and backward
        self.setup()

    @property
    def epochs(self) -> int:
        return self.setting.common.epochs

    @abstractmethod
    def setup(self) -> None:
        """Build networks, architecture variables and optimisers."""

    def start_epoch(self, epoch: int) -> None:
        """Set what follows the epoch; extend, do not replace."""
        self.epoch = epoch

    @abstractmethod
    def step(self, train: Batch, valid: Batch) -> Tally:
        """Learn from one batch of each half; the tally of the weight step."""

    @abstractmethod
    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        """A flat row for the history: numbers, in the names of docs/design.md."""

    def incumbent(self) -> dict[str, ArchitectureLike]:
        """What would be found if the search ended with this epoch, by the names of `derive`; nothing by default."""
        return {}

    @abstractmethod
    def search_state(self) -> dict[str, Any]:
        """JSON-able: everything that derive needs."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, in types that `torch.load(weights_only=True)` takes."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    @abstractmethod
    def macs(self) -> int:
        """Multiply-adds spent on training so far, a backward pass counted as two forward passes."""


class WeightTrainer:
    """SGD with momentum, weight decay, gradient clipping and a cosine over `epochs` (DARTS, cnn/train_search.py).

    `lr_warmup_epochs`, 0 in DARTS, take the place of the cosine's first values, in every course of it.
    """

    def __init__(self, network: nn.Module, common: SearchCommon, epochs: int) -> None:
        self.common, self.epochs = common, epochs
        self.parameters = list(network.parameters())
        self.optimiser = torch.optim.SGD(
            self.parameters, common.lr, common.momentum, weight_decay=common.weight_decay, foreach=True
        )

    def start_epoch(self, epoch: int) -> None:
        common = self.common
        planned = cosine(epoch, self.epochs, common.lr, common.lr_min)
        self.optimiser.param_groups[0]["lr"] = warmup_from_third(epoch, common.lr_warmup_epochs, common.lr, planned)

    @property
    def lr(self) -> float:
        return float(self.optimiser.param_groups[0]["lr"])

    def descend(self, loss: Tensor) -> None:
        """One step; operations that did not run keep no gradient and so take no momentum or decay step."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.common.clip)
        self.optimiser.step()

    def velocity(self) -> list[Tensor | None]:
        """Momentum buffer of each parameter, None before its first step."""
        return [self.optimiser.state.get(p, {}).get("momentum_buffer") for p in self.parameters]


@contextmanager
def frozen(weights: Sequence[Tensor]) -> Iterator[None]:
    """For an architecture step: no gradient of a weight is computed, which is a third of a step's work."""
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def entropy(tables: Iterable[Tensor]) -> float:
    """Mean entropy in nats of the rows of several probability tables."""
    rows = torch.cat([torch.special.entr(table.detach().double()).sum(-1).flatten() for table in tables])
    return rows.mean().item()


def op_counts(tables: Mapping[str, Tensor], names: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, int]:
    """`ops.<cell type>.<op>`: on how many edges this operation has the largest share; a choice of inputs is none."""
    counts: dict[str, int] = {}
    for kind, table in tables.items():
        counts |= {f"ops.{kind}.{name}": 0 for row in names[kind] for name in row if not name[0].isdigit()}
        for row, top in zip(names[kind], table.detach().argmax(-1).tolist(), strict=True):
            if not row[top][0].isdigit():
                counts[f"ops.{kind}.{row[top]}"] += 1
    return counts
