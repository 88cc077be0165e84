"""The Architecture record: what a search found and what `retrain` can build. Imports no torch.

Every space has its own frozen model, told apart by `space`. Equal content has equal canonical JSON, so an equal `id`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from nas import records

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
NODES = 4  # intermediate nodes of a cell, numbered 2..5 after the two inputs
ENAS_OPS = ("identity", "avg_pool_3x3", "max_pool_3x3", "sep_conv_3x3", "sep_conv_5x5")  # in the order of ASNG-NAS
ENAS_NODES = 5  # of a cell of the space `enas`, numbered 2..6 after the two inputs
EDGES = tuple((node, pred) for node in range(2, 2 + NODES) for pred in range(node))  # edge e = offset(node) + pred


class ArchitectureError(ValueError):
    """A record that is no architecture of its space; the message says which value, and what is allowed."""


@dataclass(frozen=True)
class CellGraph:
    """A cell as a drawing needs it: `edges` are (from, to, label); an unlabelled edge is a plain wire."""

    name: str
    inputs: tuple[str, ...]
    nodes: tuple[str, ...]
    output: str
    edges: tuple[tuple[str, str, str], ...]


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


@register_architecture("darts")
class DartsArchitecture(Architecture):
    """A normal and a reduction cell (DARTS, section 2.1); the JSON form is quark0/darts' Genotype."""

    space: Literal["darts"] = "darts"
    normal: Cell
    normal_concat: Concat = (2, 3, 4, 5)
    reduce: Cell
    reduce_concat: Concat = (2, 3, 4, 5)

    @model_validator(mode="after")
    def cells_are_valid(self) -> Self:
        for name in ("normal", "reduce"):
            check_cell(name, getattr(self, name))
            if getattr(self, f"{name}_concat") != (2, 3, 4, 5):
                raise ValueError(f"{name}_concat must be [2, 3, 4, 5]")
        return self

    def graphs(self) -> list[CellGraph]:
        return [
            cell_graph("normal", self.normal, self.normal_concat),
            cell_graph("reduce", self.reduce, self.reduce_concat),
        ]


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
