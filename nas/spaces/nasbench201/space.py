"""Space `nasbench201`: the operation on each of the six edges of one cell, 15,625 in all (Dong and Yang 2020).

The benchmark trained every cell in full, so a table (nas/benchmark_table.py) evaluates a search without retraining. As
categorical variables the edges are independent. `Size.cells` includes the residual blocks: 3 N + 2. The benchmark has
17 cells and 16 channels.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from nas.architectures.nasbench201 import NASBENCH201_EDGES, OPERATIONS, NasBench201Architecture
from nas.complexity import Count, count
from nas.config.params import Size
from nas.contracts import CategoricalSpace, Choices, Growth, HardMix, ImageForm, Pairs
from nas.spaces.blocks.growing import Edges, GrowingSpace
from nas.spaces.nasbench201.cells import (
    NONE_INDEX,
    NasBench201Network,
    NasBench201Supernet,
    layout,
    live,
    operation,
    stage_cells,
)
from nas.spaces.registry import register_space

CELL_TYPE = "cell"


class EveryEdge(GrowingSpace):
    """A space of cells that keep all their edges; `none` is one of the operations."""

    none_stays = True

    def discretise(self, edges: Sequence[tuple[int, float]]) -> Pairs:
        """Every edge stays, whatever its strength."""
        return tuple((OPERATIONS[op], pred) for (op, _), (_, pred) in zip(edges, NASBENCH201_EDGES, strict=True))

    def nodes_of(self, cell: Pairs) -> list[int]:
        return [node for node, _ in NASBENCH201_EDGES]

    def evaluated(self, edges: Edges) -> Edges:
        return live(edges)


@register_space("nasbench201")
class NasBench201Space(EveryEdge, CategoricalSpace):
    has_table = True

    def variables(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        return {CELL_TYPE: (OPERATIONS,) * len(NASBENCH201_EDGES)}

    def supernet(self, form: ImageForm, size: Size, reference: bool = False, growth: Growth | None = None) -> nn.Module:
        assert growth is None, "a cell of this space is the same in every stage"
        return NasBench201Supernet(form, size, Growth(layout(size, (CELL_TYPE,) * 3)), reference)

    def network(self, architecture: NasBench201Architecture, form: ImageForm, size: Size, auxiliary: bool) -> nn.Module:
        return NasBench201Network((architecture.operations,) * 3, form, size, auxiliary)

    def random(self, generator: torch.Generator) -> NasBench201Architecture:
        """Every operation is drawn uniformly and independently."""
        return self.choose(
            {CELL_TYPE: torch.randint(len(OPERATIONS), (len(NASBENCH201_EDGES),), generator=generator).tolist()}
        )

    def parse(self, value: Mapping[str, Any]) -> NasBench201Architecture:
        return NasBench201Architecture.parse(value)

    def text(self, architecture: NasBench201Architecture) -> str:
        return architecture.text

    def compose(self, cells: Mapping[str, Pairs]) -> NasBench201Architecture:
        return NasBench201Architecture(operations=tuple(op for op, _ in cells[CELL_TYPE]))

    def categories(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        return self.variables()

    def choose(self, choices: Choices) -> NasBench201Architecture:
        return NasBench201Architecture(operations=tuple(OPERATIONS[op] for op in choices[CELL_TYPE]))

    # --- Costs: sums over edges and stages

    def count(self, architecture: NasBench201Architecture, form: ImageForm, size: Size) -> Count:
        prices, fixed = op_prices(form, stage_cells(size), size.channels, True)
        chosen = [fixed, *(prices[op] for op in architecture.operations)]
        return Count(sum(price.params for price in chosen), sum(price.macs for price in chosen))

    def costs(self, form: ImageForm, size: Size, affine: bool) -> dict[str, tuple[tuple[int, ...], ...]]:
        prices, _ = op_prices(form, stage_cells(size), size.channels, affine)
        return {CELL_TYPE: (tuple(prices[op].params for op in OPERATIONS),) * len(NASBENCH201_EDGES)}

    def path_macs(self, form: ImageForm, size: Size, choices: Choices) -> int:
        """Without operations that lead to no output, which the supernet does not run."""
        prices, fixed = op_prices(form, stage_cells(size), size.channels, False)
        running = live([[op] for op in choices[CELL_TYPE]])
        return fixed.macs + sum(prices[OPERATIONS[op]].macs for ops in running for op in ops)


@cache
def op_prices(form: ImageForm, number: int, channels: int, affine: bool) -> tuple[dict[str, Count], Count]:
    """The costs of each operation on an edge, summed over all 3 x `number` cells, and of a network without operations.

    `affine`: as in the network of an architecture; otherwise as in the supernet, whose norms in cells have no scales.
    """
    size = Size(cells=3 * number + 2, channels=channels, stem="cifar")
    prices = {}
    for op in OPERATIONS:
        counts = [
            count(lambda: operation(op, shape[0], affine), shape)  # noqa: B023 (called at once)
            for shape in ((channels << k, -(-form.height >> k), -(-form.width >> k)) for k in range(3))
        ]
        prices[op] = Count(number * sum(c.params for c in counts), number * sum(c.macs for c in counts))
    if affine:
        return prices, count(
            lambda: NasBench201Network([["none"] * len(NASBENCH201_EDGES)] * 3, form, size, auxiliary=False), form.shape
        )
    nothing = HardMix({CELL_TYPE: [NONE_INDEX] * len(NASBENCH201_EDGES)})
    growth = Growth(layout(size, (CELL_TYPE,) * 3))
    return prices, count(lambda: NasBench201Supernet(form, size, growth, reference=True), form.shape, nothing)
