"""Space `layered`: cells as in `darts`, but another normal cell in each stage and another reduction cell behind each.

A stage is a stretch of equal resolution, ended by a reduction cell. This partition is our reading of LFR-DARTS'
"several cells, from shallow to deep"; another paper with the same criticism of DARTS divides alike (arXiv 2101.04028).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nas.architectures.base import ArchitectureError
from nas.architectures.cell_shape import EDGES, reductions
from nas.architectures.darts import PRIMITIVES, LayeredArchitecture
from nas.config.params import Size
from nas.contracts import EdgeSpace, Growth, ImageForm, Pairs
from nas.spaces.darts.cells import Network, Supernet
from nas.spaces.darts.space import random_cell, strongest_edges
from nas.spaces.registry import register_space

KINDS = ("normal_1", "reduce_1", "normal_2", "reduce_2", "normal_3")  # in order of depth


@register_space("layered")
class LayeredSpace(EdgeSpace):
    stages = (("normal_1", "reduce_1"), ("normal_2", "reduce_2"), ("normal_3",))

    def variables(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        return {kind: (PRIMITIVES,) * len(EDGES) for kind in KINDS}

    def supernet(self, form: ImageForm, size: Size, reference: bool = False, growth: Growth | None = None) -> nn.Module:
        return Supernet(form, size, growth or Growth(kinds(size.cells)), reference)

    def network(self, architecture: LayeredArchitecture, form: ImageForm, size: Size, auxiliary: bool) -> nn.Module:
        return Network(architecture.cells, kinds(size.cells), form, size, auxiliary)

    def random(self, generator: torch.Generator) -> LayeredArchitecture:
        """Five cells, each by the rule of `darts`, drawn independently."""
        return self.compose({kind: random_cell(generator) for kind in KINDS})

    def parse(self, value: Mapping[str, Any]) -> LayeredArchitecture:
        return LayeredArchitecture.parse(value)

    def discretise(self, edges: Sequence[tuple[int, float]]) -> Pairs:
        return strongest_edges(edges)

    def compose(self, cells: Mapping[str, Pairs]) -> LayeredArchitecture:
        n1, r1, n2, r2, n3 = (tuple(cells[kind]) for kind in KINDS)
        return LayeredArchitecture(normal=(n1, n2, n3), reduce=(r1, r2))


def kinds(cells: int) -> tuple[str, ...]:
    """The type of each cell of a network of this depth; the stages are equally long where cells = 3 n + 2.

    Raises:
        ArchitectureError: it is too shallow.
    """
    if cells < len(KINDS):
        room = f"a network of {cells} cells has no room for 3 stages and 2 reductions"
        raise ArchitectureError(f"{room}: expected cells of {len(KINDS)} or more")
    first, second = reductions(cells)
    stages = ["normal_1"] * first, ["normal_2"] * (second - first - 1), ["normal_3"] * (cells - second - 1)
    return (*stages[0], "reduce_1", *stages[1], "reduce_2", *stages[2])
