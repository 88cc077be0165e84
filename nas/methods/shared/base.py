"""The contract of a search method, the optimiser of the weights, and figures that several methods report.

A method owns its supernet (or networks), its architecture variables and their optimisers. The loop passes it batches
and writes the checkpoint. `derive` sees nothing but `search_state`. All randomness comes from torch's global
generator, which the loop seeds and saves.
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
    """What a search is given: the space, the form of the images, the budget, the device. `steps`: weight steps per
    epoch."""

    space: Space
    form: ImageForm
    common: SearchCommon
    device: torch.device
    precision: str
    steps: int
    graphs: bool = False
    task: Classification = field(default_factory=Classification)

    def place(self, network: nn.Module) -> nn.Module:
        """The network on the device, in the layout and precision that all networks run in (nas.engine.placement)."""
        return place(network, self.device, self.precision, self.graphs)


@dataclass(frozen=True)
class Derived:
    """An architecture that `derive` made. `name` distinguishes several of one trial.

    Its network has `retrain.channels` channels. `like`: the name of another architecture; the network then has the even
    width whose number of parameters is closest to that of the other one.
    """

    name: str
    architecture: ArchitectureLike
    notes: dict[str, Any]
    like: str | None = None


ValidPass = Callable[[], Iterator[Batch]]  # every validation image once, in file order, not augmented


class SearchMethod(ABC, Generic[P]):
    """One search. `state_dict` holds everything that changes, so that a resumed search ends with the same bits."""

    def __init__(self, params: P, setting: Setting) -> None:
        self.params = params
        self.setting = setting
        self.epoch = 0
        self.passes = {"train_images": 0, "valid_images": 0}  # images that went forward and backward
        self.setup()

    @classmethod
    def build(cls, params: P, setting: Setting) -> "SearchMethod[Any]":
        """The search of these parameters. A method whose parameters may ask for several searches overrides this."""
        return cls(params, setting)

    @property
    def epochs(self) -> int:
        return self.setting.common.epochs

    @abstractmethod
    def setup(self) -> None:
        """Build networks, architecture variables and optimisers."""

    def start_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch. Overrides call this method too; it may run twice for one epoch."""
        self.epoch = epoch

    @abstractmethod
    def step(self, train: Batch, valid: Batch) -> Tally:
        """Learn from one batch of each half. Returns the tally of the weight step."""

    @abstractmethod
    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        """A flat row of numbers for the history; docs/design.md lists the names."""

    def incumbent(self) -> dict[str, ArchitectureLike]:
        """What `derive` would return if the search ended with this epoch, by name; empty by default."""
        return {}

    @abstractmethod
    def search_state(self) -> dict[str, Any]:
        """Everything that `derive` needs, JSON-able."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, in types that `torch.load(weights_only=True)` accepts."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    @abstractmethod
    def macs(self) -> int:
        """Multiply-adds spent on training so far; a backward pass counts as two forward passes."""


class WeightTrainer:
    """SGD with momentum, weight decay, gradient clipping and a cosine over `epochs` (DARTS, cnn/train_search.py).

    `lr_warmup_epochs` (0 in DARTS) replace the first values of the cosine.
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
        """One step. Operations that did not run have no gradient, so neither momentum nor decay moves them."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.common.clip)
        self.optimiser.step()

    def velocity(self) -> list[Tensor | None]:
        """Momentum buffer of each parameter, None before its first step."""
        return [self.optimiser.state.get(p, {}).get("momentum_buffer") for p in self.parameters]


@contextmanager
def frozen(weights: Sequence[Tensor]) -> Iterator[None]:
    """A context in which no gradients of these weights are computed: a third less work in an architecture step."""
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
    """`ops.<cell type>.<op>`: number of edges on which this operation has the largest share.

    Categories that choose an input (their names start with a digit) are not operations and are left out.
    """
    counts: dict[str, int] = {}
    for cell_type, table in tables.items():
        rows = names[cell_type]
        counts |= {f"ops.{cell_type}.{name}": 0 for row in rows for name in row if not name[0].isdigit()}
        for row, top in zip(rows, table.detach().argmax(-1).tolist(), strict=True):
            if not row[top][0].isdigit():
                counts[f"ops.{cell_type}.{row[top]}"] += 1
    return counts
