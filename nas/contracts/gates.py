"""The interface of spaces whose decisions are channels: what TENAS and the space `channel` share.

Shapes: B batch, C channels, H x W pixels, E edges.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from nas.complexity import Count
from nas.config.params import Size
from nas.contracts import ArchitectureLike, ImageForm, Space

GATES = ("op", "mid", "skip")  # after the operation, in the middle of a double operation, on the skip connection


@dataclass(frozen=True)
class GateMix:
    """Every edge runs its one operation and a channel-level skip connection; each channel is multiplied by its gate.

    `gates`: per cell [E, 3, C], in the order of GATES, or [B, E, 3, C] for a gate per image. `running`: per cell and
    edge whether the operation and the skip connection run at all; None means that both do.
    """

    gates: Sequence[Tensor]
    running: Sequence[Sequence[tuple[bool, bool]]] | None = None


class GatedSupernet(nn.Module, ABC):
    """The supernet of a GateSpace: forward(images, GateMix) -> logits."""

    @abstractmethod
    def parts(self, gates: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Every weight that feeds only gated channels, with a mask of its entries that feed an open one.

        The masks are bool and can be broadcast to the shape of the weight.
        """

    @abstractmethod
    def scales(self) -> list[Tensor]:
        """Per cell |scale| [E, 3, C] of the batch norm before each gate; infinite where no batch norm precedes it."""


class GateSpace(Space):
    """A space whose decisions are channels: every edge of every cell has the same operation and keeps some channels.

    The gates of a network are one table [E, 3, C] per cell, bool, on the CPU, in the order of GATES.
    """

    feeding: ClassVar[tuple[tuple[int, ...], ...]]
    """For each node, its edges that come from an input of the cell. All channels of the inputs are alive."""

    @property
    @abstractmethod
    def gate_kinds(self) -> tuple[str, ...]:
        """Those of GATES that the operation has."""

    @abstractmethod
    def of(self, op: str) -> "GateSpace":
        """The space with this operation on every edge."""

    @abstractmethod
    def supernet(self, form: ImageForm, size: Size, reference: bool = False, affine: bool = False) -> GatedSupernet:
        """`affine`: the batch norms before the gates have scales and shifts."""

    @abstractmethod
    def every_gate(self, size: Size) -> list[Tensor]:
        """The gates of the whole network, all open."""

    @abstractmethod
    def closed(self, gates: Sequence[Tensor]) -> list[Tensor]:
        """The gates after also closing every gate that leads nowhere; below, such gates are called complete."""

    @abstractmethod
    def cells_of_stages(self, size: Size) -> Sequence[Sequence[int]]:
        """For each stage the indices of its normal cells, which all have the same width."""

    @abstractmethod
    def sizes(self, gates: Sequence[Tensor], form: ImageForm, size: Size) -> tuple[Count, Count]:
        """Sizes of the compact network and of the network with masked kernels. `gates` must be complete."""

    @abstractmethod
    def smallest(self, form: ImageForm, size: Size, skip_mode: str, mid_gates: bool) -> Count:
        """A lower bound on the compact size that pruning can reach. With skip_mode `fallback` it can be reached."""

    @abstractmethod
    def costs(self, gates: Sequence[Tensor], form: ImageForm, size: Size) -> list[Tensor]:
        """The parameters that closing each gate removes, at least 1: float64."""

    @abstractmethod
    def architecture(self, gates: Sequence[Tensor], skip_mode: str) -> ArchitectureLike:
        """The architecture with these gates, which must be complete."""

    @abstractmethod
    def statistics(self, architecture: Any) -> dict[str, Any]:
        """Statistics of the cells, JSON-able."""
