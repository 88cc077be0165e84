"""Space `nasbench201_layered`: the skeleton of `nasbench201` with a separate cell in each of its three stages.

Ours, so that LFR-DARTS can search there. Of the 15,625^3 networks the benchmark knows only those with the same cell in
every stage, so the derived architectures have to be retrained.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import torch
from torch import nn

from nas.architectures.nasbench201 import CELL_TYPES, NASBENCH201_EDGES, OPERATIONS, NasBench201LayeredArchitecture
from nas.config.params import Size
from nas.contracts import Growth, ImageForm, Pairs
from nas.spaces.nasbench201.cells import NasBench201Network, NasBench201Supernet, joined, layout
from nas.spaces.nasbench201.space import EveryEdge
from nas.spaces.registry import register_space


@register_space("nasbench201_layered")
class NasBench201LayeredSpace(EveryEdge):
    stages = tuple((cell_type,) for cell_type in CELL_TYPES)

    def variables(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        return {cell_type: (OPERATIONS,) * len(NASBENCH201_EDGES) for cell_type in CELL_TYPES}

    def supernet(self, form: ImageForm, size: Size, reference: bool = False, growth: Growth | None = None) -> nn.Module:
        """The cell types of a growth include no residual blocks: there is one wherever the type changes."""
        if growth is None:
            return NasBench201Supernet(form, size, Growth(layout(size, CELL_TYPES)), reference)
        cell_types = joined(stage for _, stage in groupby(growth.cell_types))
        return NasBench201Supernet(form, size, Growth(cell_types, growth.discrete), reference)

    def network(
        self, architecture: NasBench201LayeredArchitecture, form: ImageForm, size: Size, auxiliary: bool
    ) -> nn.Module:
        return NasBench201Network(tuple(architecture.cells.values()), form, size, auxiliary)

    def random(self, generator: torch.Generator) -> NasBench201LayeredArchitecture:
        """Every operation is drawn uniformly and independently."""
        drawn = torch.randint(len(OPERATIONS), (len(CELL_TYPES), len(NASBENCH201_EDGES)), generator=generator).tolist()
        return self.parse(
            {cell_type: [OPERATIONS[op] for op in ops] for cell_type, ops in zip(CELL_TYPES, drawn, strict=True)}
        )

    def parse(self, value: Mapping[str, Any]) -> NasBench201LayeredArchitecture:
        return NasBench201LayeredArchitecture.parse(value)

    def compose(self, cells: Mapping[str, Pairs]) -> NasBench201LayeredArchitecture:
        return NasBench201LayeredArchitecture.parse(
            {cell_type: [op for op, _ in cells[cell_type]] for cell_type in CELL_TYPES}
        )
