"""The chains of mobile blocks and the records of their architectures. Imports no torch.

The chains are ours, after aiaccel's config_proxyless_imagenet: that of IS-NAS' ImageNet search is not public. Widths
are those of the full form, whose first convolution has 32 channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, model_validator

from nas.architectures.base import Architecture, CellGraph, as_tuples, register_architecture

MOBILE_OPS = {
    f"mbconv{expansion}_{kernel}x{kernel}": (kernel, expansion) for kernel in (3, 5, 7) for expansion in (3, 6)
}
ZERO = "zero"  # the block is skipped
FULL = 32  # channels of the first convolution in the full form
ENTRY = 16  # channels that enter the chain
FEATURES = 1280  # channels before the classifier


@dataclass(frozen=True)
class Position:
    """A place for one block.

    `stage`: index of the run of positions of equal width; `before`, `width`: channels in and out, in the full form.
    """

    stage: int
    before: int
    width: int
    stride: int

    @property
    def residual(self) -> bool:
        """Whether the input can be added to the output; if so, the block can be skipped."""
        return self.stride == 1 and self.before == self.width

    @property
    def categories(self) -> tuple[str, ...]:
        return (*MOBILE_OPS, ZERO) if self.residual else tuple(MOBILE_OPS)


def chain(stages: tuple[tuple[int, int, int], ...]) -> tuple[Position, ...]:
    """The positions of a chain. `stages`: (width, positions, stride of the first one) of each."""
    places: list[Position] = []
    for stage, (width, count, stride) in enumerate(stages):
        for index in range(count):
            before = places[-1].width if places else ENTRY
            places.append(Position(stage, before, width, 1 if index else stride))
    return tuple(places)


@dataclass(frozen=True)
class Chain:
    """A chain with one block per position, and the `stem` that its Size must have."""

    space: str
    stem: Literal["imagenet", "cifar"]
    positions: tuple[Position, ...]


IMAGENET = Chain(
    "mobile", "imagenet", chain(((24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)))
)
CIFAR = Chain(
    "mobile_cifar", "cifar", chain(((24, 2, 1), (32, 3, 1), (64, 4, 2), (96, 3, 1), (160, 3, 1), (320, 1, 1)))
)


class ChainArchitecture(Architecture):
    """The name of the block at each position of a chain."""

    of: ClassVar[Chain]
    blocks: Annotated[tuple[str, ...], BeforeValidator(as_tuples)]

    @model_validator(mode="after")
    def blocks_are_valid(self) -> Self:
        places = self.of.positions
        if len(self.blocks) != len(places):
            raise ValueError(f"there are {len(self.blocks)} blocks, expected {len(places)}")
        for index, (block, place) in enumerate(zip(self.blocks, places, strict=True)):
            if block not in place.categories:
                raise ValueError(f"blocks.{index}: {block!r} is not one of {', '.join(place.categories)}")
        return self

    def graphs(self) -> list[CellGraph]:
        """A row per stage. A box is the output of a position (from 1); a skipped position has none."""
        return list(self._rows())

    def sheets(self) -> dict[str, list[CellGraph]]:
        return {"chain": self.graphs()}

    def _rows(self) -> Iterator[CellGraph]:
        last = "stem"
        for stage in range(self.of.positions[-1].stage + 1):
            kept = [
                (str(index + 1), block)
                for index, (block, place) in enumerate(zip(self.blocks, self.of.positions, strict=True))
                if place.stage == stage and block != ZERO
            ]
            first, names = last, [name for name, _ in kept]
            edges = tuple((a, b, op) for a, (b, op) in zip([first, *names], kept, strict=False))
            place, last = next(p for p in self.of.positions if p.stage == stage), names[-1]
            name = f"{place.width} channels{', half the side' if place.stride == 2 else ''}"
            yield CellGraph(name, (first,), tuple(names[:-1]), last, edges, row=stage)


@register_architecture(IMAGENET.space)
class MobileArchitecture(ChainArchitecture):
    """21 blocks for ImageNet."""

    of = IMAGENET
    space: Literal["mobile"] = "mobile"


@register_architecture(CIFAR.space)
class MobileCifarArchitecture(ChainArchitecture):
    """16 blocks for CIFAR."""

    of = CIFAR
    space: Literal["mobile_cifar"] = "mobile_cifar"
