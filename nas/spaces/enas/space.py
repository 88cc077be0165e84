"""Space `enas`: two cells of five nodes, 40 categorical variables (ENAS' micro space, as ASNG-NAS searches it).

The variables of a node are input 1, input 2, operation 1, operation 2, in this order. Its inputs are the cell's two
(0, 1) and the earlier nodes. That IS-NAS searches this space on CIFAR-10 is our reading.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from nas.architectures.base import Cell
from nas.architectures.enas import ENAS_NODES, ENAS_OPS, EnasArchitecture, loose_ends
from nas.complexity import count
from nas.config.params import Size
from nas.contracts import CategoricalSpace, Choices, HardMix, ImageForm
from nas.spaces.blocks.op_costs import cell_maps, op_prices
from nas.spaces.enas.cells import EnasNetwork, EnasSupernet, cell_of, enas_op
from nas.spaces.registry import register_space

CELL_TYPES = ("normal", "reduce")
INPUTS = [tuple(f"{pred} {name}" for pred, name in enumerate(["c[k-2]", "c[k-1]", "0", "1", "2", "3"][: 2 + node]))
          for node in range(ENAS_NODES)]  # fmt: skip
COUNTS = [len(names) for inputs in INPUTS for names in (inputs, inputs, ENAS_OPS, ENAS_OPS)]


@register_space("enas")
class EnasSpace(CategoricalSpace):
    def categories(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        cell = tuple(names for inputs in INPUTS for names in (inputs, inputs, ENAS_OPS, ENAS_OPS))
        return dict.fromkeys(CELL_TYPES, cell)

    def supernet(self, form: ImageForm, size: Size, reference: bool = False) -> nn.Module:
        """`reference` changes nothing: the only form runs one operation at a time."""
        return EnasSupernet(form, size)

    def network(self, architecture: EnasArchitecture, form: ImageForm, size: Size, auxiliary: bool) -> nn.Module:
        return EnasNetwork(architecture, form, size, auxiliary)

    def random(self, generator: torch.Generator) -> EnasArchitecture:
        """Every variable is drawn uniformly and independently."""
        choices = {
            cell_type: [int(torch.randint(n, (), generator=generator)) for n in COUNTS] for cell_type in CELL_TYPES
        }
        return self.choose(choices)

    def parse(self, value: Mapping[str, Any]) -> EnasArchitecture:
        return EnasArchitecture.parse(value)

    def choose(self, choices: Choices) -> EnasArchitecture:
        cells = {cell_type: in_order(cell_of(choices[cell_type])) for cell_type in CELL_TYPES}
        return EnasArchitecture(normal=cells["normal"], reduce=cells["reduce"])

    def costs(self, form: ImageForm, size: Size, affine: bool) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Only separable convolutions have a cost. An identity counts 0, although one of stride 2 has weights. An
        operation chosen twice on one input counts twice, although it exists once. The output is left out."""
        prices = op_prices(ENAS_OPS, lambda op, c, stride: enas_op(op, c, stride, affine), form, size)
        costs = {}
        for cell_type in CELL_TYPES:
            ops = tuple(prices[cell_type, op, 1][0] for op in ENAS_OPS)
            costs[cell_type] = tuple(
                row for inputs in INPUTS for row in ((0,) * len(inputs), (0,) * len(inputs), ops, ops)
            )
        return costs

    def path_macs(self, form: ImageForm, size: Size, choices: Choices) -> int:
        prices, fixed, slices = path_prices(form, size.cells, size.channels)
        total = fixed
        for cell_type in CELL_TYPES:
            cell = cell_of(choices[cell_type])
            ran = {(2 + index // 2, op, pred) for index, (op, pred) in enumerate(cell)}
            total += sum(
                prices[cell_type, op, 2 if cell_type == "reduce" and pred < 2 else 1][1] for _, op, pred in ran
            )
            total += len(loose_ends(cell)) * slices[cell_type]
        return total

    def supernet_macs(self, form: ImageForm, size: Size) -> int:
        """With every operation on every input of every node, and all nodes in the output; more than any pass runs."""
        prices, fixed, slices = path_prices(form, size.cells, size.channels)
        ops = [
            prices[cell_type, op, 2 if cell_type == "reduce" and pred < 2 else 1][1]
            for cell_type in CELL_TYPES
            for node in range(2, 2 + ENAS_NODES)
            for pred in range(node)
            for op in ENAS_OPS
        ]
        return fixed + sum(ops) + ENAS_NODES * sum(slices.values())


@cache
def path_prices(
    form: ImageForm, cells: int, channels: int
) -> tuple[dict[tuple[str, str, int], list[int]], int, dict[str, int]]:
    """The costs of each operation, of what every path runs, and of a node's slice of the output, by cell type.

    Multiply-adds of one image in the supernet; for operations also their parameters.
    """
    size = Size(cells=cells, channels=channels, stem="cifar")
    prices = op_prices(ENAS_OPS, lambda op, c, stride: enas_op(op, c, stride, False), form, size)
    slices = dict.fromkeys(CELL_TYPES, 0)
    for cell_type, width, (height, length) in cell_maps(form, size):
        halves = 2 if cell_type == "reduce" else 1
        slices[cell_type] += width * width * -(-height // halves) * -(-length // halves)
    # pools have no multiply-adds; every node reads input 0 only, so all nodes are in the output
    pools = {cell_type: [0, 0, 1, 1] * ENAS_NODES for cell_type in CELL_TYPES}
    base = count(lambda: EnasSupernet(form, size), form.shape, HardMix(pools)).macs
    return prices, base - ENAS_NODES * sum(slices.values()), slices


def in_order(cell: Cell) -> Cell:
    """The two pairs of each node sorted by input, then operation; the order of their sum does not matter."""
    pairs = [cell[at : at + 2] for at in range(0, len(cell), 2)]
    return tuple(pair for both in pairs for pair in sorted(both, key=lambda pair: (pair[1], ENAS_OPS.index(pair[0]))))
