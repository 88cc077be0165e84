"""What methods and spaces say to each other. Neither room imports the other; both import this page.

Shapes: B batch, C channels, H x W pixels, E edges (or other decision variables), O operations (or categories).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


Pairs = Sequence[tuple[str, int]]  # a discrete cell: (operation, predecessor), two a node


@dataclass(frozen=True)
class Growth:
    """Which supernet, where a search changes it on its way.

    `kinds`: the type of each cell, in order of depth; the weights of cells are their own, also within a type. `found`:
    the types that are discrete already; every other one is mixed.
    """

    kinds: tuple[str, ...]
    found: Mapping[str, Pairs] = field(default_factory=dict)


class ArchitectureLike(Protocol):
    """What a method needs of an Architecture: its content and the id of it."""

    @property
    def id(self) -> str: ...

    def to_dict(self) -> dict[str, Any]: ...


class Space(ABC):
    """What may be found. `variables` are its decisions, the rest builds, draws and reads architectures."""

    name: ClassVar[str]

    @abstractmethod
    def variables(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Cell type -> the names of the categories of each decision variable (an edge's operations, for instance)."""

    @abstractmethod
    def supernet(self, form: ImageForm, size: Size, reference: bool = False, growth: Growth | None = None) -> nn.Module:
        """A network whose forward(images [B, C, H, W], mix) gives logits [B, classes].

        `reference` runs one operation after the other, as the papers' code does: the same sums, read and counted with
        ease. Without `growth` it has `size.cells` cells, all of them mixed.
        """

    def supernet_macs(
        self,
        form: ImageForm,
        size: Size,
        alive: Mapping[str, Sequence[Sequence[int]]] | None = None,
        growth: Growth | None = None,
    ) -> int:
        """Multiply-adds of one image with every (alive) operation on every edge, each counted as it is written down."""
        tables = {kind: torch.empty(len(v), len(v[0]), device="meta") for kind, v in self.variables().items()}
        mix = SoftMix(tables, alive)
        return count(lambda: self.supernet(form, size, reference=True, growth=growth), form.shape, mix).macs

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
    def discretise(self, edges: Sequence[tuple[int, float]]) -> Pairs:
        """A cell of its edges' (operation, strength): the strongest edges of each node stay."""

    @abstractmethod
    def compose(self, cells: Mapping[str, Pairs]) -> ArchitectureLike:
        """The architecture of these cells, one for each type."""

    def assemble(self, edges: Mapping[str, Sequence[tuple[int, float]]]) -> ArchitectureLike:
        """Cell type -> (operation, strength) per edge, to an architecture."""
        return self.compose({kind: self.discretise(scored) for kind, scored in edges.items()})
