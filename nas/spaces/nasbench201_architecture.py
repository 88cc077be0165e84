"""The record of space `nasbench201`: a cell of four nodes and six edges, and its string in the benchmark. No torch.

Source: Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020, arXiv
2001.00326; D-X-Y/AutoDL-Projects (MIT), for order and names of the operations and the rule that finds equal cells.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator

from nas.spaces.architecture import Architecture, ArchitectureError, CellGraph, register_architecture

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")  # in the benchmark's order
EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (node, predecessor); node 0 is the input, node 3 the output
CELLS = len(OPERATIONS) ** len(EDGES)  # 15,625
ZERO = "#"  # how the benchmark writes what is zero everywhere
FORM = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


@register_architecture("nasbench201")
class NasBench201Architecture(Architecture):
    """The operation of each edge, in the order of EDGES."""

    space: Literal["nasbench201"] = "nasbench201"
    operations: Annotated[tuple[str, ...], BeforeValidator(_tuple)]

    @model_validator(mode="after")
    def operations_are_known(self) -> Self:
        if len(self.operations) != len(EDGES):
            raise ValueError(f"a cell has {len(self.operations)} operations, expected {len(EDGES)}, one per edge")
        for (node, pred), op in zip(EDGES, self.operations, strict=True):
            if op not in OPERATIONS:
                raise ValueError(f"edge {pred} -> {node}: operation {op!r} is not one of {', '.join(OPERATIONS)}")
        return self

    @staticmethod
    def read(text: str) -> "NasBench201Architecture":
        """The cell of the benchmark's string; raises ArchitectureError."""
        match = re.fullmatch(re.escape(FORM).replace("op", r"([^|~+]+)"), text)
        if match is None:
            raise ArchitectureError(f"{text!r} is no cell of NAS-Bench-201: expected {FORM}")
        return NasBench201Architecture.parse({"operations": list(match.groups())})

    @property
    def text(self) -> str:
        """The benchmark's string, in the form of FORM."""
        return FORM.replace("op", "{}").format(*self.operations)

    @property
    def topology(self) -> str:
        """Equal for cells that compute the same by the benchmark's rule (`to_unique_str`): none makes zero, a skip
        passes on what it gets, and a sum knows no order. 6,466 of the 15,625 cells differ."""
        return topology(self.operations)

    def graphs(self) -> list[CellGraph]:
        """The one cell; an edge without a connection is not drawn."""
        names = ("in", "1", "2", "out")
        drawn = [
            (names[pred], names[node], op)
            for (node, pred), op in zip(EDGES, self.operations, strict=True)
            if op != "none"
        ]
        return [CellGraph("cell", names[:1], names[1:3], names[3], tuple(drawn))]


def topology(operations: Sequence[str]) -> str:
    """The key of the output node. The rule keeps the zeros of a sum, so some equal networks differ by them."""
    keys = ["0"]
    for node in range(1, 4):
        inputs = [(op, keys[pred]) for (n, pred), op in zip(EDGES, operations, strict=True) if n == node]
        keys.append("+".join(sorted(passed_on(op, key) for op, key in inputs)))
    return keys[-1]


def passed_on(op: str, key: str) -> str:
    if op == "none" or key == ZERO:
        return ZERO
    return key if op == "skip_connect" else f"({key})@{op}"
