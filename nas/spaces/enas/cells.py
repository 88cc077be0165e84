"""Cells of the ENAS micro space, the supernet that runs one path through them, and the network of discrete cells.

Source (BASE): shirakawas/ASNG-NAS, classification; Pham et al. 2018 (ENAS), arXiv 1802.03268, section 2.4. Five nodes,
each the sum of two operations on earlier states. The nodes that no other node reads are concatenated; ReLU, 1x1 and
batch norm bring them to the cell's width. Operations on the inputs of a reduction cell have stride 2.

Shape legend: B batch, C width of the cell, H x W its map. A cell maps two inputs to [B, C, H, W]; a reduction cell to
[B, C, ceil(H/2), ceil(W/2)].
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.architectures.base import Cell
from nas.architectures.cell_shape import STEM_MULTIPLIER, reductions
from nas.architectures.enas import ENAS_NODES, ENAS_OPS, EnasArchitecture, loose_ends
from nas.config.params import Size
from nas.contracts import HardMix, ImageForm, Mix
from nas.spaces.blocks.mixing import summed
from nas.spaces.blocks.ops import FactorizedReduce, PointwiseConv2d, batch_norm, drop_path, separable
from nas.spaces.blocks.stems import AuxiliaryHead, check_stem, preprocess, stem

VARIABLES = 4  # of a node: input 1, input 2, operation 1, operation 2


def enas_op(name: str, channels: int, stride: int, affine: bool) -> nn.Module:
    """A candidate operation. No batch norm follows pools, and average pooling includes the padding."""
    match name:
        case "identity":
            return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, stride, padding=1)
        case "max_pool_3x3":
            return nn.MaxPool2d(3, stride, padding=1)
        case _:
            kernel = 3 if name == "sep_conv_3x3" else 5
            return nn.Sequential(
                *separable(channels, kernel, stride, 1, affine), *separable(channels, kernel, 1, 1, affine)
            )


def cell_of(choices: Sequence[int]) -> Cell:
    """The pairs of a cell from its 20 choices, in the order of the variables."""
    pairs = []
    for at in range(0, len(choices), VARIABLES):
        first, second, op_1, op_2 = choices[at : at + VARIABLES]
        pairs += [(ENAS_OPS[op_1], first), (ENAS_OPS[op_2], second)]
    return tuple(pairs)


def run_nodes(inputs: Sequence[Tensor], cell: Cell, run: Callable[[int, str, int, Tensor], Tensor]) -> list[Tensor]:
    """The states of the five nodes. `run` gets the node, the operation, the predecessor and its state.

    An operation that a node applies twice to the same input runs once.
    """
    states = list(inputs)
    for node in range(2, 2 + ENAS_NODES):
        first, second = cell[2 * node - 4 : 2 * node - 2]
        y = run(node, *first, states[first[1]])
        states.append(y + (y if second == first else run(node, *second, states[second[1]])))
    return states[2:]


class SampledCell(nn.Module):
    """A cell of the supernet: one module per (node, input, operation), shared by both slots of the node."""

    def __init__(self, c_before: int, c_last: int, channels: int, halve_before: bool, reduce: bool) -> None:
        super().__init__()
        self.input_0 = preprocess(c_before, channels, halve_before, affine=False)
        self.input_1 = preprocess(c_last, channels, False, affine=False)
        self.ops = nn.ModuleDict(
            {
                f"{node}-{pred}-{name}": enas_op(name, channels, 2 if reduce and pred < 2 else 1, False)
                for node in range(2, 2 + ENAS_NODES)
                for pred in range(node)
                for name in ENAS_OPS
            }
        )
        self.outputs = nn.ModuleList(PointwiseConv2d(channels, channels) for _ in range(ENAS_NODES))
        self.bn = batch_norm(channels, False)

    def forward(self, before: Tensor, last: Tensor, cell: Cell) -> Tensor:
        inputs = [self.input_0(before), self.input_1(last)]
        states = run_nodes(inputs, cell, lambda node, op, pred, x: self.ops[f"{node}-{pred}-{op}"](x))
        # separate slices of one 1x1 convolution over the concatenated nodes, so that only the used ones are trained
        ends = [self.outputs[node - 2](F.relu(states[node - 2])) for node in loose_ends(cell)]
        return self.bn(summed(ends))


class EnasSupernet(nn.Module):
    """All architectures of the space, one of which runs at a time: forward(images, mix) -> logits [B, classes]."""

    def __init__(self, form: ImageForm, size: Size) -> None:
        super().__init__()
        check_stem(size, "enas")
        self.stem = stem(form.channels, STEM_MULTIPLIER * size.channels)
        self.cell_types = [cell_type for cell_type, _ in cell_shapes(size)]
        self.cells = nn.ModuleList(
            SampledCell(*widths, cell_type == "reduce") for cell_type, widths in cell_shapes(size)
        )
        self.classifier = nn.Linear(4 * size.channels, form.classes)

    def forward(self, images: Tensor, mix: Mix) -> Tensor:
        if not isinstance(mix, HardMix):
            raise TypeError(
                "the supernet of space 'enas' runs one operation at a time and takes a HardMix, not a "
                f"{type(mix).__name__}"
            )
        cells = {cell_type: cell_of(choices) for cell_type, choices in mix.choices.items()}
        before = last = self.stem(images)
        for cell_type, cell in zip(self.cell_types, self.cells, strict=True):
            before, last = last, cell(before, last, cells[cell_type])
        return self.classifier(last.mean((2, 3)))


class DiscreteEnasCell(nn.Module):
    """A discrete cell; drop path on every operation except identities."""

    def __init__(self, cell: Cell, c_before: int, c_last: int, channels: int, halve_before: bool, reduce: bool) -> None:
        super().__init__()
        self.cell, self.ends = cell, loose_ends(cell)
        self.input_0 = preprocess(c_before, channels, halve_before, affine=True)
        self.input_1 = preprocess(c_last, channels, False, affine=True)
        used = {(2 + index // 2, op, pred) for index, (op, pred) in enumerate(cell)}
        self.ops = nn.ModuleDict(
            {
                f"{node}-{pred}-{op}": enas_op(op, channels, 2 if reduce and pred < 2 else 1, True)
                for node, op, pred in sorted(used)
            }
        )
        self.output = nn.Sequential(nn.ReLU(), PointwiseConv2d(len(self.ends) * channels, channels))
        self.bn = batch_norm(channels, True)

    def forward(self, before: Tensor, last: Tensor, drop_probability: float) -> Tensor:
        def run(node: int, name: str, pred: int, x: Tensor) -> Tensor:
            op = self.ops[f"{node}-{pred}-{name}"]
            drops = self.training and drop_probability > 0 and not isinstance(op, nn.Identity)
            return drop_path(op(x), drop_probability) if drops else op(x)

        states = run_nodes([self.input_0(before), self.input_1(last)], self.cell, run)
        return self.bn(self.output(torch.cat([states[node - 2] for node in self.ends], dim=1)))


class EnasNetwork(nn.Module):
    """The network that is retrained and evaluated: forward(images) -> (logits, auxiliary logits or None)."""

    def __init__(self, architecture: EnasArchitecture, form: ImageForm, size: Size, auxiliary: bool) -> None:
        super().__init__()
        check_stem(size, "enas")
        self.drop_path = 0.0  # probability, set by the training loop at each epoch
        self.auxiliary_after = 2 * size.cells // 3
        self.stem = stem(form.channels, STEM_MULTIPLIER * size.channels)
        cells = {"normal": architecture.normal, "reduce": architecture.reduce}
        self.cells = nn.ModuleList(
            DiscreteEnasCell(cells[cell_type], *widths, cell_type == "reduce")
            for cell_type, widths in cell_shapes(size)
        )
        self.auxiliary = AuxiliaryHead(4 * size.channels, form.classes) if auxiliary else None
        self.classifier = nn.Linear(4 * size.channels, form.classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        auxiliary = None
        before = last = self.stem(images)
        for index, cell in enumerate(self.cells):
            before, last = last, cell(before, last, self.drop_path)
            if self.auxiliary is not None and self.training and index == self.auxiliary_after:
                auxiliary = self.auxiliary(last)
        return self.classifier(last.mean((2, 3))), auxiliary


def cell_shapes(size: Size) -> Iterator[tuple[str, tuple[int, int, int, bool]]]:
    """For each cell its type, and (channels of both inputs, its width, whether its older input is halved)."""
    before = last = STEM_MULTIPLIER * size.channels
    channels, halve = size.channels, False
    for index in range(size.cells):
        reduce = index in reductions(size.cells)
        channels *= 2 if reduce else 1
        yield "reduce" if reduce else "normal", (before, last, channels, halve)
        before, last, halve = last, channels, reduce
