"""Cells, the supernet of mixed edges, and the network of discrete cells (DARTS, section 2.1; cnn/model*.py).

Shape legend: B batch, C width of the cell, H x W its map, E = 14 edges, O = 8 operations.
A cell maps two inputs to [B, 4C, H, W]; a reduction cell to [B, 4C, ceil(H/2), ceil(W/2)].
A network is a row of cells, each of a named type. Cells of one type share their operations, never their weights.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.architectures.cell_shape import DARTS_EDGES, NODES, is_reduction, reductions
from nas.architectures.darts import PRIMITIVES
from nas.config.params import Size
from nas.contracts import Growth, ImageForm, Mix, Pairs, SoftMix
from nas.spaces.blocks.growing import GrowingSupernet, running_ops
from nas.spaces.blocks.mixing import Edge, Running, summed, times
from nas.spaces.blocks.ops import OPS, drop_path, supernet_op
from nas.spaces.blocks.stems import AuxiliaryHead, CellWidths, input_stem, preprocess
from nas.spaces.darts import batched

SKIP_INDEX = PRIMITIVES.index("skip_connect")
NONE_INDEX = PRIMITIVES.index("none")


class MixedOp(nn.Module):
    """An edge of the supernet: the weighted sum of its candidates. Its forward is the reference for the batched one."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.ops = nn.ModuleList(supernet_op(name, channels, stride) for name in PRIMITIVES)

    def forward(self, x: Tensor, edge: Edge, skip_dropout: float) -> Tensor:
        total: Tensor | None = None
        for op, weight in edge:
            if op == NONE_INDEX:
                continue  # adds zero; its weight only lowers the share of the others
            y = self.ops[op](x)
            if op == SKIP_INDEX and self.stride == 1 and skip_dropout and self.training:
                y = F.dropout(y, skip_dropout)
            y = times(y, weight)
            total = y if total is None else total + y
        return total if total is not None else self.ops[NONE_INDEX](x)


class MixedCell(nn.Module):
    """A cell of mixed edges. `reference` runs them one by one, as quark0/darts does, for tests and for reading."""

    def __init__(
        self, c_before: int, c_last: int, channels: int, halve_before: bool, reduce: bool, reference: bool
    ) -> None:
        super().__init__()
        self.reference = reference
        self.input_0 = preprocess(c_before, channels, halve_before, affine=False)
        self.input_1 = preprocess(c_last, channels, False, affine=False)
        strides = [2 if reduce and pred < 2 else 1 for _, pred in DARTS_EDGES]
        self.edges = nn.ModuleList(MixedOp(channels, stride) for stride in strides)

    def forward(self, before: Tensor, last: Tensor, running: Running, skip_dropout: float) -> Tensor:
        inputs = [self.input_0(before), self.input_1(last)]
        run = self._one_by_one if self.reference else batched.run_nodes
        return torch.cat(run(self.edges, inputs, running, skip_dropout), dim=1)

    @staticmethod
    def _one_by_one(
        mixed: nn.ModuleList, inputs: Sequence[Tensor], running: Running, skip_dropout: float
    ) -> list[Tensor]:
        states = list(inputs)
        for node in range(2, 2 + NODES):
            incoming = [(e, pred) for e, (j, pred) in enumerate(DARTS_EDGES) if j == node]
            states.append(summed([mixed[e](states[pred], running.edges[e], skip_dropout) for e, pred in incoming]))
        return states[2:]


class DartsSupernet(GrowingSupernet):
    """Many architectures at once: forward(images, mix) -> logits [B, classes]. Discrete cells are not mixed."""

    def __init__(self, form: ImageForm, size: Size, growth: Growth, reference: bool = False) -> None:
        super().__init__()
        self.stem = input_stem(form, size)
        self.cell_types, self.discrete = growth.cell_types, growth.discrete
        cells: list[nn.Module] = []
        width = CellWidths(size)
        for cell_type in self.cell_types:
            reduce = is_reduction(cell_type)
            if cell_type in growth.discrete:
                cells.append(DiscreteCell(growth.discrete[cell_type], *width.next(reduce), reduce, searching=True))
            else:
                cells.append(MixedCell(*width.next(reduce), reduce, reference))
        self.cells = nn.ModuleList(cells)
        self.classifier = nn.Linear(width.last, form.classes)

    def forward(self, images: Tensor, mix: Mix) -> Tensor:
        mixed = {
            cell_type: running_ops(mix, cell_type)
            for cell_type in dict.fromkeys(self.cell_types)
            if cell_type not in self.discrete
        }
        skip_dropout = mix.skip_dropout if isinstance(mix, SoftMix) else 0.0
        before, last = self.stem(images)
        for cell_type, cell in zip(self.cell_types, self.cells, strict=True):
            given = (mixed[cell_type], skip_dropout) if cell_type in mixed else (0.0,)
            before, last = last, cell(before, last, *given)
        return self.classifier(last.mean((2, 3)))

    def _within_cell(self, older: GrowingSupernet, cell_type: str, name: list[str]) -> list[str]:
        if name[0] == "ops" and cell_type not in older.discrete:  # in the older network an operation of a mixed edge
            op, pred = self.discrete[cell_type][int(name[1])]
            edge = DARTS_EDGES.index((2 + int(name[1]) // 2, pred))
            return ["edges", str(edge), "ops", str(PRIMITIVES.index(op)), *name[2:]]
        return name


class DiscreteCell(nn.Module):
    """A discrete cell: two edges per node; drop path on every edge except identities.

    `searching`: as part of a supernet, where norms have no scales and a norm follows each pool.
    """

    def __init__(
        self,
        cell: Pairs,
        c_before: int,
        c_last: int,
        channels: int,
        halve_before: bool,
        reduce: bool,
        searching: bool = False,
    ) -> None:
        super().__init__()
        self.input_0 = preprocess(c_before, channels, halve_before, affine=not searching)
        self.input_1 = preprocess(c_last, channels, False, affine=not searching)
        self.preds = tuple(pred for _, pred in cell)
        strides = [2 if reduce and pred < 2 else 1 for pred in self.preds]
        self.ops = nn.ModuleList(
            supernet_op(op, channels, stride) if searching else OPS[op](channels, stride, True)
            for (op, _), stride in zip(cell, strides, strict=True)
        )

    def forward(self, before: Tensor, last: Tensor, drop_probability: float) -> Tensor:
        states = [self.input_0(before), self.input_1(last)]
        for node in range(NODES):
            states.append(summed([self._edge(states, 2 * node + k, drop_probability) for k in range(2)]))
        return torch.cat(states[2:], dim=1)

    def _edge(self, states: list[Tensor], index: int, drop_probability: float) -> Tensor:
        op = self.ops[index]
        y: Tensor = op(states[self.preds[index]])
        drops = self.training and drop_probability > 0 and not isinstance(op, nn.Identity)
        return drop_path(y, drop_probability) if drops else y


class DartsNetwork(nn.Module):
    """The network that is retrained and evaluated: forward(images) -> (logits, auxiliary logits or None).

    `cells`: cell type -> its cell; `cell_types`: the type of each cell in order of depth.
    """

    def __init__(
        self, cells: Mapping[str, Pairs], cell_types: Sequence[str], form: ImageForm, size: Size, auxiliary: bool
    ) -> None:
        super().__init__()
        self.drop_path = 0.0  # probability, set by the training loop at each epoch
        self.auxiliary_after = reductions(len(cell_types))[1]
        self.stem = input_stem(form, size)
        row: list[nn.Module] = []
        width, self.auxiliary = CellWidths(size), None
        for index, cell_type in enumerate(cell_types):
            row.append(DiscreteCell(cells[cell_type], *width.next(is_reduction(cell_type)), is_reduction(cell_type)))
            if auxiliary and index == self.auxiliary_after:
                self.auxiliary = AuxiliaryHead(width.last, form.classes)
        self.cells = nn.ModuleList(row)
        self.classifier = nn.Linear(width.last, form.classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        auxiliary = None
        before, last = self.stem(images)
        for index, cell in enumerate(self.cells):
            before, last = last, cell(before, last, self.drop_path)
            if self.auxiliary is not None and self.training and index == self.auxiliary_after:
                auxiliary = self.auxiliary(last)
        return self.classifier(last.mean((2, 3))), auxiliary
