"""What methods and spaces say to each other. Neither room imports the other; both import this page.

Shapes: B batch, C channels, H x W pixels, E edges (or other decision variables), O operations (or categories).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from nas.complexity import Count, count
from nas.config import Size


@dataclass(frozen=True)
class ImageForm:
    """What a network is built for: images [B, C, H, W] and the number of classes."""

    channels: int
    height: int
    width: int
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class SoftMix:
    """Every alive operation runs; an edge is the weighted sum.

    `weights`: cell type -> [E, O]. `alive`: cell type -> the operations that run on each edge, all when None;
    the others are not evaluated, whatever their weight. `skip_dropout`: probability of the dropout behind
    stride-1 skip connections.
    """

    weights: Mapping[str, Tensor]
    alive: Mapping[str, Sequence[Sequence[int]]] | None = None
    skip_dropout: float = 0.0


@dataclass(frozen=True)
class HardMix:
    """One operation per edge, and only that one runs. `choices`: cell type -> E operation indices."""

    choices: Mapping[str, Sequence[int]]


Mix = SoftMix | HardMix


class ArchitectureLike(Protocol):
    """What a method needs of an Architecture: its content and the id of it."""

    @property
    def id(self) -> str: ...

    def to_dict(self) -> dict[str, Any]: ...


class Space(ABC):
    """What may be found. `variables` are its decisions, the rest builds, draws and reads architectures."""

    name: ClassVar[str]
    mixes: ClassVar[tuple[type, ...]] = (SoftMix, HardMix)  # what its supernet takes

    @abstractmethod
    def variables(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Cell type -> the names of the categories of each decision variable (an edge's operations, for instance).

        A category that is an input and no operation has a name that begins with its number.
        """

    @abstractmethod
    def supernet(self, form: ImageForm, size: Size, reference: bool = False) -> nn.Module:
        """A network whose forward(images [B, C, H, W], mix) gives logits [B, classes].

        `reference` runs one operation after the other, as the papers' code does: the same sums, read and counted with
        ease.
        """

    def supernet_macs(
        self, form: ImageForm, size: Size, alive: Mapping[str, Sequence[Sequence[int]]] | None = None
    ) -> int:
        """Multiply-adds of one image with every (alive) operation on every edge, each counted as it is written down."""
        tables = {kind: torch.empty(len(v), len(v[0]), device="meta") for kind, v in self.variables().items()}
        return count(lambda: self.supernet(form, size, reference=True), form.shape, SoftMix(tables, alive)).macs

    def count(self, architecture: Any, form: ImageForm, size: Size) -> Count:
        """Parameters and multiply-adds of the network of an architecture, by the convention of nas.complexity."""
        return count(lambda: self.network(architecture, form, size, auxiliary=False), form.shape)

    @abstractmethod
    def network(self, architecture: Any, form: ImageForm, size: Size, auxiliary: bool) -> nn.Module:
        """A network whose forward(images) gives (logits, auxiliary logits or None); `drop_path` is settable."""

    @abstractmethod
    def random(self, generator: torch.Generator) -> ArchitectureLike:
        """An architecture drawn by the stated rule of the space."""

    @abstractmethod
    def parse(self, value: Mapping[str, Any]) -> ArchitectureLike:
        """The architecture in a record; raises ArchitectureError."""

    @abstractmethod
    def assemble(self, edges: Mapping[str, Sequence[tuple[int, float]]]) -> ArchitectureLike:
        """Cell type -> (operation, strength) per edge, to an architecture: the strongest edges of each node stay."""


Choices = Mapping[str, Sequence[int]]  # cell type -> the category of each decision variable


class CategoricalSpace(Space):
    """A space whose every architecture is one category for each of several variables, all combinations allowed."""

    def categories(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """As `variables`; a space of edges has other ones here, because it may not keep all of its edges."""
        return self.variables()

    @abstractmethod
    def choose(self, choices: Choices) -> ArchitectureLike:
        """The architecture of a choice; choices that build the same network may have the same architecture."""

    def path(self, choices: Choices) -> HardMix:
        """What the supernet runs for a choice."""
        return HardMix(choices)

    @abstractmethod
    def costs(self, form: ImageForm, size: Size, affine: bool) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Cell type -> per variable, the parameters of each category, summed over the network's cells.

        They add up over the variables; what depends on two variables at once is not in them. `affine`: with the scales
        of batch norms, as in a found network; without, as in the supernet.
        """

    def path_macs(self, form: ImageForm, size: Size, choices: Choices) -> int:
        """Multiply-adds of one image along a choice's path through the supernet."""
        return count(lambda: self.supernet(form, size, reference=True), form.shape, self.path(choices)).macs
