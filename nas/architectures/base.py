"""The Architecture record: what a search found and what `retrain` can build. Imports no torch.

Every space has its own frozen model, told apart by `space`. Equal content has equal canonical JSON, so an equal `id`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from nas import records
from nas.registry import SPACES


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
    classes: ClassVar[dict[str, type["Architecture"]]] = {}

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
        if space in Architecture.classes:
            raise ValueError(f"'{space}' is already registered")
        Architecture.classes[space] = kind
        return kind

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
