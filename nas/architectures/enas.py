"""Record of the space `enas`: two cells of the ENAS micro space."""

from typing import Literal, Self

from pydantic import model_validator

from nas.architectures.base import Architecture, Cell, CellGraph, cell_graph, register_architecture

ENAS_OPS = ("identity", "avg_pool_3x3", "max_pool_3x3", "sep_conv_3x3", "sep_conv_5x5")  # in the order of ASNG-NAS
ENAS_NODES = 5  # of a cell of the space `enas`, numbered 2..6 after the two inputs


def check_enas_cell(name: str, cell: Cell) -> None:
    """Raises ValueError unless the cell has ten pairs with predecessors below the node. A node's pairs may be equal."""
    if len(cell) != 2 * ENAS_NODES:
        raise ValueError(f"{name} has {len(cell)} pairs, expected {2 * ENAS_NODES}")
    for index, (op, pred) in enumerate(cell):
        node = 2 + index // 2
        if op not in ENAS_OPS:
            raise ValueError(f"{name}, node {node}: operation {op!r} is not one of {', '.join(ENAS_OPS)}")
        if not 0 <= pred < node:
            raise ValueError(f"{name}, node {node}: predecessor {pred} is not below the node")


def loose_ends(cell: Cell) -> tuple[int, ...]:
    """The nodes, 2..6, that no other node reads. They form the output of an ENAS cell."""
    read = {pred for _, pred in cell}
    return tuple(node for node in range(2, 2 + ENAS_NODES) if node not in read)


@register_architecture("enas")
class EnasArchitecture(Architecture):
    """Two cells of the ENAS micro space. Pairs 2k and 2k+1 belong to node k + 2, which adds them."""

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
