"""Space `mobile`: a chain of 21 mobile blocks for ImageNet, one categorical variable each.

The chain is ours, after aiaccel's config_proxyless_imagenet; which space IS-NAS' paper searched on ImageNet is not
public. D = 21 variables with 141 categories. Parameters add up over the positions exactly.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import torch
from torch import nn

from nas.architectures.mobile import (
    MOBILE_OPS,
    ZERO,
    Chain,
    ChainArchitecture,
    MobileArchitecture,
    MobileCifarArchitecture,
    Position,
)
from nas.complexity import Count, count
from nas.config.params import Size
from nas.contracts import CategoricalSpace, Choices, HardMix, ImageForm
from nas.spaces.mobile.blocks import MobileNetwork, MobileSupernet, check_size, scaled
from nas.spaces.registry import register_space

CELL_TYPE = "chain"


@register_space("mobile")
class MobileSpace(CategoricalSpace):
    record: ClassVar[type[ChainArchitecture]] = MobileArchitecture

    def __init__(self) -> None:
        self.chain = self.record.of

    def categories(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        return {CELL_TYPE: tuple(place.categories for place in self.chain.positions)}

    def supernet(self, form: ImageForm, size: Size, reference: bool = False) -> nn.Module:
        """`reference` changes nothing: the only form runs one block at a time."""
        return MobileSupernet(self.chain, form, size)

    def network(self, architecture: ChainArchitecture, form: ImageForm, size: Size, auxiliary: bool) -> nn.Module:
        """`auxiliary` changes nothing: this space has no auxiliary head, but uses the same recipes as the others."""
        return MobileNetwork(architecture.blocks, self.chain, form, size)

    def random(self, generator: torch.Generator) -> ChainArchitecture:
        """Every position is drawn uniformly and independently."""
        return self.choose(
            {CELL_TYPE: [int(torch.randint(len(names), (), generator=generator)) for names in self.rows]}
        )

    def parse(self, value: Mapping[str, Any]) -> ChainArchitecture:
        return self.record.parse(value)

    def choose(self, choices: Choices) -> ChainArchitecture:
        blocks = [names[choice] for names, choice in zip(self.rows, choices[CELL_TYPE], strict=True)]
        return self.record.parse({"blocks": blocks})

    def costs(self, form: ImageForm, size: Size, affine: bool) -> dict[str, tuple[tuple[int, ...], ...]]:
        """The parameters of a network are the sum of its costs and those that every network has."""
        check_size(size, self.chain)
        return {
            CELL_TYPE: tuple(
                tuple(block_count(name, place, size.channels, (1, 1), affine).params for name in place.categories)
                for place in self.chain.positions
            )
        }

    def path_macs(self, form: ImageForm, size: Size, choices: Choices) -> int:
        prices, fixed = path_prices(self.chain, form, size.channels)
        return fixed + sum(row[choice] for row, choice in zip(prices, choices[CELL_TYPE], strict=True))

    def supernet_macs(self, form: ImageForm, size: Size) -> int:
        """With every block at every position, each expansion separately; more than any pass runs."""
        check_size(size, self.chain)
        prices, fixed = path_prices(self.chain, form, size.channels)
        return fixed + sum(map(sum, prices))

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        return self.categories()[CELL_TYPE]


def block_count(name: str, place: Position, channels: int, shape: tuple[int, int], affine: bool) -> Count:
    """The size of one block on a map of this height and width; 0 if it is skipped."""
    if name == ZERO:
        return Count(0, 0)
    kernel, expansion = MOBILE_OPS[name]
    before, after = scaled(place.before, channels), scaled(place.width, channels)
    hidden, pixels = expansion * before, shape[0] * shape[1]
    pixels_out = -(-shape[0] // place.stride) * -(-shape[1] // place.stride)
    norms = 2 * (2 * hidden + after) if affine else 0
    return Count(
        params=before * hidden + kernel**2 * hidden + hidden * after + norms,
        macs=before * hidden * pixels + (kernel**2 * hidden + hidden * after) * pixels_out,
    )


@cache
def path_prices(chain: Chain, form: ImageForm, channels: int) -> tuple[list[list[int]], int]:
    """Multiply-adds of one image: of each category of each position, and of what every path runs."""
    size = Size(cells=len(chain.positions), channels=channels, stem=chain.stem)
    shape, prices = (-(-form.height // 2), -(-form.width // 2)), []
    for place in chain.positions:
        prices.append([block_count(name, place, channels, shape, False).macs for name in place.categories])
        shape = -(-shape[0] // place.stride), -(-shape[1] // place.stride)
    first = HardMix({CELL_TYPE: [0] * len(prices)})
    whole = count(lambda: MobileSupernet(chain, form, size), form.shape, first).macs
    return prices, whole - sum(row[0] for row in prices)


@register_space("mobile_cifar")
class MobileCifarSpace(MobileSpace):
    """The chain of 16 mobile blocks for CIFAR, after the same source.

    All strides are 1 except those of the first convolution and the sixth position. D = 16 variables with 106
    categories.
    """

    record = MobileCifarArchitecture
