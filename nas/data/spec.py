"""What a prepared data set is: its form and statistics. Free of torch, so that every stage may read it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nas.records import read_record

if TYPE_CHECKING:
    from nas.contracts import ImageForm


class DataError(ValueError):
    """Data that cannot be used; the message names file or key, what was found, what was expected, what to do."""


@dataclass(frozen=True)
class DataSpec:
    """`shape` is [C, H, W] after padding; `mean` and `std` are per channel, of train pixels / 255 before it."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    counts: Mapping[str, int]  # part -> number of images

    @property
    def form(self) -> "ImageForm":
        """The form of the images that networks are built for. Imports torch."""
        from nas.contracts import ImageForm

        return ImageForm(*self.shape, classes=self.classes)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The spec in `folder`/spec.json. Raises RecordError if the record is missing."""
        return cls.from_dict(read_record(folder / "spec.json", "data"))

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: `DataSpec.from_dict` gives an equal one back."""
        body = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in body.items()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """The spec in a record; other keys are left alone. Raises DataError when one is missing."""
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in value]
        if missing:
            raise DataError(
                f"data spec: found no {', '.join(missing)}; expected {', '.join(names)}. Run `dvc repro -f prepare`."
            )
        channels, height, width = value["shape"]
        return cls(
            name=value["name"],
            shape=(channels, height, width),
            classes=value["classes"],
            class_names=tuple(value["class_names"]),
            mean=tuple(value["mean"]),
            std=tuple(value["std"]),
            counts=dict(value["counts"]),
        )
