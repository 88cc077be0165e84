"""Records of the spaces `darts` and `layered` (Liu, Simonyan, Yang 2019, arXiv 1806.09055, section 2.1)."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from nas.architectures.base import Architecture, Cell, CellGraph, Concat, as_tuples, cell_graph, register_architecture
from nas.architectures.cell_shape import NODES

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


def check_cell(name: str, cell: Cell) -> None:
    """Raises ValueError unless the cell has eight pairs, no `none`, and two distinct predecessors per node."""
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


STAGE_NAMES = ("shallow", "middle", "deep")  # runs of cells of equal resolution, separated by reduction cells


@register_architecture("layered")
class LayeredArchitecture(Architecture):
    """A normal cell for each stage and a reduction cell after each of the first two (ours, for LFR-DARTS).

    Both lists run from shallow to deep. The record contains the names of the stages because the reversed lists would be
    valid too.
    """

    space: Literal["layered"] = "layered"
    stages: Annotated[tuple[str, ...], BeforeValidator(as_tuples)] = STAGE_NAMES
    normal: Annotated[tuple[Cell, Cell, Cell], BeforeValidator(as_tuples)]
    normal_concat: Concat = CONCAT
    reduce: Annotated[tuple[Cell, Cell], BeforeValidator(as_tuples)]
    reduce_concat: Concat = CONCAT

    @model_validator(mode="after")
    def cells_are_valid(self) -> Self:
        if self.stages != STAGE_NAMES:
            raise ValueError(f"stages must be {list(STAGE_NAMES)}, in this order")
        for name, cell in self.cells.items():
            check_cell(name, cell)
        check_concats(self)
        return self

    @staticmethod
    def lift(pair: DartsArchitecture) -> "LayeredArchitecture":
        """The same network as an architecture of this space: every stage has the cells of `pair`."""
        return LayeredArchitecture(normal=(pair.normal,) * 3, reduce=(pair.reduce,) * 2)

    @property
    def cells(self) -> dict[str, Cell]:
        """Cell type -> its cell, in order of depth."""
        (n1, n2, n3), (r1, r2) = self.normal, self.reduce
        return {"normal_1": n1, "reduce_1": r1, "normal_2": n2, "reduce_2": r2, "normal_3": n3}

    def graphs(self) -> list[CellGraph]:
        return [cell_graph(name, cell, CONCAT) for name, cell in self.cells.items()]

    def sheets(self) -> dict[str, list[CellGraph]]:
        """A picture of the normal cells and one of the reduction cells, each from shallow to deep."""
        return {sheet: [g for g in self.graphs() if g.name.startswith(sheet)] for sheet in ("normal", "reduce")}
