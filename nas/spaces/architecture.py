"""The Architecture record: what a search found and what `retrain` can build. Imports no torch.

Every space has its own frozen model, told apart by `space`. Equal content has equal canonical JSON, so an equal `id`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nas import records
from nas.spaces.channel_masks import Gates, Masks, closed, dead_node, every, to_hex
from nas.spaces.channel_sizes import OPERATIONS
from nas.spaces.channel_transfer import TransferError, repeat, resized, topk
from nas.spaces.topology import EDGES as EDGES
from nas.spaces.topology import NODES as NODES
from nas.spaces.topology import reductions

PRIMITIVES = (  # DARTS' list in DARTS' order: the index of an operation is its column in an alpha table
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
ENAS_OPS = ("identity", "avg_pool_3x3", "max_pool_3x3", "sep_conv_3x3", "sep_conv_5x5")  # in the order of ASNG-NAS
ENAS_NODES = 5  # of a cell of the space `enas`, numbered 2..6 after the two inputs


class ArchitectureError(ValueError):
    """A record that is no architecture of its space; the message says which value, and what is allowed."""


@dataclass(frozen=True)
class CellGraph:
    """A cell as a drawing needs it: `edges` are (from, to, label); an unlabelled edge is a plain wire.

    Cells of one picture stand side by side in their `row`, and the rows below each other.
    """

    name: str
    inputs: tuple[str, ...]
    nodes: tuple[str, ...]
    output: str
    edges: tuple[tuple[str, str, str], ...]
    row: int = 0


class Architecture(BaseModel):
    """Base of the records; a space adds its own fields and checks."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    kinds: ClassVar[dict[str, type["Architecture"]]] = {}

    schema_version: Literal[1] = 1
    space: str

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def canonical(self) -> str:
        return records.canonical(self.to_dict())

    @property
    def id(self) -> str:
        """Twelve hex digits of the SHA-256 of the canonical form."""
        return records.content_id(self.to_dict())

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> "Architecture":
        """The architecture of any space. Raises ArchitectureError on an unknown space or an invalid content."""
        kind = Architecture.kinds.get(str(value.get("space")))
        if kind is None:
            known = ", ".join(sorted(Architecture.kinds))
            raise ArchitectureError(f"space {value.get('space')!r} is not known; known: {known}")
        return kind.parse(value)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        try:
            return cls.model_validate(dict(value))
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(str(part) for part in detail["loc"]) or "architecture"
            message = detail["msg"].removeprefix("Value error, ")
            raise ArchitectureError(f"{where}: {message} (found {detail['input']!r})") from None

    def graphs(self) -> list[CellGraph]:
        """One graph per cell type, in drawing order."""
        raise NotImplementedError

    def sheets(self) -> dict[str, list[CellGraph]]:
        """What is drawn in one picture, side by side, by the picture's name: each cell type by itself."""
        return {graph.name: [graph] for graph in self.graphs()}


A = TypeVar("A", bound=type[Architecture])


def register_architecture(space: str) -> Callable[[A], A]:
    """File a record class under its space; a second registration raises."""

    def register(kind: A) -> A:
        if space in Architecture.kinds:
            raise ValueError(f"'{space}' is already registered")
        Architecture.kinds[space] = kind
        return kind

    return register


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


Pair = tuple[str, int]  # operation, predecessor
Cell = Annotated[tuple[Pair, ...], BeforeValidator(_tuples)]  # pairs 2k and 2k+1 belong to node k + 2
Concat = Annotated[tuple[int, ...], BeforeValidator(_tuples)]


def check_cell(name: str, cell: Cell) -> None:
    """Eight pairs; the two predecessors of a node distinct and below it; real operations, never `none`."""
    if len(cell) != 2 * NODES:
        raise ValueError(f"{name} has {len(cell)} pairs, expected {2 * NODES}")
    for index, (op, pred) in enumerate(cell):
        node = 2 + index // 2
        if op not in PRIMITIVES[1:]:
            raise ValueError(f"{name}, node {node}: operation {op!r} is not one of {', '.join(PRIMITIVES[1:])}")
        if not 0 <= pred < node:
            raise ValueError(f"{name}, node {node}: predecessor {pred} is not below the node")
    for node, (first, second) in enumerate(zip(cell[::2], cell[1::2], strict=True), start=2):
        if first[1] == second[1]:
            raise ValueError(f"{name}, node {node}: both edges come from {first[1]}, expected two predecessors")


def cell_graph(name: str, cell: Cell, concat: Concat) -> CellGraph:
    names = ["c[k-2]", "c[k-1]", *(str(node) for node in range(len(cell) // 2))]
    edges = [(names[pred], names[2 + index // 2], op) for index, (op, pred) in enumerate(cell)]
    wires = [(names[node], "c[k]", "") for node in concat]
    return CellGraph(name, tuple(names[:2]), tuple(names[2:]), "c[k]", tuple(edges + wires))


CONCAT = (2, 3, 4, 5)


@register_architecture("darts")
class DartsArchitecture(Architecture):
    """A normal and a reduction cell (DARTS, section 2.1); the JSON form is quark0/darts' Genotype."""

    space: Literal["darts"] = "darts"
    normal: Cell
    normal_concat: Concat = CONCAT
    reduce: Cell
    reduce_concat: Concat = CONCAT

    @model_validator(mode="after")
    def cells_are_valid(self) -> Self:
        for name, cell in self.cells.items():
            check_cell(name, cell)
        check_concats(self)
        return self

    @property
    def cells(self) -> dict[str, Cell]:
        return {"normal": self.normal, "reduce": self.reduce}

    def graphs(self) -> list[CellGraph]:
        return [
            cell_graph("normal", self.normal, self.normal_concat),
            cell_graph("reduce", self.reduce, self.reduce_concat),
        ]


def check_concats(record: Any) -> None:
    for name in ("normal_concat", "reduce_concat"):
        if getattr(record, name) != CONCAT:
            raise ValueError(f"{name} must be {list(CONCAT)}")


STAGES = ("shallow", "middle", "deep")  # stretches of equal resolution, between them the reduction cells


@register_architecture("layered")
class LayeredArchitecture(Architecture):
    """A normal cell for each stage and a reduction cell behind the first two (ours, for LFR-DARTS).

    Both lists run from shallow to deep; the names of the stages stand in the record, since reversed lists would be
    another valid one.
    """

    space: Literal["layered"] = "layered"
    stages: Annotated[tuple[str, ...], BeforeValidator(_tuples)] = STAGES
    normal: Annotated[tuple[Cell, Cell, Cell], BeforeValidator(_tuples)]
    normal_concat: Concat = CONCAT
    reduce: Annotated[tuple[Cell, Cell], BeforeValidator(_tuples)]
    reduce_concat: Concat = CONCAT

    @model_validator(mode="after")
    def cells_are_valid(self) -> Self:
        if self.stages != STAGES:
            raise ValueError(f"stages must be {list(STAGES)}, in this order")
        for name, cell in self.cells.items():
            check_cell(name, cell)
        check_concats(self)
        return self

    @staticmethod
    def lift(pair: DartsArchitecture) -> "LayeredArchitecture":
        """The same network, said in this space: its cells in every stage."""
        return LayeredArchitecture(normal=(pair.normal,) * 3, reduce=(pair.reduce,) * 2)

    @property
    def cells(self) -> dict[str, Cell]:
        """Cell type -> its cell, in order of depth."""
        (n1, n2, n3), (r1, r2) = self.normal, self.reduce
        return {"normal_1": n1, "reduce_1": r1, "normal_2": n2, "reduce_2": r2, "normal_3": n3}

    def graphs(self) -> list[CellGraph]:
        return [cell_graph(name, cell, CONCAT) for name, cell in self.cells.items()]

    def sheets(self) -> dict[str, list[CellGraph]]:
        """The stages side by side, shallow to deep: the normal cells, the reduction cells."""
        return {kind: [g for g in self.graphs() if g.name.startswith(kind)] for kind in ("normal", "reduce")}


Sets = Annotated[tuple[str, ...], BeforeValidator(_tuples)]  # per edge a set of channels, channel_masks.to_hex
ScoreTable = Annotated[tuple[tuple[tuple[tuple[float, ...], ...], ...], ...], BeforeValidator(_tuples)]


class CellGates(BaseModel):
    """The open gates of a cell."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    op: Sets
    mid: Sets
    skip: Sets

    @staticmethod
    def of(cell: Sequence[Gates], width: int) -> "CellGates":
        op, mid, skip = (tuple(to_hex(channels, width) for channels in kind) for kind in zip(*cell, strict=True))
        return CellGates(op=op, mid=mid, skip=skip)

    def read(self, name: str, width: int) -> tuple[Gates, ...]:
        """The sets as ints; ValueError names the one that is none."""
        for kind in ("op", "mid", "skip"):
            texts = getattr(self, kind)
            if len(texts) != len(EDGES):
                raise ValueError(f"{name}, {kind}: {len(texts)} edges, expected {len(EDGES)}")
            for e, text in enumerate(texts):
                if not re.fullmatch(r"[0-9a-f]+", text) or to_hex(int(text, 16) & every(width), width) != text:
                    raise ValueError(f"{name}, {kind} of edge {e}: {text!r} is no set of {width} channels")
        return tuple(
            Gates(*(int(text, 16) for text in texts)) for texts in zip(self.op, self.mid, self.skip, strict=True)
        )


@register_architecture("channel")
class ChannelArchitecture(Architecture):
    """The kept channels of every edge of every cell (nas/spaces/channel.py); closed, and no node without a channel.

    `resize` says what another depth or width makes of it; `scores` [cells][edges][op, mid, skip][channels] are those of
    the last pruning, which `topk` needs. `form` is that of the network in retraining: slim kernels, or whole ones.
    """

    space: Literal["channel"] = "channel"
    op: str
    skip_mode: Literal["gated", "fallback", "none"]
    resize: Literal["refuse", "repeat", "topk"]
    form: Literal["compact", "masked"]
    channels: int = Field(ge=2, multiple_of=2)
    cells: Annotated[tuple[CellGates, ...], BeforeValidator(_tuples)] = Field(min_length=3)
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
            raise ValueError("an edge has an op without a mid channel, or a skip takes a dead channel: close the masks")
        if (dead := dead_node(self.masks)) is not None:
            raise ValueError(f"cell {dead[0]}: no channel reaches node {dead[1]}")
        for k, (cell, width) in enumerate(self.masks.each()):
            for e, gates in enumerate(cell):
                self._check(f"cells.{k}, edge {e}", gates, every(width))
        if (self.resize == "topk") != (self.scores is not None):
            raise ValueError("'scores' are required with resize: topk, and null with any other")
        if self.scores is not None:
            shape = [[[width] * 3] * len(EDGES) for width in self.masks.widths]
            if [[[len(s) for s in edge] for edge in cell] for cell in self.scores] != shape:
                raise ValueError("'scores' have not the shape of the gates")
        return self

    def _check(self, name: str, gates: Gates, whole: int) -> None:
        if not OPERATIONS[self.op].double and gates.mid != whole * (gates.op > 0):
            raise ValueError(f"{name}: {self.op} has no middle, so 'mid' is all channels where there are op channels")
        expected = {"none": 0, "fallback": whole & ~gates.op}.get(self.skip_mode, gates.skip)
        if gates.skip != expected:
            raise ValueError(f"{name}: the skip channels are not those of skip_mode: {self.skip_mode}")

    def masks_at(self, cells: int, channels: int) -> Masks:
        """The masks for a network of this size; TransferError when there is no way to it."""
        if (cells, channels) == (len(self.cells), self.channels):
            return self.masks
        if self.resize == "refuse":
            raise TransferError(
                f"the masks are for {len(self.cells)} cells and {self.channels} channels, asked for are {cells} and "
                f"{channels}: set retrain.cells and retrain.channels to those of search.common, or derive with "
                "resize: repeat or topk"
            )
        stretch = {"repeat": repeat, "topk": topk}[self.resize]
        return resized(self.masks, cells, channels, stretch, self.scores, self.skip_mode == "fallback")

    def graphs(self) -> list[CellGraph]:
        """One per cell; the label of an edge says how many channels its operation and its skip keep."""
        halved = reductions(len(self.cells))
        return [
            gates_graph(f"{'reduce' if k in halved else 'normal'}-{k}", self.op, cell)
            for k, cell in enumerate(self.masks.cells)
        ]


def gates_graph(name: str, op: str, cell: Sequence[Gates]) -> CellGraph:
    names = ["c[k-2]", "c[k-1]", *(str(node) for node in range(NODES))]
    edges = []
    for (node, pred), gates in zip(EDGES, cell, strict=True):
        s, k = gates.op.bit_count(), gates.skip.bit_count()
        label = f"{op} ({s}) + skip ({k})" if s and k else f"{op} ({s})" if s else f"skip_connect ({k})"
        edges += [(names[pred], names[node], label)] if s or k else []
    wires = [(names[2 + node], "c[k]", "") for node in range(NODES)]
    return CellGraph(name, tuple(names[:2]), tuple(names[2:]), "c[k]", tuple(edges + wires))


def check_enas_cell(name: str, cell: Cell) -> None:
    """Ten pairs of an operation and a predecessor below the node; the two of a node may be equal."""
    if len(cell) != 2 * ENAS_NODES:
        raise ValueError(f"{name} has {len(cell)} pairs, expected {2 * ENAS_NODES}")
    for index, (op, pred) in enumerate(cell):
        node = 2 + index // 2
        if op not in ENAS_OPS:
            raise ValueError(f"{name}, node {node}: operation {op!r} is not one of {', '.join(ENAS_OPS)}")
        if not 0 <= pred < node:
            raise ValueError(f"{name}, node {node}: predecessor {pred} is not below the node")


def loose_ends(cell: Cell) -> tuple[int, ...]:
    """The nodes that no other node reads, 2..6: they make the output of an ENAS cell."""
    read = {pred for _, pred in cell}
    return tuple(node for node in range(2, 2 + ENAS_NODES) if node not in read)


@register_architecture("enas")
class EnasArchitecture(Architecture):
    """Two cells of the ENAS micro space; pairs 2k and 2k+1 belong to node k + 2, which adds them."""

    space: Literal["enas"] = "enas"
    normal: Cell
    reduce: Cell

    @model_validator(mode="after")
    def cells_are_valid(self) -> Self:
        for name in ("normal", "reduce"):
            check_enas_cell(name, getattr(self, name))
        return self

    def graphs(self) -> list[CellGraph]:
        return [
            cell_graph(name, cell, loose_ends(cell))
            for name, cell in (("normal", self.normal), ("reduce", self.reduce))
        ]


import nas.spaces.mobile_architecture  # noqa: E402 (records in modules of their own, known like the others)
import nas.spaces.nasbench201_architecture  # noqa: E402, F401
