"""Space `darts`: a normal and a reduction cell, 14 edges x 8 operations each (Liu, Simonyan, Yang 2019).

As categorical variables (ours): a node chooses its pair of distinct predecessors, then an operation other than none for
each of the two. These 24 variables describe every architecture of `random` exactly once. In the supernet the edges that
no node chose run `none`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Any

import torch
from torch import nn

from nas.architectures.base import Cell
from nas.architectures.cell_shape import DARTS_EDGES, NODES, reductions
from nas.architectures.darts import PRIMITIVES, DartsArchitecture
from nas.architectures.genotypes import GENOTYPES
from nas.complexity import count
from nas.config.params import Size
from nas.contracts import CategoricalSpace, Choices, Growth, HardMix, ImageForm, Pairs
from nas.spaces.blocks.growing import GrowingSpace
from nas.spaces.blocks.op_costs import op_prices
from nas.spaces.blocks.ops import OPS
from nas.spaces.darts.cells import DartsNetwork, DartsSupernet
from nas.spaces.registry import register_space

CELL_TYPES = ("normal", "reduce")
REAL = PRIMITIVES[1:]  # all but none
PAIRS = {node: list(combinations(range(node), 2)) for node in range(2, 2 + NODES)}


@register_space("darts")
class DartsSpace(GrowingSpace, CategoricalSpace):
    def variables(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        return {cell_type: (PRIMITIVES,) * len(DARTS_EDGES) for cell_type in CELL_TYPES}

    def supernet(self, form: ImageForm, size: Size, reference: bool = False, growth: Growth | None = None) -> nn.Module:
        return DartsSupernet(form, size, growth or Growth(cell_types(size.cells)), reference)

    def network(self, architecture: DartsArchitecture, form: ImageForm, size: Size, auxiliary: bool) -> nn.Module:
        return DartsNetwork(architecture.cells, cell_types(size.cells), form, size, auxiliary)

    def random(self, generator: torch.Generator) -> DartsArchitecture:
        """For each node two distinct predecessors, each with an operation other than none; all drawn uniformly."""
        normal, reduce = random_cell(generator), random_cell(generator)
        return DartsArchitecture(normal=normal, reduce=reduce)

    def parse(self, value: Mapping[str, Any]) -> DartsArchitecture:
        return DartsArchitecture.parse(value)

    def published(self) -> Mapping[str, DartsArchitecture]:
        return GENOTYPES

    def discretise(self, edges: Sequence[tuple[int, float]]) -> Pairs:
        return strongest_edges(edges)

    def compose(self, cells: Mapping[str, Pairs]) -> DartsArchitecture:
        return DartsArchitecture(normal=tuple(cells["normal"]), reduce=tuple(cells["reduce"]))

    def categories(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Per node its pairs of predecessors, then the operations of the lower and of the higher one."""
        names = {node: tuple(f"{low}+{high}" for low, high in pairs) for node, pairs in PAIRS.items()}
        return dict.fromkeys(CELL_TYPES, tuple(row for node in PAIRS for row in (names[node], REAL, REAL)))

    def choose(self, choices: Choices) -> DartsArchitecture:
        cells = {
            cell_type: tuple((PRIMITIVES[op], pred) for _, pred, op in chosen_edges(choices[cell_type]))
            for cell_type in CELL_TYPES
        }
        return DartsArchitecture(normal=cells["normal"], reduce=cells["reduce"])

    def path(self, choices: Choices) -> HardMix:
        return HardMix({cell_type: path_of(choices[cell_type]) for cell_type in CELL_TYPES})

    def costs(self, form: ImageForm, size: Size, affine: bool) -> dict[str, tuple[tuple[int, ...], ...]]:
        """A skip connection counts 0, although one of stride 2 has weights: the stride depends on the predecessor."""
        prices = op_prices(REAL, lambda op, c, stride: OPS[op](c, stride, affine), form, size)
        costs = {}
        for cell_type in CELL_TYPES:
            ops = tuple(prices[cell_type, op, 1][0] for op in REAL)
            costs[cell_type] = tuple(row for pairs in PAIRS.values() for row in ((0,) * len(pairs), ops, ops))
        return costs

    def path_macs(self, form: ImageForm, size: Size, choices: Choices) -> int:
        prices, fixed = path_prices(form, size.cells, size.channels)
        return fixed + sum(
            prices[cell_type, PRIMITIVES[op], 2 if cell_type == "reduce" and pred < 2 else 1][1]
            for cell_type in CELL_TYPES
            for _, pred, op in chosen_edges(choices[cell_type])
        )


def cell_types(cells: int) -> tuple[str, ...]:
    """The type of each cell of a network of this depth."""
    return tuple("reduce" if index in reductions(cells) else "normal" for index in range(cells))


def chosen_edges(choices: Sequence[int]) -> list[tuple[int, int, int]]:
    """(node, predecessor, operation) of the eight edges that the variables of a cell type choose."""
    edges = []
    for at, (node, pairs) in enumerate(PAIRS.items()):
        pair, *ops = choices[3 * at : 3 * at + 3]
        edges += [(node, pred, op + 1) for pred, op in zip(pairs[pair], ops, strict=True)]
    return edges


def path_of(choices: Sequence[int]) -> list[int]:
    """The operation of each of the 14 edges; none where no node chose the edge."""
    chosen = {(node, pred): op for node, pred, op in chosen_edges(choices)}
    return [chosen.get(edge, 0) for edge in DARTS_EDGES]


@cache
def path_prices(form: ImageForm, cells: int, channels: int) -> tuple[dict[tuple[str, str, int], list[int]], int]:
    """Multiply-adds of one image in the supernet: the costs of each operation, and of a path without operations."""
    size = Size(cells=cells, channels=channels, stem="cifar")
    nothing = HardMix({cell_type: [0] * len(DARTS_EDGES) for cell_type in CELL_TYPES})
    fixed = count(lambda: DartsSupernet(form, size, Growth(cell_types(cells)), True), form.shape, nothing).macs
    return op_prices(REAL, lambda op, c, stride: OPS[op](c, stride, False), form, size), fixed


def random_cell(generator: torch.Generator) -> Cell:
    pairs = []
    for node in range(2, 2 + NODES):
        preds = sorted(torch.randperm(node, generator=generator)[:2].tolist())
        ops = torch.randint(1, len(PRIMITIVES), (2,), generator=generator).tolist()
        pairs += [(PRIMITIVES[op], pred) for op, pred in zip(ops, preds, strict=True)]
    return tuple(pairs)


def strongest_edges(edges: Sequence[tuple[int, float]]) -> Cell:
    """Per node the two edges of largest strength (ties: lower predecessor), in ascending order of predecessor.

    `edges`: (operation, strength) of each of the 14 edges, in the order of DARTS_EDGES. DARTS, section 2.4.
    """
    pairs = []
    for node in range(2, 2 + NODES):
        incoming = [(edges[e], pred) for e, (j, pred) in enumerate(DARTS_EDGES) if j == node]
        kept = sorted(incoming, key=lambda edge: -edge[0][1])[:2]  # a stable sort keeps the lower first
        pairs += [(PRIMITIVES[op], pred) for (op, _), pred in sorted(kept, key=lambda edge: edge[1])]
    return tuple(pairs)
