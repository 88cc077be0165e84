"""Sections of params.yaml for images: data set, splits and augmentation."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from nas.config.sections import Section, as_tuple

SLICE_SYNTAX = re.compile(r"(train|test)(?:\[(\d+%?)?:(\d+%?)?\])?")


class Slice(Section):
    """A split written as a slice of a part: `train`, `train[:50%]`, `train[50%:]` or `train[100:600]`."""

    part: Literal["train", "test"]
    start: str | None
    stop: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a slice. Raises ValueError."""
        match = SLICE_SYNTAX.fullmatch(text)
        if match is None:
            raise ValueError(
                "expected train, test, train[:50%], train[50%:], train[100:600] or {file: ..., array: ..., sha256: ...}"
            )
        part, start, stop = match.groups()
        if any(bound and bound.endswith("%") and int(bound[:-1]) > 100 for bound in (start, stop)):
            raise ValueError("a bound is above 100%")
        return cls(part=part, start=start, stop=stop)  # type: ignore[arg-type]

    def bounds(self, count: int) -> tuple[int, int]:
        """Start (included) and stop (excluded) of the slice among `count` samples.

        Raises:
            ValueError: The slice is empty or reaches past the last sample.
        """

        def position(bound: str | None, default: int) -> int:
            if bound is None:
                return default
            return count * int(bound[:-1]) // 100 if bound.endswith("%") else int(bound)

        start, stop = position(self.start, 0), position(self.stop, count)
        if not 0 <= start < stop <= count:
            raise ValueError(f"asks for samples {start} to {stop} of {count}")
        return start, stop


class Positions(Section):
    """A split given as an array of sample positions in an .npz file, for instance a benchmark's official split.

    Positions count from 0 within the test part for the split `test`, and within the train part for every other split.
    """

    file: str = Field(min_length=1)  # relative to the project's folder
    array: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    def __str__(self) -> str:
        return f"{self.array} of {self.file}"


SLICE, POSITIONS = "slice", "positions"  # tags for pydantic; they do not appear in params.yaml


def split_tag(value: Any) -> str:
    """The form in which a split is given: a slice (text) or an array of positions (mapping)."""
    return POSITIONS if isinstance(value, dict | Positions) else SLICE


Split = Annotated[Annotated[str, Tag(SLICE)] | Annotated[Positions, Tag(POSITIONS)], Discriminator(split_tag)]


class Splits(Section):
    search_train: Split
    search_valid: Split
    retrain: Split
    test: Split

    @field_validator("*")
    @classmethod
    def slices_are_well_formed(cls, split: str | Positions) -> str | Positions:
        if isinstance(split, str):
            Slice.parse(split)
        return split

    @model_validator(mode="after")
    def only_test_reads_the_test_part(self) -> Self:
        for name in ("search_train", "search_valid", "retrain"):
            if self.part(name) == "test":
                raise ValueError(
                    f"'{name}' is '{getattr(self, name)}': expected a slice of train, because only the evaluate stage "
                    "reads the test part"
                )
        if self.part("test") != "test":
            raise ValueError(f"'test' is '{self.test}': expected a slice of test")
        return self

    def part(self, name: str) -> str:
        """The part of the data set that a split is taken from: train or test."""
        split = getattr(self, name)
        if isinstance(split, str):
            return Slice.parse(split).part
        return "test" if name == "test" else "train"


class Data(Section):
    name: Literal["digits", "cifar10", "cifar100", "fashion-mnist", "arrays", "folder"]
    root: str = Field(min_length=1)
    download: bool
    sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    image_size: int | None = Field(ge=8, le=1024)
    pad: int | None = Field(ge=8, le=1024)
    stratified: bool
    splits: Splits

    @model_validator(mode="after")
    def keys_suit_the_source(self) -> Self:
        if self.sha256 is not None and self.name not in ("arrays", "folder"):
            raise ValueError(f"'sha256' is {self.sha256}: expected null, because 'name' is neither arrays nor folder")
        if self.image_size is not None and self.name != "folder":
            raise ValueError(f"'image_size' is {self.image_size}: expected null, because 'name' is not folder")
        return self


AreaShare = Annotated[float, Field(gt=0, le=1)]
JitterStrength = Annotated[float, Field(ge=0, le=8)]  # of brightness, contrast and saturation
HueShift = Annotated[float, Field(ge=0, le=0.5)]  # in turns of the hue circle


class Augment(Section):
    crop_padding: int = Field(ge=0, le=64)
    resized_crop: Annotated[tuple[AreaShare, AreaShare] | None, BeforeValidator(as_tuple)]
    flip: bool
    color_jitter: Annotated[
        tuple[JitterStrength, JitterStrength, JitterStrength, HueShift] | None, BeforeValidator(as_tuple)
    ]
    cutout: int = Field(ge=0, le=512)

    @model_validator(mode="after")
    def at_most_one_crop(self) -> Self:
        if self.resized_crop is None:
            return self
        low, high = self.resized_crop
        if low > high:
            raise ValueError(f"'resized_crop' is {[low, high]}: expected the smaller area share first")
        if self.crop_padding:
            raise ValueError(
                f"'crop_padding' is {self.crop_padding}: expected 0, because 'resized_crop' replaces the padded crop"
            )
        return self
