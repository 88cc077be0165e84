"""The Architecture record: the result of a search, which `retrain` can build. Imports no torch.

Every space has its own frozen model, identified by `space`. Equal content has equal canonical JSON, so an equal `id`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from nas import records
from nas.registry import SPACES


class ArchitectureError(ValueError):
    """A record that is not an architecture of its space. The message names the value and what is allowed."""


@dataclass(frozen=True)
class CellGraph:
    """A cell to be drawn: `edges` are (from, to, label); an edge without a label is a plain wire.

    In a picture of several cells, those of the same `row` are drawn side by side, and the rows below each other.
    """

    name: str
    inputs: tuple[str, ...]
    nodes: tuple[str, ...]
    output: str
    edges: tuple[tuple[str, str, str], ...]
    row: int = 0


class Architecture(BaseModel, ABC):
    """Base of the records. Each space adds its own fields and checks."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    classes: ClassVar[dict[str, type["Architecture"]]] = {}  # by space

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
        """The architecture of any space. Raises ArchitectureError if the space is unknown or the content is invalid."""
        space = value.get("space")
        if not isinstance(space, str) or space not in SPACES:
            raise ArchitectureError(f"space {space!r} is not known; known: {', '.join(sorted(SPACES))}")
        import_module(SPACES[space].record)
        return Architecture.classes[space].parse(value)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        try:
            return cls.model_validate(dict(value))
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(str(part) for part in detail["loc"]) or "architecture"
            message = detail["msg"].removeprefix("Value error, ")
            raise ArchitectureError(f"{where}: {message} (found {detail['input']!r})") from None

    @abstractmethod
    def graphs(self) -> list[CellGraph]:
        """One graph per cell type, in drawing order."""

    def sheets(self) -> dict[str, list[CellGraph]]:
        """The graphs of each picture, by its name. By default there is one picture per cell type."""
        return {graph.name: [graph] for graph in self.graphs()}


A = TypeVar("A", bound=type[Architecture])


def register_architecture(space: str) -> Callable[[A], A]:
    """Register a record class under its space. Raises ValueError if the space has one already."""

    def register(record: A) -> A:
        if space in Architecture.classes:
            raise ValueError(f"'{space}' is already registered")
        Architecture.classes[space] = record
        return record

    return register


def as_tuples(value: Any) -> Any:
    return tuple(as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


Pair = tuple[str, int]  # operation, predecessor
Cell = Annotated[tuple[Pair, ...], BeforeValidator(as_tuples)]  # pairs 2k and 2k+1 belong to node k + 2
Concat = Annotated[tuple[int, ...], BeforeValidator(as_tuples)]


def cell_graph(name: str, cell: Cell, concat: Concat) -> CellGraph:
    names = ["c[k-2]", "c[k-1]", *(str(node) for node in range(len(cell) // 2))]
    edges = [(names[pred], names[2 + index // 2], op) for index, (op, pred) in enumerate(cell)]
    wires = [(names[node], "c[k]", "") for node in concat]
    return CellGraph(name, tuple(names[:2]), tuple(names[2:]), "c[k]", tuple(edges + wires))
