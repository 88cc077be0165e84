"""An architecture with the width of its network: `derive` writes it, `retrain` and `evaluate` read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from nas.contracts import Space
from nas.spaces.registry import get_space


@dataclass(frozen=True)
class SizedArchitecture:
    """One architecture of a trial. `name` is unique in the trial; `channels` is the width of its first cells."""

    name: str
    space: Space
    architecture: Any
    channels: int
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        identity: str = self.architecture.id
        return identity

    @property
    def label(self) -> dict[str, Any]:
        """The keys that every record of a network starts with."""
        return {"name": self.name, "id": self.id}

    def to_dict(self) -> dict[str, Any]:
        """The entry in architectures.json; `from_dict` reads it back."""
        body = {"channels": self.channels, "architecture": self.architecture.to_dict(), "notes": dict(self.notes)}
        return {**self.label, **body}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """Raises ArchitectureError if the space cannot read the architecture."""
        space = get_space(entry["architecture"]["space"])
        return cls(entry["name"], space, space.parse(entry["architecture"]), entry["channels"], entry.get("notes", {}))
