"""Records of the spaces `nasbench201`, a cell of four nodes and six edges, and `nasbench201_layered`, a cell per stage.

Imports no torch.

Source: Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020, arXiv
2001.00326; D-X-Y/AutoDL-Projects (MIT), for order and names of the operations and the rule that finds equal cells.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator

from nas.architectures.base import Architecture, ArchitectureError, CellGraph, as_tuples, register_architecture

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")  # in the benchmark's order
CELL_TYPES = ("cell_1", "cell_2", "cell_3")  # of `nasbench201_layered`, in order of depth
# (node, predecessor) of each edge; node 0 is the input, node 3 the output
NASBENCH201_EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
CELLS = len(OPERATIONS) ** len(NASBENCH201_EDGES)  # 15,625
ZERO = "#"  # how the benchmark writes a map of zeros
FORM = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"


Operations = Annotated[tuple[str, ...], BeforeValidator(as_tuples)]


@register_architecture("nasbench201")
class NasBench201Architecture(Architecture):
    """The operation of each edge, in the order of NASBENCH201_EDGES."""

    space: Literal["nasbench201"] = "nasbench201"
    operations: Operations

    @model_validator(mode="after")
    def operations_are_known(self) -> Self:
        check_operations("a cell", self.operations)
        return self

    @staticmethod
    def read(text: str) -> "NasBench201Architecture":
        """The cell that the benchmark's string describes. Raises ArchitectureError."""
        match = re.fullmatch(re.escape(FORM).replace("op", r"([^|~+]+)"), text)
        if match is None:
            raise ArchitectureError(f"{text!r} is not a cell of NAS-Bench-201: expected {FORM}")
        return NasBench201Architecture.parse({"operations": list(match.groups())})

    @property
    def text(self) -> str:
        """The benchmark's string, in the form of FORM."""
        return FORM.replace("op", "{}").format(*self.operations)

    @property
    def topology(self) -> str:
        """Equal for cells that compute the same by the benchmark's rule (`to_unique_str`): none gives zero, a skip is
        the identity, and the order of a sum does not matter. 6,466 of the 15,625 cells differ."""
        return topology(self.operations)

    def graphs(self) -> list[CellGraph]:
        """The one cell."""
        return [graph("cell", self.operations)]


@register_architecture("nasbench201_layered")
class NasBench201LayeredArchitecture(Architecture):
    """A cell of `nasbench201` for each stage (ours, for LFR-DARTS), by name: a reversed list would be valid too."""

    space: Literal["nasbench201_layered"] = "nasbench201_layered"
    cell_1: Operations  # of the first stage, which has the largest maps
    cell_2: Operations
    cell_3: Operations

    @model_validator(mode="after")
    def operations_are_known(self) -> Self:
        for name, operations in self.cells.items():
            check_operations(name, operations)
        return self

    @staticmethod
    def read(texts: Sequence[str]) -> "NasBench201LayeredArchitecture":
        """The cells that the benchmark's strings describe, shallow to deep. A single one is used in every stage."""
        cells = [NasBench201Architecture.read(text).operations for text in texts]
        if len(cells) not in (1, len(CELL_TYPES)):
            raise ArchitectureError(f"{len(cells)} cells, expected {len(CELL_TYPES)}, one per stage, or one for all")
        stages = cells * len(CELL_TYPES) if len(cells) == 1 else cells
        return NasBench201LayeredArchitecture.parse(dict(zip(CELL_TYPES, stages, strict=True)))

    @property
    def texts(self) -> tuple[str, ...]:
        """The benchmark's string of each stage's cell, from shallow to deep."""
        return tuple(NasBench201Architecture(operations=operations).text for operations in self.cells.values())

    @property
    def cells(self) -> dict[str, tuple[str, ...]]:
        """Cell type -> its operations, in order of depth."""
        return {cell_type: getattr(self, cell_type) for cell_type in CELL_TYPES}

    def graphs(self) -> list[CellGraph]:
        return [graph(name, operations) for name, operations in self.cells.items()]

    def sheets(self) -> dict[str, list[CellGraph]]:
        """The stages side by side, from shallow to deep."""
        return {"stage": self.graphs()}  # titled `stage cells`


def check_operations(name: str, operations: Sequence[str]) -> None:
    if len(operations) != len(NASBENCH201_EDGES):
        raise ValueError(f"{name} has {len(operations)} operations, expected {len(NASBENCH201_EDGES)}, one per edge")
    for (node, pred), op in zip(NASBENCH201_EDGES, operations, strict=True):
        if op not in OPERATIONS:
            unknown = f"operation {op!r} is not one of {', '.join(OPERATIONS)}"
            raise ValueError(f"{name}, edge {pred} -> {node}: {unknown}")


def graph(name: str, operations: Sequence[str]) -> CellGraph:
    """The graph of a cell, without the edges whose operation is `none`."""
    names = ("in", "1", "2", "out")
    edges = zip(NASBENCH201_EDGES, operations, strict=True)
    drawn = tuple((names[pred], names[node], op) for (node, pred), op in edges if op != "none")
    return CellGraph(name, names[:1], names[1:3], names[3], drawn)


def topology(operations: Sequence[str]) -> str:
    """The key of the output node by `to_unique_str`. It keeps zeros in sums, so a few equal cells differ."""
    keys = ["0"]
    for node in range(1, 4):
        inputs = [(op, keys[pred]) for (n, pred), op in zip(NASBENCH201_EDGES, operations, strict=True) if n == node]
        keys.append("+".join(sorted(passed_on(op, key) for op, key in inputs)))
    return keys[-1]


def passed_on(op: str, key: str) -> str:
    """The key of an operation's output, from the key of its input."""
    if op == "none" or key == ZERO:
        return ZERO
    return key if op == "skip_connect" else f"({key})@{op}"
