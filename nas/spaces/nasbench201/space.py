"""Space `nasbench201`: the operation on each of the six edges of one cell, 15,625 in all (Dong and Yang 2020).

Every cell was trained in full by the benchmark, so a table (nas/benchmark_table.py) judges a search without retraining.
As categorical variables the edges are independent. `Size.cells` counts the residual blocks too: 3 N + 2, 17 in the
benchmark, which has 16 channels.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from nas.architectures.nasbench201 import EDGES, OPERATIONS, NasBench201Architecture
from nas.complexity import Count, count
from nas.config.params import Size
from nas.contracts import CategoricalSpace, Choices, EdgeSpace, Growth, HardMix, ImageForm, Pairs
from nas.spaces.nasbench201.cells import NONE, Network, Supernet, layout, live, operation, stage_cells
from nas.spaces.registry import register_space

KIND = "cell"


class EveryEdge(EdgeSpace):
    """A space of these cells: all edges stay, `none` among their operations."""

    none_stays = True

    def discretise(self, edges: Sequence[tuple[int, float]]) -> Pairs:
        """Every edge stays, whatever its strength."""
        return tuple((OPERATIONS[op], pred) for (op, _), (_, pred) in zip(edges, EDGES, strict=True))

    def nodes_of(self, cell: Pairs) -> list[int]:
        return [node for node, _ in EDGES]


@register_space("nasbench201")
class NasBench201Space(EveryEdge, CategoricalSpace):
    has_table = True

    def variables(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        return {KIND: (OPERATIONS,) * len(EDGES)}

    def supernet(self, form: ImageForm, size: Size, reference: bool = False, growth: Growth | None = None) -> nn.Module:
        assert growth is None, "a cell of this space is the same in every stage"
        return Supernet(form, size, layout(size, (KIND,) * 3), {}, reference)

    def network(self, architecture: NasBench201Architecture, form: ImageForm, size: Size, auxiliary: bool) -> nn.Module:
        return Network((architecture.operations,) * 3, form, size, auxiliary)

    def random(self, generator: torch.Generator) -> NasBench201Architecture:
        """Every operation uniform, one by one."""
        return self.choose({KIND: torch.randint(len(OPERATIONS), (len(EDGES),), generator=generator).tolist()})

    def parse(self, value: Mapping[str, Any]) -> NasBench201Architecture:
        return NasBench201Architecture.parse(value)

    def text(self, architecture: NasBench201Architecture) -> str:
        return architecture.text

    def compose(self, cells: Mapping[str, Pairs]) -> NasBench201Architecture:
        return NasBench201Architecture(operations=tuple(op for op, _ in cells[KIND]))

    def categories(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        return self.variables()

    def choose(self, choices: Choices) -> NasBench201Architecture:
        return NasBench201Architecture(operations=tuple(OPERATIONS[op] for op in choices[KIND]))

    # --- What it costs: the sum over edges and stages

    def count(self, architecture: NasBench201Architecture, form: ImageForm, size: Size) -> Count:
        prices, fixed = op_prices(form, stage_cells(size), size.channels, True)
        chosen = [fixed, *(prices[op] for op in architecture.operations)]
        return Count(sum(price.params for price in chosen), sum(price.macs for price in chosen))

    def costs(self, form: ImageForm, size: Size, affine: bool) -> dict[str, tuple[tuple[int, ...], ...]]:
        prices, _ = op_prices(form, stage_cells(size), size.channels, affine)
        return {KIND: (tuple(prices[op].params for op in OPERATIONS),) * len(EDGES)}

    def path_macs(self, form: ImageForm, size: Size, choices: Choices) -> int:
        """Without what leads to no output, which the supernet does not run."""
        prices, fixed = op_prices(form, stage_cells(size), size.channels, False)
        running = live([[op] for op in choices[KIND]])
        return fixed.macs + sum(prices[OPERATIONS[op]].macs for ops in running for op in ops)


@cache
def op_prices(form: ImageForm, number: int, channels: int, affine: bool) -> tuple[dict[str, Count], Count]:
    """What each operation costs on an edge, over all 3 x `number` cells, and what a network without any costs.

    `affine`: as in a found network, else as in the supernet, whose norms in cells have no scales.
    """
    size = Size(cells=3 * number + 2, channels=channels, stem="cifar")
    prices = {}
    for op in OPERATIONS:
        found = [
            count(lambda: operation(op, shape[0], affine), shape)  # noqa: B023 (called at once)
            for shape in ((channels << k, -(-form.height >> k), -(-form.width >> k)) for k in range(3))
        ]
        prices[op] = Count(number * sum(c.params for c in found), number * sum(c.macs for c in found))
    if affine:
        return prices, count(lambda: Network([["none"] * len(EDGES)] * 3, form, size, auxiliary=False), form.shape)
    nothing = HardMix({KIND: [NONE] * len(EDGES)})
    kinds = layout(size, (KIND,) * 3)
    return prices, count(lambda: Supernet(form, size, kinds, {}, reference=True), form.shape, nothing)
