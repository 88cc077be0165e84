"""Space `darts`: a normal and a reduction cell, 14 edges x 8 operations each (Liu, Simonyan, Yang 2019).

As categorical variables (ours): a node chooses its pair of distinct predecessors, then an operation other than none for
each of the two. These 24 variables make the architectures of `random`, each exactly once; in the supernet the edges
that no node chose run `none`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Any

import torch
from torch import nn

from nas.architectures.base import Cell
from nas.architectures.cell_shape import EDGES, NODES, reductions
from nas.architectures.darts import PRIMITIVES, DartsArchitecture
from nas.architectures.genotypes import GENOTYPES
from nas.complexity import count
from nas.config.params import Size
from nas.contracts import CategoricalSpace, Choices, EdgeSpace, Growth, HardMix, ImageForm, Pairs
from nas.spaces.blocks.op_costs import op_prices
from nas.spaces.blocks.ops import OPS
from nas.spaces.darts.cells import Network, Supernet
from nas.spaces.registry import register_space

KINDS = ("normal", "reduce")
REAL = PRIMITIVES[1:]  # all but none
PAIRS = {node: list(combinations(range(node), 2)) for node in range(2, 2 + NODES)}


@register_space("darts")
class DartsSpace(EdgeSpace, CategoricalSpace):
    def variables(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        return {kind: (PRIMITIVES,) * len(EDGES) for kind in KINDS}

    def supernet(self, form: ImageForm, size: Size, reference: bool = False, growth: Growth | None = None) -> nn.Module:
        return Supernet(form, size, growth or Growth(kinds(size.cells)), reference)

    def network(self, architecture: DartsArchitecture, form: ImageForm, size: Size, auxiliary: bool) -> nn.Module:
        return Network(architecture.cells, kinds(size.cells), form, size, auxiliary)

    def random(self, generator: torch.Generator) -> DartsArchitecture:
        """Per node two distinct predecessors, each with an operation other than none; all drawn uniformly."""
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
        return dict.fromkeys(KINDS, tuple(row for node in PAIRS for row in (names[node], REAL, REAL)))

    def choose(self, choices: Choices) -> DartsArchitecture:
        cells = {kind: tuple((PRIMITIVES[op], pred) for _, pred, op in chosen_edges(choices[kind])) for kind in KINDS}
        return DartsArchitecture(normal=cells["normal"], reduce=cells["reduce"])

    def path(self, choices: Choices) -> HardMix:
        return HardMix({kind: path_of(choices[kind]) for kind in KINDS})

    def costs(self, form: ImageForm, size: Size, affine: bool) -> dict[str, tuple[tuple[int, ...], ...]]:
        """A skip is free here, though with stride 2 it has weights: that depends on the predecessor."""
        prices = op_prices(REAL, lambda op, c, stride: OPS[op](c, stride, affine), form, size)
        found = {}
        for kind in KINDS:
            ops = tuple(prices[kind, op, 1][0] for op in REAL)
            found[kind] = tuple(row for pairs in PAIRS.values() for row in ((0,) * len(pairs), ops, ops))
        return found

    def path_macs(self, form: ImageForm, size: Size, choices: Choices) -> int:
        prices, fixed = path_prices(form, size.cells, size.channels)
        return fixed + sum(
            prices[kind, PRIMITIVES[op], 2 if kind == "reduce" and pred < 2 else 1][1]
            for kind in KINDS
            for _, pred, op in chosen_edges(choices[kind])
        )


def kinds(cells: int) -> tuple[str, ...]:
    """The type of each cell of a network of this depth."""
    return tuple("reduce" if index in reductions(cells) else "normal" for index in range(cells))


def chosen_edges(choices: Sequence[int]) -> list[tuple[int, int, int]]:
    """(node, predecessor, operation) of the eight edges that the variables of a cell type choose."""
    found = []
    for at, (node, pairs) in enumerate(PAIRS.items()):
        pair, *ops = choices[3 * at : 3 * at + 3]
        found += [(node, pred, op + 1) for pred, op in zip(pairs[pair], ops, strict=True)]
    return found


def path_of(choices: Sequence[int]) -> list[int]:
    """The operation of each of the fourteen edges; none where there is no edge."""
    chosen = {(node, pred): op for node, pred, op in chosen_edges(choices)}
    return [chosen.get(edge, 0) for edge in EDGES]


@cache
def path_prices(form: ImageForm, cells: int, channels: int) -> tuple[dict[tuple[str, str, int], list[int]], int]:
    """What each operation costs in the supernet, and what a path without any: multiply-adds of one image."""
    size = Size(cells=cells, channels=channels, stem="cifar")
    nothing = HardMix({kind: [0] * len(EDGES) for kind in KINDS})
    fixed = count(lambda: Supernet(form, size, Growth(kinds(cells)), True), form.shape, nothing).macs
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

    `edges`: (operation, strength) of each of the 14 edges, in the order of EDGES. DARTS, section 2.4.
    """
    pairs = []
    for node in range(2, 2 + NODES):
        incoming = [(edges[e], pred) for e, (j, pred) in enumerate(EDGES) if j == node]
        kept = sorted(incoming, key=lambda edge: -edge[0][1])[:2]  # a stable sort keeps the lower first
        pairs += [(PRIMITIVES[op], pred) for (op, _), pred in sorted(kept, key=lambda edge: edge[1])]
    return tuple(pairs)
