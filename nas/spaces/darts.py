"""Space `darts`: a normal and a reduction cell, 14 edges x 8 operations each (Liu, Simonyan, Yang 2019)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nas.config import Size
from nas.contracts import EdgeSpace, Growth, ImageForm, Pairs
from nas.spaces.architecture import EDGES, NODES, PRIMITIVES, Cell, DartsArchitecture
from nas.spaces.cells import Network, Supernet, reductions
from nas.spaces.registry import register_space


@register_space("darts")
class DartsSpace(EdgeSpace):
    def variables(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        return {kind: (PRIMITIVES,) * len(EDGES) for kind in ("normal", "reduce")}

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

    def discretise(self, edges: Sequence[tuple[int, float]]) -> Pairs:
        return strongest_edges(edges)

    def compose(self, cells: Mapping[str, Pairs]) -> DartsArchitecture:
        return DartsArchitecture(normal=tuple(cells["normal"]), reduce=tuple(cells["reduce"]))


def kinds(cells: int) -> tuple[str, ...]:
    """The type of each cell of a network of this depth."""
    return tuple("reduce" if index in reductions(cells) else "normal" for index in range(cells))


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
