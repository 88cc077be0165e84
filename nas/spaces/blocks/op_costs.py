"""The costs of operations in a network of cells, per cell type, for all spaces of such cells."""

from collections.abc import Callable, Iterator, Sequence

from torch import nn

from nas.architectures.cell_shape import reductions
from nas.complexity import count
from nas.config.params import Size
from nas.contracts import ImageForm
from nas.spaces.blocks.stems import check_stem

Build = Callable[[str, int, int], nn.Module]  # operation, channels, stride


def cell_maps(form: ImageForm, size: Size) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """For each cell its type, its width and the map (height, width) of its inputs."""
    channels, height, width = size.channels, form.height, form.width
    for index in range(size.cells):
        reduce = index in reductions(size.cells)
        channels *= 2 if reduce else 1
        yield "reduce" if reduce else "normal", channels, (height, width)
        if reduce:
            height, width = (height + 1) // 2, (width + 1) // 2


def op_prices(ops: Sequence[str], build: Build, form: ImageForm, size: Size) -> dict[tuple[str, str, int], list[int]]:
    """(cell type, operation, stride) -> parameters and multiply-adds, summed over the cells of the type.

    In a reduction cell an operation of stride 1 runs on the halved map. A normal cell has only stride 1.
    """
    check_stem(size, "a search by categories")
    prices: dict[tuple[str, str, int], list[int]] = {}
    for cell_type, channels, (height, width) in cell_maps(form, size):
        for stride in (1, 2) if cell_type == "reduce" else (1,):
            halve = cell_type == "reduce" and stride == 1
            shape = (channels, (height + 1) // 2, (width + 1) // 2) if halve else (channels, height, width)
            for op in ops:
                one = count(lambda: build(op, channels, stride), shape)  # noqa: B023 (called at once)
                price = prices.setdefault((cell_type, op, stride), [0, 0])
                price[0] += one.params
                price[1] += one.macs
    return prices
