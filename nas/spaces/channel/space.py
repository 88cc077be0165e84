"""Space `channel`: one fixed operation on all 14 edges of every cell; the decisions are the channels of each edge.

Ours, as a reading of TENAS' abstract (docs/methods/tenas.md), on the skeleton of DARTS. In nas/architectures: sets of
channels in channel_masks.py, their costs in channel_sizes.py, changes of size in channel_transfer.py. In this folder:
the networks in gated.py, compact.py and masked.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nas.architectures.cell_shape import DARTS_EDGES, NODES
from nas.architectures.channel import ChannelArchitecture
from nas.architectures.channel_masks import Gates, Masks, closed, every, stages, statistics, uniform, widths
from nas.architectures.channel_sizes import OPERATIONS, effective, first_halves, marginal, nominal
from nas.complexity import Count
from nas.config.params import Size
from nas.contracts import ImageForm
from nas.contracts.gates import GATES, GateSpace
from nas.spaces.channel.compact import CompactNetwork
from nas.spaces.channel.gated import GatedNetwork
from nas.spaces.channel.masked import MaskedNetwork
from nas.spaces.channel.tables import to_gates, to_masks
from nas.spaces.registry import register_space

SMALLEST = Size(cells=3, channels=2, stem="cifar")


@register_space("channel")
class ChannelSpace(GateSpace):
    feeding: ClassVar[tuple[tuple[int, ...], ...]] = tuple(
        tuple(e for e, (j, pred) in enumerate(DARTS_EDGES) if j == node and pred < 2) for node in range(2, 2 + NODES)
    )

    def __init__(self, op: str = "sep_conv_3x3") -> None:
        self.op = op

    @property
    def gate_kinds(self) -> tuple[str, ...]:
        return GATES if OPERATIONS[self.op].double else ("op", "skip")

    def of(self, op: str) -> "ChannelSpace":
        return ChannelSpace(op)

    def supernet(self, form: ImageForm, size: Size, reference: bool = False, affine: bool = False) -> GatedNetwork:
        """`reference` computes the edges of a cell one by one."""
        return GatedNetwork(form, size, self.op, affine, reference)

    def supernet_macs(self, form: ImageForm, size: Size) -> int:
        return effective(uniform(self.op, size.cells, size.channels), form, size.stem).macs

    def network(
        self, architecture: ChannelArchitecture, form: ImageForm, size: Size, auxiliary: bool
    ) -> CompactNetwork:
        """The compact network. Raises TransferError if the masks cannot be adapted to this size."""
        return CompactNetwork(architecture.masks_at(size.cells, size.channels), form, size, auxiliary)

    def trainee(
        self, architecture: ChannelArchitecture, form: ImageForm, size: Size, auxiliary: bool
    ) -> CompactNetwork | MaskedNetwork:
        if architecture.form == "compact":
            return self.network(architecture, form, size, auxiliary)
        return MaskedNetwork(architecture.masks_at(size.cells, size.channels), form, size, auxiliary)

    def trained(self, trainee: nn.Module) -> nn.Module:
        return trainee.compact() if isinstance(trainee, MaskedNetwork) else trainee

    def count(self, architecture: ChannelArchitecture, form: ImageForm, size: Size) -> Count:
        """By formulas. Tests compare them with counting, which takes seconds for so many small kernels."""
        return Count(*effective(architecture.masks_at(size.cells, size.channels), form, size.stem))

    def check(self, form: ImageForm, size: Size) -> None:
        self.count(self.random(torch.Generator(), size), form, size)

    def random(self, generator: torch.Generator, size: Size = SMALLEST) -> ChannelArchitecture:
        """Every gate is open with probability 1/2. Per node one skip from an input, uniformly drawn, is always open."""
        gates = self.every_gate(size)
        for table in gates:
            halves = torch.rand(table.shape, generator=generator) < 0.5
            halves[:, 1] |= not OPERATIONS[self.op].double
            table &= halves
            for edges in self.feeding:
                drawn = torch.randint(len(edges) * table.shape[-1], (), generator=generator)
                place, channel = divmod(int(drawn), table.shape[-1])
                table[edges[place], 2, channel] = True
        return self.architecture(self.closed(gates), "gated")

    def parse(self, value: Mapping[str, Any]) -> ChannelArchitecture:
        return ChannelArchitecture.parse(value)

    def every_gate(self, size: Size) -> list[Tensor]:
        return [torch.ones(len(DARTS_EDGES), 3, width, dtype=torch.bool) for width in widths(size.cells, size.channels)]

    def closed(self, gates: Sequence[Tensor]) -> list[Tensor]:
        return to_gates(closed(to_masks(gates, self.op)))

    def cells_of_stages(self, size: Size) -> list[range]:
        return stages(size.cells)

    def sizes(self, gates: Sequence[Tensor], form: ImageForm, size: Size) -> tuple[Count, Count]:
        masks = to_masks(gates, self.op)
        return Count(*effective(masks, form, size.stem)), Count(*nominal(masks, form, size.stem))

    def smallest(self, form: ImageForm, size: Size, skip_mode: str, mid_gates: bool) -> Count:
        """Without gates in the middle of double operations: all first halves (a requirement of ours). Otherwise one
        channel per node, from the newer input, or with `fallback` every skip."""
        masks = uniform(self.op, size.cells, size.channels, lambda w: Gates(0, 0, every(w)))
        if not mid_gates and OPERATIONS[self.op].double:
            return Count(first_halves(masks, form, size.stem), 0)
        if skip_mode == "fallback":
            return Count(*effective(masks, form, size.stem))
        kept = Gates(1, 1, 0) if skip_mode == "none" else Gates(0, 0, 1)
        lifelines = {edges[1] for edges in self.feeding}
        cell = tuple(kept if e in lifelines else Gates(0, 0, 0) for e in range(len(DARTS_EDGES)))
        return Count(*effective(Masks(self.op, size.channels, (cell,) * size.cells), form, size.stem))

    def costs(self, gates: Sequence[Tensor], form: ImageForm, size: Size) -> list[Tensor]:
        costs = marginal(to_masks(gates, self.op), form, size.stem)
        return [torch.tensor(cell, dtype=torch.float64) for cell in costs]

    def architecture(self, gates: Sequence[Tensor], skip_mode: str) -> ChannelArchitecture:
        return ChannelArchitecture.of(to_masks(gates, self.op), skip_mode)

    def statistics(self, architecture: ChannelArchitecture) -> dict[str, Any]:
        return statistics(architecture.masks)
