"""Supernets that deepen during a search, the operations that run on their edges, and the costs of these."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from nas.complexity import macs_by_module
from nas.config.params import Size
from nas.contracts import EdgeSpace, Growth, HardMix, ImageForm, Mix, Pairs, SoftMix
from nas.spaces.blocks.mixing import Running

Edges = Sequence[Sequence[int]]  # for each edge the indices of operations


class GrowingSupernet(nn.Module):
    """A supernet that is a row of cells of named types, some of which are discrete.

    The operations of a mixed cell are `cells.<index>.edges.<edge>.ops.<operation>`.
    """

    cell_types: tuple[str, ...]
    discrete: Mapping[str, Pairs]

    def inherit(self, older: "GrowingSupernet") -> None:
        """Copy the weights of a supernet from before a type became discrete or was repeated, where the shapes agree.

        The cells of a type are matched in order. A cell that the older network lacks gets the weights of the first
        cell of its type.
        """
        weights = dict(older.named_parameters()) | dict(older.named_buffers())
        with torch.no_grad():
            for name, value in [*self.named_parameters(), *self.named_buffers()]:
                source = weights.get(self._name_in(older, name))
                if source is not None and source.shape == value.shape:
                    value.copy_(source)

    def _name_in(self, older: "GrowingSupernet", name: str) -> str:
        """The name of a parameter of this network in the older one; empty for a cell of a type that it lacks."""
        if not name.startswith("cells."):
            return name
        _, place, *rest = name.split(".")
        cell_type, index = self.cell_types[int(place)], int(place)
        same_type = [at for at, other in enumerate(older.cell_types) if other == cell_type]
        turn = self.cell_types[:index].count(cell_type)
        if not same_type:
            return ""
        cell = same_type[turn] if turn < len(same_type) else same_type[0]
        return ".".join(["cells", str(cell), *self._within_cell(older, cell_type, rest)])

    def _within_cell(self, older: "GrowingSupernet", cell_type: str, name: list[str]) -> list[str]:
        """The name of a parameter of a cell in the older network's cell of the same type."""
        return name


def running_ops(mix: Mix, cell_type: str) -> Running:
    """What runs on each edge of a cell type."""
    if isinstance(mix, HardMix):
        return Running([[choice] for choice in mix.choices[cell_type]], None)
    weights = mix.weights[cell_type]
    every = range(weights.shape[1])
    return Running(mix.alive[cell_type] if mix.alive is not None else [every] * len(weights), weights)


# --- Costs


class GrowingSpace(EdgeSpace):
    """A space whose supernet is a GrowingSupernet. Its cost is a sum over operations, whose costs are cached."""

    def supernet_macs(
        self,
        form: ImageForm,
        size: Size,
        alive: Mapping[str, Edges] | None = None,
        growth: Growth | None = None,
    ) -> int:
        """With `alive`, of the alive operations only. Equal to counting the supernet."""
        discrete = {} if growth is None else growth.discrete
        fixed, costs = operation_macs(
            type(self),
            form,
            Size(cells=size.cells, channels=size.channels, stem=size.stem),
            None if growth is None else growth.cell_types,
            tuple((name, tuple((op, pred) for op, pred in cell)) for name, cell in discrete.items()),
        )
        for cell_type, table in costs.items():
            every = [range(len(row)) for row in table]
            runs = self.evaluated(every if alive is None else alive[cell_type])
            fixed += sum(row[op] for row, ops in zip(table, runs, strict=True) for op in ops)
        return fixed

    def evaluated(self, edges: Edges) -> Edges:
        """The given operations, without those that the reference cell does not evaluate."""
        return edges


@cache
def operation_macs(
    space: type[GrowingSpace],
    form: ImageForm,
    size: Size,
    cell_types: tuple[str, ...] | None,
    discrete: tuple[tuple[str, tuple[tuple[str, int], ...]], ...],
) -> tuple[int, dict[str, list[list[int]]]]:
    """Multiply-adds of one image: those outside of mixed cells, and mixed cell type -> [edge][operation].

    The cost of an operation is summed over the cells of the type. `cell_types` and `discrete` are those of a Growth;
    None is a supernet of the given size, all of whose cells are mixed.
    """
    of: Any = space()
    growth = None if cell_types is None else Growth(cell_types, dict(discrete))
    rows: dict[str, Any] = of.variables()
    mix = SoftMix({cell_type: torch.zeros(len(edges), len(edges[0])) for cell_type, edges in rows.items()})
    network, macs = macs_by_module(lambda: of.supernet(form, size, reference=True, growth=growth), form.shape, mix)
    assert isinstance(network, GrowingSupernet)
    mixed = [t for t in dict.fromkeys(network.cell_types) if t in rows and t not in network.discrete]
    costs = {cell_type: [[0] * len(names) for names in rows[cell_type]] for cell_type in mixed}
    fixed = 0
    for name, cost in macs.items():
        place = re.match(r"cells\.(\d+)\.edges\.(\d+)\.ops\.(\d+)\b", name)
        cell, edge, op = map(int, place.groups()) if place else (0, 0, 0)
        if place and (cell_type := network.cell_types[cell]) in costs:
            costs[cell_type][edge][op] += cost
        else:
            fixed += cost
    return fixed, costs
