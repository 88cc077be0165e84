"""The interface between search methods and search spaces. Neither imports the other; both import this package.

The interface of spaces whose decisions are channels is in nas.contracts.gates.

Shapes: B batch, C channels, H x W pixels, E edges (or other decision variables), O operations (or categories).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from nas.complexity import Count, count
from nas.config.params import Size


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
    """Every alive operation runs; the output of an edge is their weighted sum.

    `weights`: cell type -> [E, O]. `alive`: cell type -> for each edge the indices of the operations that run; None
    means all. Operations that are not alive are not evaluated, whatever their weight. `skip_dropout`: probability of
    the dropout after stride-1 skip connections.
    """

    weights: Mapping[str, Tensor]
    alive: Mapping[str, Sequence[Sequence[int]]] | None = None
    skip_dropout: float = 0.0


@dataclass(frozen=True)
class HardMix:
    """One operation per edge, and only that one runs. `choices`: cell type -> E operation indices."""

    choices: Mapping[str, Sequence[int]]


Mix = SoftMix | HardMix  # how a supernet combines the operations of its edges


Pairs = Sequence[tuple[str, int]]  # a discrete cell: (operation, predecessor), two per node


@dataclass(frozen=True)
class Growth:
    """The cells of a supernet that changes during a search.

    `cell_types`: the type of each cell, in order of depth. Every cell has its own weights, also within a type.
    `discrete`: cell type -> its cell, for the types that are no longer mixed.
    """

    cell_types: tuple[str, ...]
    discrete: Mapping[str, Pairs] = field(default_factory=dict)


class ArchitectureLike(Protocol):
    """What a method needs from an Architecture: its content and its id."""

    @property
    def id(self) -> str: ...

    def to_dict(self) -> dict[str, Any]: ...


class Space(ABC):
    """A set of architectures: builds, samples, parses and counts them. Subclasses define the decisions of a search."""

    name: ClassVar[str]
    has_table: ClassVar[bool] = False
    """Whether a benchmark table lists the trained accuracy of every architecture."""
    stages: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """The cell types of each stage, in order of depth, the normal one of a stage first. Empty unless each stage has
    cells of its own."""

    @abstractmethod
    def supernet(self, form: ImageForm, size: Size, reference: bool = False) -> nn.Module:
        """A network whose forward(images [B, C, H, W], mix) returns logits [B, classes].

        `reference`: run one operation after another, as the papers' code does. The result is the same; the slow form
        is easy to read and to count.
        """

    @abstractmethod
    def supernet_macs(self, form: ImageForm, size: Size) -> int:
        """Multiply-adds of one image in the reference supernet with every operation running."""

    def count(self, architecture: Any, form: ImageForm, size: Size) -> Count:
        """Parameters and multiply-adds of the network of an architecture, by the convention of nas.complexity."""
        return count(lambda: self.network(architecture, form, size, auxiliary=False), form.shape)

    def check(self, form: ImageForm, size: Size) -> None:
        """Raises ArchitectureError if the space has no networks of this size. Computes nothing."""
        self.count(self.random(torch.Generator()), form, size)

    @abstractmethod
    def network(self, architecture: Any, form: ImageForm, size: Size, auxiliary: bool) -> nn.Module:
        """A network whose forward(images) returns (logits, auxiliary logits or None); `drop_path` is settable."""

    def trainee(self, architecture: Any, form: ImageForm, size: Size, auxiliary: bool) -> nn.Module:
        """The module that retraining trains, called like `network`. By default it is the network itself."""
        return self.network(architecture, form, size, auxiliary)

    def trained(self, trainee: nn.Module) -> nn.Module:
        """The network, as `network` builds it, with the weights of its trainee; with or without auxiliary head."""
        return trainee

    @abstractmethod
    def random(self, generator: torch.Generator) -> ArchitectureLike:
        """A random architecture. The docstring of each space states the distribution."""

    @abstractmethod
    def parse(self, value: Mapping[str, Any]) -> ArchitectureLike:
        """The architecture in a record. Raises ArchitectureError if it is not one of this space."""

    def published(self) -> Mapping[str, ArchitectureLike]:
        """Published architectures by name. Empty for most spaces."""
        return {}

    def text(self, architecture: Any) -> str | None:
        """The architecture in one line, as benchmark tables write it. None if the space has no such form."""
        return None


class EdgeSpace(Space):
    """A space whose decisions are operations on edges, one table per cell type. Its supernet takes a Mix, and can run
    all operations at once."""

    none_stays: ClassVar[bool] = False
    """Whether an edge of an architecture may be `none`, which is operation 0."""

    @abstractmethod
    def variables(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Cell type -> the names of the categories of each decision variable (the operations of an edge)."""

    @abstractmethod
    def supernet(self, form: ImageForm, size: Size, reference: bool = False, growth: Growth | None = None) -> nn.Module:
        """Without `growth` the supernet has `size.cells` cells, all of them mixed."""

    def supernet_macs(
        self,
        form: ImageForm,
        size: Size,
        alive: Mapping[str, Sequence[Sequence[int]]] | None = None,
        growth: Growth | None = None,
    ) -> int:
        """With `alive`, of the alive operations only. This default builds and counts a whole supernet in every call."""
        tables = {cell_type: torch.zeros(len(rows), len(rows[0])) for cell_type, rows in self.variables().items()}
        mix = SoftMix(tables, alive)
        return count(lambda: self.supernet(form, size, reference=True, growth=growth), form.shape, mix).macs

    @abstractmethod
    def discretise(self, edges: Sequence[tuple[int, float]]) -> Pairs:
        """The cell made of the strongest edges of each node, from (operation, strength) per edge."""

    def nodes_of(self, cell: Pairs) -> list[int]:
        """The target node of each pair of a cell, numbered after the inputs. By default there are two pairs per node,
        as in DARTS; a space may override this."""
        return [2 + at // 2 for at in range(len(cell))]

    def edges_of(self, cell: Pairs) -> list[int]:
        """The edge index of each pair of a cell. Every node has an edge from each input and each earlier node."""
        nodes = self.nodes_of(cell)
        return [sum(range(nodes[0], node)) + pred for node, (_, pred) in zip(nodes, cell, strict=True)]

    @abstractmethod
    def compose(self, cells: Mapping[str, Pairs]) -> ArchitectureLike:
        """The architecture with these cells, one per cell type."""

    def assemble(self, edges: Mapping[str, Sequence[tuple[int, float]]]) -> ArchitectureLike:
        """The architecture of a scored supernet. `edges`: cell type -> (operation, strength) per edge."""
        return self.compose({cell_type: self.discretise(scored) for cell_type, scored in edges.items()})


Choices = Mapping[str, Sequence[int]]  # cell type -> the category of each decision variable


class CategoricalSpace(Space):
    """A space whose architectures are one category for each of several variables, all combinations allowed."""

    @abstractmethod
    def categories(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Cell type -> the names of the categories of each variable. Names of inputs start with a digit."""

    @abstractmethod
    def choose(self, choices: Choices) -> ArchitectureLike:
        """The architecture of these choices. Choices that build the same network may give the same one."""

    def path(self, choices: Choices) -> HardMix:
        """The mix with which the supernet runs these choices."""
        return HardMix(choices)

    @abstractmethod
    def costs(self, form: ImageForm, size: Size, affine: bool) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Cell type -> per variable, the parameters of each category, summed over the cells of the network.

        Costs add up over the variables; a cost that depends on two variables at once is left out. `affine`: with the
        scales of batch norms, as in the network of an architecture; otherwise without, as in the supernet.
        """

    def path_macs(self, form: ImageForm, size: Size, choices: Choices) -> int:
        """Multiply-adds of one image when the supernet runs only these choices."""
        return count(lambda: self.supernet(form, size, reference=True), form.shape, self.path(choices)).macs
