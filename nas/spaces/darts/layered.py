"""Space `layered`: cells as in `darts`, with a separate normal cell per stage and a reduction cell after each stage.

A stage is a run of cells of equal resolution that ends with a reduction cell. This partition is our reading of
LFR-DARTS' "several cells, from shallow to deep"; another paper with the same criticism of DARTS divides the network in
the same way (arXiv 2101.04028).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nas.architectures.base import ArchitectureError
from nas.architectures.cell_shape import DARTS_EDGES, reductions
from nas.architectures.darts import PRIMITIVES, LayeredArchitecture
from nas.config.params import Size
from nas.contracts import Growth, ImageForm, Pairs
from nas.spaces.blocks.growing import GrowingSpace
from nas.spaces.darts.cells import DartsNetwork, DartsSupernet
from nas.spaces.darts.space import random_cell, strongest_edges
from nas.spaces.registry import register_space

CELL_TYPES = ("normal_1", "reduce_1", "normal_2", "reduce_2", "normal_3")  # in order of depth


@register_space("layered")
class LayeredSpace(GrowingSpace):
    stages = (("normal_1", "reduce_1"), ("normal_2", "reduce_2"), ("normal_3",))

    def variables(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        return {cell_type: (PRIMITIVES,) * len(DARTS_EDGES) for cell_type in CELL_TYPES}

    def supernet(self, form: ImageForm, size: Size, reference: bool = False, growth: Growth | None = None) -> nn.Module:
        return DartsSupernet(form, size, growth or Growth(cell_types(size.cells)), reference)

    def network(self, architecture: LayeredArchitecture, form: ImageForm, size: Size, auxiliary: bool) -> nn.Module:
        return DartsNetwork(architecture.cells, cell_types(size.cells), form, size, auxiliary)

    def random(self, generator: torch.Generator) -> LayeredArchitecture:
        """Five cells, drawn independently, each as in `darts`."""
        return self.compose({cell_type: random_cell(generator) for cell_type in CELL_TYPES})

    def parse(self, value: Mapping[str, Any]) -> LayeredArchitecture:
        return LayeredArchitecture.parse(value)

    def discretise(self, edges: Sequence[tuple[int, float]]) -> Pairs:
        return strongest_edges(edges)

    def compose(self, cells: Mapping[str, Pairs]) -> LayeredArchitecture:
        n1, r1, n2, r2, n3 = (tuple(cells[cell_type]) for cell_type in CELL_TYPES)
        return LayeredArchitecture(normal=(n1, n2, n3), reduce=(r1, r2))


def cell_types(cells: int) -> tuple[str, ...]:
    """The type of each cell of a network of this depth; the stages are equally long if cells = 3 n + 2.

    Raises:
        ArchitectureError: the network is too shallow.
    """
    if cells < len(CELL_TYPES):
        room = f"a network of {cells} cells has no room for 3 stages and 2 reductions"
        raise ArchitectureError(f"{room}: expected at least {len(CELL_TYPES)} cells")
    first, second = reductions(cells)
    stages = ["normal_1"] * first, ["normal_2"] * (second - first - 1), ["normal_3"] * (cells - second - 1)
    return (*stages[0], "reduce_1", *stages[1], "reduce_2", *stages[2])
