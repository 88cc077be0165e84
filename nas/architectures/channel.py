"""Record of the space `channel`: the kept channels of every edge of every cell."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nas.architectures.base import Architecture, CellGraph, as_tuples, register_architecture
from nas.architectures.cell_shape import DARTS_EDGES, NODES, reductions
from nas.architectures.channel_masks import Gates, Masks, closed, dead_node, every, to_hex
from nas.architectures.channel_sizes import OPERATIONS
from nas.architectures.channel_transfer import TransferError, repeat, resized, topk

Sets = Annotated[tuple[str, ...], BeforeValidator(as_tuples)]  # per edge, as to_hex writes them
ScoreTable = Annotated[tuple[tuple[tuple[tuple[float, ...], ...], ...], ...], BeforeValidator(as_tuples)]


class CellGates(BaseModel):
    """The open gates of a cell."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    op: Sets
    mid: Sets
    skip: Sets

    @staticmethod
    def of(cell: Sequence[Gates], width: int) -> "CellGates":
        op, mid, skip = (tuple(to_hex(channels, width) for channels in sets) for sets in zip(*cell, strict=True))
        return CellGates(op=op, mid=mid, skip=skip)

    def read(self, name: str, width: int) -> tuple[Gates, ...]:
        """The sets as ints. Raises ValueError, which names the first invalid set."""
        for gate in ("op", "mid", "skip"):
            texts = getattr(self, gate)
            if len(texts) != len(DARTS_EDGES):
                raise ValueError(f"{name}, {gate}: {len(texts)} edges, expected {len(DARTS_EDGES)}")
            for e, text in enumerate(texts):
                if not re.fullmatch(r"[0-9a-f]+", text) or to_hex(int(text, 16) & every(width), width) != text:
                    raise ValueError(f"{name}, {gate} of edge {e}: {text!r} is not a set of {width} channels")
        return tuple(
            Gates(*(int(text, 16) for text in texts)) for texts in zip(self.op, self.mid, self.skip, strict=True)
        )


@register_architecture("channel")
class ChannelArchitecture(Architecture):
    """The kept channels of every edge of every cell (nas/spaces/channel/).

    The masks are complete (see `channel_masks.closed`), and every node has at least one channel.

    `resize`: how the masks are adapted to another depth or width. `scores` [cells][edges][op, mid, skip][channels]: the
    scores of the last pruning, which `topk` needs. `form`: whether retraining uses slim kernels or masked whole ones.
    """

    space: Literal["channel"] = "channel"
    op: str
    skip_mode: Literal["gated", "fallback", "none"]
    resize: Literal["refuse", "repeat", "topk"]
    form: Literal["compact", "masked"]
    channels: int = Field(ge=2, multiple_of=2)
    cells: Annotated[tuple[CellGates, ...], BeforeValidator(as_tuples)] = Field(min_length=3)
    scores: ScoreTable | None = None

    @staticmethod
    def of(
        masks: Masks, skip_mode: str, resize: str = "refuse", scores: Any = None, form: str = "compact"
    ) -> "ChannelArchitecture":
        cells = tuple(CellGates.of(cell, width) for cell, width in masks.each())
        value = {"op": masks.op, "skip_mode": skip_mode, "resize": resize, "form": form, "channels": masks.channels}
        return ChannelArchitecture.parse({**value, "cells": cells, "scores": scores})

    @cached_property
    def masks(self) -> Masks:
        empty = Masks(self.op, self.channels, ((),) * len(self.cells))
        read = [
            cell.read(f"cells.{k}", width) for k, (cell, width) in enumerate(zip(self.cells, empty.widths, strict=True))
        ]
        return Masks(self.op, self.channels, tuple(read))

    @model_validator(mode="after")
    def gates_are_valid(self) -> Self:
        if self.op not in OPERATIONS:
            raise ValueError(f"operation {self.op!r} is not one of {', '.join(OPERATIONS)}")
        if closed(self.masks) != self.masks:
            raise ValueError(
                "an edge has only one of 'op' and 'mid' channels, or a 'skip' channel whose input is dead: expected "
                "masks as nas.architectures.channel_masks.closed returns them"
            )
        if (dead := dead_node(self.masks)) is not None:
            raise ValueError(f"cell {dead[0]}: no channel reaches node {dead[1]}")
        for k, (cell, width) in enumerate(self.masks.each()):
            for e, gates in enumerate(cell):
                self._check(f"cells.{k}, edge {e}", gates, every(width))
        if (self.resize == "topk") != (self.scores is not None):
            raise ValueError("'scores' are required with resize: topk, and null with any other")
        if self.scores is not None:
            shape = [[[width] * 3] * len(DARTS_EDGES) for width in self.masks.widths]
            if [[[len(s) for s in edge] for edge in cell] for cell in self.scores] != shape:
                raise ValueError("'scores' do not have the shape of the gates")
        return self

    def _check(self, name: str, gates: Gates, whole: int) -> None:
        if not OPERATIONS[self.op].double and gates.mid != whole * (gates.op > 0):
            raise ValueError(f"{name}: {self.op} has no middle: expected all channels in 'mid', or none without 'op'")
        expected = {"none": 0, "fallback": whole & ~gates.op}.get(self.skip_mode, gates.skip)
        if gates.skip != expected:
            raise ValueError(f"{name}: the skip channels do not match skip_mode: {self.skip_mode}")

    def masks_at(self, cells: int, channels: int) -> Masks:
        """The masks for a network of this size. Raises TransferError if they cannot be adapted."""
        if (cells, channels) == (len(self.cells), self.channels):
            return self.masks
        if self.resize == "refuse":
            raise TransferError(
                f"the masks are for {len(self.cells)} cells and {self.channels} channels, not for {cells} and "
                f"{channels}: set retrain.cells and retrain.channels to those of search.common, or derive with "
                "resize: repeat or topk"
            )
        stretch = {"repeat": repeat, "topk": topk}[self.resize]
        return resized(self.masks, cells, channels, stretch, self.scores, self.skip_mode == "fallback")

    def graphs(self) -> list[CellGraph]:
        """One per cell. An edge's label shows how many channels its operation and its skip keep."""
        halved = reductions(len(self.cells))
        return [
            gates_graph(f"{'reduce' if k in halved else 'normal'}-{k}", self.op, cell)
            for k, cell in enumerate(self.masks.cells)
        ]


def gates_graph(name: str, op: str, cell: Sequence[Gates]) -> CellGraph:
    names = ["c[k-2]", "c[k-1]", *(str(node) for node in range(NODES))]
    edges = []
    for (node, pred), gates in zip(DARTS_EDGES, cell, strict=True):
        s, k = gates.op.bit_count(), gates.skip.bit_count()
        label = f"{op} ({s}) + skip ({k})" if s and k else f"{op} ({s})" if s else f"skip_connect ({k})"
        edges += [(names[pred], names[node], label)] if s or k else []
    wires = [(names[2 + node], "c[k]", "") for node in range(NODES)]
    return CellGraph(name, tuple(names[:2]), tuple(names[2:]), "c[k]", tuple(edges + wires))
