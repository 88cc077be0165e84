"""What methods and spaces say to each other. Neither room imports the other; both import this page.

Shapes: B batch, C channels, H x W pixels, E edges (or other decision variables), O operations (or categories).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
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


Mix = SoftMix | HardMix  # of edges


@dataclass(frozen=True)
class GateMix:
    """The one operation of every edge runs, each channel times its gate; so does the channel-level skip beside it.

    `gates`: per cell [E, 3, C], the three being those of GATES; or [B, E, 3, C], a gate per image. `running`: per cell
    and edge whether the operation and the skip run at all, both when None.
    """

    gates: Sequence[Tensor]
    running: Sequence[Sequence[tuple[bool, bool]]] | None = None


GATES = ("op", "mid", "skip")  # on what the operation gives, in the middle of a double one, on the skip


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
    """What may be found: builds, draws and reads architectures. Its decisions are those of a subclass."""

    name: ClassVar[str]
    has_table: ClassVar[bool] = False  # whether a benchmark table knows the architectures

    @abstractmethod
    def supernet(self, form: ImageForm, size: Size, reference: bool = False) -> nn.Module:
        """A network whose forward(images [B, C, H, W], mix) gives logits [B, classes].

        `reference` runs one operation after the other, as the papers' code does: the same sums, read and counted with
        ease.
        """

    @abstractmethod
    def supernet_macs(self, form: ImageForm, size: Size) -> int:
        """Multiply-adds of one image with everything that a search may run, each counted as it is written down."""

    def count(self, architecture: Any, form: ImageForm, size: Size) -> Count:
        """Parameters and multiply-adds of the network of an architecture, by the convention of nas.complexity."""
        return count(lambda: self.network(architecture, form, size, auxiliary=False), form.shape)

    def check(self, form: ImageForm, size: Size) -> None:
        """Raises ArchitectureError where the space has no networks of this size. Nothing is computed."""
        self.count(self.random(torch.Generator()), form, size)

    @abstractmethod
    def network(self, architecture: Any, form: ImageForm, size: Size, auxiliary: bool) -> nn.Module:
        """A network whose forward(images) gives (logits, auxiliary logits or None); `drop_path` is settable."""

    def trainee(self, architecture: Any, form: ImageForm, size: Size, auxiliary: bool) -> nn.Module:
        """What retraining trains, used as `network` is: that network itself, unless a space has a way around it."""
        return self.network(architecture, form, size, auxiliary)

    def trained(self, trainee: nn.Module) -> nn.Module:
        """The network of `network` with the weights of its trainee, with or without its auxiliary head."""
        return trainee

    @abstractmethod
    def random(self, generator: torch.Generator) -> ArchitectureLike:
        """An architecture drawn by the stated rule of the space."""

    @abstractmethod
    def parse(self, value: Mapping[str, Any]) -> ArchitectureLike:
        """The architecture in a record; raises ArchitectureError."""

    def published(self) -> Mapping[str, ArchitectureLike]:
        """Architectures in print, by name; most spaces have none."""
        return {}

    def text(self, architecture: Any) -> str | None:
        """All of an architecture in one line that tables know it by; None where there is no such form."""
        return None


class EdgeSpace(Space):
    """A space whose decisions are operations on edges, one table per cell type; its supernet takes a Mix."""

    stages: ClassVar[tuple[tuple[str, ...], ...]] = ()  # cell types of each stage by depth, if each has its own
    none_stays: ClassVar[bool] = False  # whether an edge of an architecture may be `none`, which is operation 0

    @abstractmethod
    def variables(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Cell type -> the names of the categories of each decision variable (an edge's operations, for instance)."""

    @abstractmethod
    def supernet(self, form: ImageForm, size: Size, reference: bool = False, growth: Growth | None = None) -> nn.Module:
        """Without `growth` it has `size.cells` cells, all of them mixed."""

    def supernet_macs(
        self,
        form: ImageForm,
        size: Size,
        alive: Mapping[str, Sequence[Sequence[int]]] | None = None,
        growth: Growth | None = None,
    ) -> int:
        """Of the alive operations alone, where they are given."""
        tables = {kind: torch.empty(len(v), len(v[0]), device="meta") for kind, v in self.variables().items()}
        mix = SoftMix(tables, alive)
        return count(lambda: self.supernet(form, size, reference=True, growth=growth), form.shape, mix).macs

    @abstractmethod
    def discretise(self, edges: Sequence[tuple[int, float]]) -> Pairs:
        """A cell of its edges' (operation, strength): the strongest edges of each node stay."""

    def nodes_of(self, cell: Pairs) -> list[int]:
        """The node that each pair of a cell leads to; inputs are the numbers below. Two pairs a node, as in DARTS,
        unless a space says so."""
        return [2 + at // 2 for at in range(len(cell))]

    def edges_of(self, cell: Pairs) -> list[int]:
        """Index of the edge that each pair of a cell is on; every node has one from each state before it."""
        nodes = self.nodes_of(cell)
        return [sum(range(nodes[0], node)) + pred for node, (_, pred) in zip(nodes, cell, strict=True)]

    @abstractmethod
    def compose(self, cells: Mapping[str, Pairs]) -> ArchitectureLike:
        """The architecture of these cells, one for each type."""

    def assemble(self, edges: Mapping[str, Sequence[tuple[int, float]]]) -> ArchitectureLike:
        """Cell type -> (operation, strength) per edge, to an architecture."""
        return self.compose({kind: self.discretise(scored) for kind, scored in edges.items()})


class GatedSupernet(nn.Module, ABC):
    """The supernet of a space of gates: forward(images, GateMix) -> logits."""

    @abstractmethod
    def parts(self, gates: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Every weight that feeds gated channels alone, with its part (bool, broadcasts) that feeds an open one."""

    @abstractmethod
    def scales(self) -> list[Tensor]:
        """Per cell |scale| [E, 3, C] of the batch norm before each gate, infinite where there is none."""


class GateSpace(Space):
    """A space whose decisions are channels: one fixed operation on every edge of every cell, and what each edge keeps.

    Gates of a network are a table [E, 3, C] per cell, bool on the CPU; the three are those of GATES.
    """

    feeding: ClassVar[tuple[tuple[int, ...], ...]]  # per node its edges from the inputs, whose channels always live

    @property
    @abstractmethod
    def kinds(self) -> tuple[str, ...]:
        """Those of GATES that the operation has."""

    @abstractmethod
    def of(self, op: str) -> "GateSpace":
        """The space with this operation on every edge."""

    @abstractmethod
    def supernet(self, form: ImageForm, size: Size, reference: bool = False, affine: bool = False) -> GatedSupernet:
        """`affine`: the batch norms before the gates have scales and shifts."""

    @abstractmethod
    def every_gate(self, size: Size) -> list[Tensor]:
        """All there are: open, where the operation has such a gate."""

    @abstractmethod
    def closed(self, gates: Sequence[Tensor]) -> list[Tensor]:
        """The gates with everything closed that leads nowhere."""

    @abstractmethod
    def stages(self, size: Size) -> Sequence[Sequence[int]]:
        """Cells that may have the same gates: the normal ones of each width."""

    @abstractmethod
    def sizes(self, gates: Sequence[Tensor], form: ImageForm, size: Size) -> tuple[Count, Count]:
        """Of closed gates: the compact network, and the one whose kernels are masked."""

    @abstractmethod
    def smallest(self, form: ImageForm, size: Size, skip_mode: str, mid_gates: bool) -> Count:
        """Sizes that no gates go below (`gated`, `none`: a bound; `fallback`: reached)."""

    @abstractmethod
    def costs(self, gates: Sequence[Tensor], form: ImageForm, size: Size) -> list[Tensor]:
        """Parameters that go with each gate, at least 1: float64."""

    @abstractmethod
    def architecture(self, gates: Sequence[Tensor], skip_mode: str) -> ArchitectureLike:
        """The record of closed gates."""

    @abstractmethod
    def statistics(self, architecture: Any) -> dict[str, Any]:
        """How the cells came out, JSON-able."""


Choices = Mapping[str, Sequence[int]]  # cell type -> the category of each decision variable


class CategoricalSpace(Space):
    """A space whose every architecture is one category for each of several variables, all combinations allowed."""

    @abstractmethod
    def categories(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Cell type -> the names of the categories of each variable; that of an input begins with its number."""

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
