"""Space `nasbench201_layered`: the skeleton of `nasbench201` with another cell in each of its three stages.

Ours, so that LFR-DARTS can search there. 15,625^3 networks, of which no table knows but those with one cell everywhere,
so what is found has to be retrained.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import torch
from torch import nn

from nas.architectures.nasbench201 import EDGES, KINDS, OPERATIONS, NasBench201LayeredArchitecture
from nas.config.params import Size
from nas.contracts import Growth, ImageForm, Pairs
from nas.spaces.nasbench201.cells import Network, Supernet, joined, layout
from nas.spaces.nasbench201.space import EveryEdge
from nas.spaces.registry import register_space


@register_space("nasbench201_layered")
class NasBench201LayeredSpace(EveryEdge):
    stages = (("cell_1",), ("cell_2",), ("cell_3",))

    def variables(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        return {kind: (OPERATIONS,) * len(EDGES) for kind in KINDS}

    def supernet(self, form: ImageForm, size: Size, reference: bool = False, growth: Growth | None = None) -> nn.Module:
        """The row of a growth has no residual blocks: they stand where the type changes."""
        if growth is None:
            return Supernet(form, size, layout(size, KINDS), {}, reference)
        kinds = joined(stage for _, stage in groupby(growth.kinds))
        return Supernet(form, size, kinds, growth.found, reference)

    def network(
        self, architecture: NasBench201LayeredArchitecture, form: ImageForm, size: Size, auxiliary: bool
    ) -> nn.Module:
        return Network(tuple(architecture.cells.values()), form, size, auxiliary)

    def random(self, generator: torch.Generator) -> NasBench201LayeredArchitecture:
        """Every operation uniform, one by one, stage by stage."""
        drawn = torch.randint(len(OPERATIONS), (len(KINDS), len(EDGES)), generator=generator).tolist()
        return self.parse({kind: [OPERATIONS[op] for op in ops] for kind, ops in zip(KINDS, drawn, strict=True)})

    def parse(self, value: Mapping[str, Any]) -> NasBench201LayeredArchitecture:
        return NasBench201LayeredArchitecture.parse(value)

    def compose(self, cells: Mapping[str, Pairs]) -> NasBench201LayeredArchitecture:
        return NasBench201LayeredArchitecture.parse({kind: [op for op, _ in cells[kind]] for kind in KINDS})
