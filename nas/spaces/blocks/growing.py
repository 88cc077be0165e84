"""A supernet that deepens in the course of a search, and what runs on the edges of its cells."""

from collections.abc import Mapping

import torch
from torch import nn

from nas.contracts import HardMix, Mix, Pairs
from nas.spaces.blocks.mixing import Running


class GrowingSupernet(nn.Module):
    """A supernet that is a row of cells of named types, of which some are found."""

    kinds: tuple[str, ...]
    found: Mapping[str, Pairs]

    def inherit(self, older: "GrowingSupernet") -> None:
        """Take the weights of a supernet from before a type was found or repeated, wherever the shapes agree.

        The cells of a type follow each other in order; one that the older network lacks takes those of its first.
        """
        weights = dict(older.named_parameters()) | dict(older.named_buffers())
        with torch.no_grad():
            for name, value in [*self.named_parameters(), *self.named_buffers()]:
                source = weights.get(self._name_in(older, name))
                if source is not None and source.shape == value.shape:
                    value.copy_(source)

    def _name_in(self, older: "GrowingSupernet", name: str) -> str:
        """What a parameter of this network is called in the older one; empty for a cell of a type that it lacks."""
        if not name.startswith("cells."):
            return name
        _, place, *rest = name.split(".")
        kind, index = self.kinds[int(place)], int(place)
        holders = [at for at, held in enumerate(older.kinds) if held == kind]
        turn = self.kinds[:index].count(kind)
        if not holders:
            return ""
        cell = holders[turn] if turn < len(holders) else holders[0]
        return ".".join(["cells", str(cell), *self._within_cell(older, kind, rest)])

    def _within_cell(self, older: "GrowingSupernet", kind: str, name: list[str]) -> list[str]:
        """What a parameter of a cell is called in the older network's cell of its type."""
        return name


def running(mix: Mix, kind: str) -> Running:
    """What runs on each edge of a cell type."""
    if isinstance(mix, HardMix):
        return Running([[choice] for choice in mix.choices[kind]], None)
    weights = mix.weights[kind]
    every = range(weights.shape[1])
    return Running(mix.alive[kind] if mix.alive is not None else [every] * len(weights), weights)
