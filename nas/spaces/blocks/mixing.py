"""Weighted sums of maps on the edges of a cell: the operations that run on each edge, and their weights.

Shape legend: B batch, C width of the cell, E edges that leave a state and have an operation, H x W the map.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.spaces.blocks.kernels import BATCH_NORM_EPS

Edge = Sequence[tuple[int, Tensor | None]]  # (operation, weight; None is 1) for each operation that runs on an edge
Part = tuple[int, Tensor]  # an edge and one term of its sum


@dataclass(frozen=True)
class Held:
    """The edges that leave a state and have a certain operation. `weights`: [E]; None means that each is 1."""

    edges: tuple[int, ...]
    weights: Tensor | None

    def __iter__(self) -> Iterator[tuple[int, Tensor | None]]:
        weights = [None] * len(self.edges) if self.weights is None else self.weights.unbind()
        return zip(self.edges, weights, strict=True)

    def scale(self, channels: int) -> Tensor | None:
        """The weights repeated for the channels [E C] of the edges' concatenated maps."""
        return None if self.weights is None else self.weights.repeat_interleave(channels)


class Running:
    """What runs on each edge of a cell type: `ops` per edge, and a table of weights [edges, operations] or None, which
    means that each weight is 1."""

    def __init__(self, ops: Sequence[Sequence[int]], weights: Tensor | None) -> None:
        self.ops, self.weights = ops, weights
        self._leaving: dict[tuple[int, ...], dict[int, Held]] = {}

    @cached_property
    def edges(self) -> Sequence[Edge]:
        """Edge by edge, as the reference cell reads it."""
        if self.weights is None:
            return [[(op, None) for op in ops] for ops in self.ops]
        return [[(op, row[op]) for op in ops] for row, ops in zip(self.weights.unbind(), self.ops, strict=True)]

    def leaving(self, edges: tuple[int, ...]) -> dict[int, Held]:
        """Operation -> those of these edges that have it. `edges` all leave the same state."""
        if edges not in self._leaving:
            self._leaving[edges] = self._held(edges)
        return self._leaving[edges]

    def _held(self, edges: tuple[int, ...]) -> dict[int, Held]:
        holders: dict[int, list[int]] = defaultdict(list)
        for e in edges:
            for op in self.ops[e]:
                holders[op].append(e)
        if self.weights is None:
            return {op: Held(tuple(on), None) for op, on in holders.items()}
        rows = self.weights.unbind()
        columns = torch.stack([rows[e] for e in edges]).unbind(1)  # by operation, a weight for each edge
        return {op: Held(tuple(on), _of(columns[op], edges, on)) for op, on in holders.items()}


def _of(column: Tensor, edges: Sequence[int], some: Sequence[int]) -> Tensor:
    if len(some) == len(edges):
        return column
    weights = column.unbind()
    return torch.stack([weights[edges.index(e)] for e in some])


def weighted(plain: Sequence[tuple[Tensor, Held]]) -> list[Part]:
    """Weighted maps per edge; one small matrix product if all edges have all of them."""
    if not plain:
        return []
    edges = plain[0][1].edges
    weights = [held.weights for _, held in plain if held.weights is not None]
    if any(held.edges != edges for _, held in plain) or len(weights) < len(plain):
        return [(e, times(y, w)) for y, held in plain for e, w in held]
    maps = torch.stack([y.permute(0, 2, 3, 1) for y, _ in plain])  # [K, B, H, W, C]: channels-last stays dense
    table = torch.stack(weights).t()  # [E, K]
    mixed = (table.to(maps.dtype) @ maps.flatten(1)).view(len(edges), *maps.shape[1:])
    return [(e, y.permute(0, 3, 1, 2)) for e, y in zip(edges, mixed.unbind(), strict=True)]


def batch_norm(x: Tensor, scale: Tensor | None) -> Tensor:
    """Batch norm with the statistics of the batch, as in every cell of a supernet, and a given scale."""
    return F.batch_norm(x, None, None, scale, None, True, 0.0, BATCH_NORM_EPS)


def times(y: Tensor, weight: Tensor | None) -> Tensor:
    return y if weight is None else weight * y


def summed(maps: Sequence[Tensor]) -> Tensor:
    total = maps[0]
    for y in maps[1:]:
        total = total + y
    return total
