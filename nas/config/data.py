"""The sections of params.yaml that describe images: data set, splits and augmentation."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from nas.config.sections import ParamsError as ParamsError
from nas.config.sections import Section as Section
from nas.config.sections import as_tuple as as_tuple
from nas.config.sections import validate as validate

SLICE = re.compile(r"(train|test)(?:\[(\d+%?)?:(\d+%?)?\])?")


class Slice(Section):
    """Part of a data set: `train`, `train[:50%]`, `train[50%:]`, `train[100:600]`."""

    part: Literal["train", "test"]
    start: str | None
    stop: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        match = SLICE.fullmatch(text)
        if match is None:
            raise ValueError(
                "expected train, test, train[:50%], train[50%:], train[100:600] or {file: ..., array: ..., sha256: ...}"
            )
        part, start, stop = match.groups()
        if any(bound and bound.endswith("%") and int(bound[:-1]) > 100 for bound in (start, stop)):
            raise ValueError("a bound lies above 100%")
        return cls(part=part, start=start, stop=stop)  # type: ignore[arg-type]

    def bounds(self, count: int) -> tuple[int, int]:
        """First (included) and last (excluded) position among `count` samples.

        Raises:
            ValueError: the slice is empty or reaches past the last sample.
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
    """A split that others have drawn: an array of positions in a part, from 0, in an .npz file with this checksum.

    Of the test part for `test`, else of the train part.
    """

    file: str = Field(min_length=1)  # relative to the project
    array: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    def __str__(self) -> str:
        return f"{self.array} of {self.file}"


SLICE_FORM, POSITIONS = "slice", "positions"  # how a split may be given; no keys


def split_form(value: Any) -> str:
    return POSITIONS if isinstance(value, dict | Positions) else SLICE_FORM


Split = Annotated[Annotated[str, Tag(SLICE_FORM)] | Annotated[Positions, Tag(POSITIONS)], Discriminator(split_form)]


class Splits(Section):
    search_train: Split
    search_valid: Split
    retrain: Split
    test: Split

    @field_validator("*")
    @classmethod
    def known_form(cls, split: str | Positions) -> str | Positions:
        if isinstance(split, str):
            Slice.parse(split)
        return split

    @model_validator(mode="after")
    def test_is_kept_apart(self) -> Self:
        for name in ("search_train", "search_valid", "retrain"):
            if self.part(name) == "test":
                raise ValueError(f"'{name}' may not read the test part: only evaluate opens it")
        if self.part("test") != "test":
            raise ValueError("'test' must be a slice of the test part")
        return self

    def part(self, name: str) -> str:
        """The part of the data set that a split is of."""
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
    def keys_that_go_together(self) -> Self:
        if self.sha256 is not None and self.name not in ("arrays", "folder"):
            raise ValueError("'sha256' is for name: arrays and name: folder; leave it null")
        if self.image_size is not None and self.name != "folder":
            raise ValueError("'image_size' is for name: folder; leave it null")
        return self


Share = Annotated[float, Field(gt=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=8)]  # of brightness, contrast, saturation
Turn = Annotated[float, Field(ge=0, le=0.5)]  # of a hue, in circles


class Augment(Section):
    crop_padding: int = Field(ge=0, le=64)
    resized_crop: Annotated[tuple[Share, Share] | None, BeforeValidator(as_tuple)]
    flip: bool
    color_jitter: Annotated[tuple[Strength, Strength, Strength, Turn] | None, BeforeValidator(as_tuple)]
    cutout: int = Field(ge=0, le=512)

    @model_validator(mode="after")
    def one_crop(self) -> Self:
        if self.resized_crop is None:
            return self
        low, high = self.resized_crop
        if low > high:
            raise ValueError(f"'resized_crop' is {[low, high]}: expected the smaller share of the area first")
        if self.crop_padding:
            raise ValueError(f"'crop_padding' is {self.crop_padding}: expected 0 beside 'resized_crop', another crop")
        return self
