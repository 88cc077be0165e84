"""Cells, the supernet of mixed edges, and the network of found cells (DARTS, section 2.1; cnn/model*.py).

Shape legend: B batch, C width of the cell, H x W its map, E = 14 edges, O = 8 operations.
A cell maps two inputs to [B, 4C, H, W]; a reduction cell to [B, 4C, ceil(H/2), ceil(W/2)].
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.config import Size
from nas.contracts import HardMix, ImageForm, Mix, SoftMix
from nas.spaces import batched
from nas.spaces.architecture import EDGES, NODES, PRIMITIVES, Cell, DartsArchitecture
from nas.spaces.batched import Edge
from nas.spaces.ops import OPS, FactorizedReduce, drop_path, relu_conv_bn, supernet_op

STEM_MULTIPLIER = 3
SKIP = PRIMITIVES.index("skip_connect")
NONE = PRIMITIVES.index("none")


def reductions(cells: int) -> tuple[int, int]:
    """Positions of the reduction cells: one third and two thirds of the depth."""
    return cells // 3, 2 * cells // 3


def preprocess(c_in: int, channels: int, halve: bool, affine: bool) -> nn.Module:
    """Bring a cell's input to the cell's width, and to its map when the cell between was a reduction."""
    return FactorizedReduce(c_in, channels, affine) if halve else relu_conv_bn(c_in, channels, affine)


class MixedOp(nn.Module):
    """An edge of the supernet: the weighted sum of its candidates. Its forward is the yardstick for the batched one."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.ops = nn.ModuleList(supernet_op(name, channels, stride) for name in PRIMITIVES)

    def forward(self, x: Tensor, edge: Edge, skip_dropout: float) -> Tensor:
        total: Tensor | None = None
        for op, weight in edge:
            if op == NONE:
                continue  # adds zero; its weight acts through the others' share
            y = self.ops[op](x)
            if op == SKIP and self.stride == 1 and skip_dropout and self.training:
                y = F.dropout(y, skip_dropout)
            y = y if weight is None else weight * y
            total = y if total is None else total + y
        return total if total is not None else self.ops[NONE](x)


class MixedCell(nn.Module):
    """A cell of mixed edges. `reference` runs them one by one, as quark0/darts does: for tests and for reading."""

    def __init__(
        self, c_before: int, c_last: int, channels: int, halve_before: bool, reduce: bool, reference: bool
    ) -> None:
        super().__init__()
        self.reference = reference
        self.input_0 = preprocess(c_before, channels, halve_before, affine=False)
        self.input_1 = preprocess(c_last, channels, False, affine=False)
        strides = [2 if reduce and pred < 2 else 1 for _, pred in EDGES]
        self.edges = nn.ModuleList(MixedOp(channels, stride) for stride in strides)

    def forward(self, before: Tensor, last: Tensor, edges: Sequence[Edge], skip_dropout: float) -> Tensor:
        inputs = [self.input_0(before), self.input_1(last)]
        run = self._one_by_one if self.reference else batched.nodes
        return torch.cat(run(self.edges, inputs, edges, skip_dropout), dim=1)

    @staticmethod
    def _one_by_one(
        mixed: nn.ModuleList, inputs: Sequence[Tensor], edges: Sequence[Edge], skip_dropout: float
    ) -> list[Tensor]:
        states = list(inputs)
        for node in range(2, 2 + NODES):
            incoming = [(e, pred) for e, (j, pred) in enumerate(EDGES) if j == node]
            states.append(_sum([mixed[e](states[pred], edges[e], skip_dropout) for e, pred in incoming]))
        return states[2:]


class Supernet(nn.Module):
    """All architectures of the space at once: forward(images, mix) -> logits [B, classes]."""

    def __init__(self, form: ImageForm, size: Size, reference: bool = False) -> None:
        super().__init__()
        self.stem = stem(form.channels, STEM_MULTIPLIER * size.channels)
        cells, width = [], _Widths(size)
        self.kinds = ["reduce" if reduce else "normal" for reduce in _layout(size.cells)]
        for reduce in _layout(size.cells):
            cells.append(MixedCell(*width.next(reduce), reduce, reference))
        self.cells = nn.ModuleList(cells)
        self.classifier = nn.Linear(width.last, form.classes)

    def forward(self, images: Tensor, mix: Mix) -> Tensor:
        edges = {kind: running(mix, kind) for kind in ("normal", "reduce")}
        skip_dropout = mix.skip_dropout if isinstance(mix, SoftMix) else 0.0
        before = last = self.stem(images)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            before, last = last, cell(before, last, edges[kind], skip_dropout)
        return self.classifier(last.mean((2, 3)))


def running(mix: Mix, kind: str) -> list[Edge]:
    """What runs on each edge of a cell type."""
    if isinstance(mix, HardMix):
        return [[(choice, None)] for choice in mix.choices[kind]]
    weights = mix.weights[kind]
    every = range(weights.shape[1])
    alive = mix.alive[kind] if mix.alive is not None else [every] * len(weights)
    return [[(op, row[op]) for op in ops] for row, ops in zip(weights.unbind(), alive, strict=True)]


class FoundCell(nn.Module):
    """A discrete cell: two edges a node; drop path on every edge but the identities."""

    def __init__(self, cell: Cell, c_before: int, c_last: int, channels: int, halve_before: bool, reduce: bool) -> None:
        super().__init__()
        self.input_0 = preprocess(c_before, channels, halve_before, affine=True)
        self.input_1 = preprocess(c_last, channels, False, affine=True)
        self.preds = tuple(pred for _, pred in cell)
        self.ops = nn.ModuleList(OPS[op](channels, 2 if reduce and pred < 2 else 1, True) for op, pred in cell)

    def forward(self, before: Tensor, last: Tensor, drop_probability: float) -> Tensor:
        states = [self.input_0(before), self.input_1(last)]
        for node in range(NODES):
            states.append(_sum([self._edge(states, 2 * node + k, drop_probability) for k in range(2)]))
        return torch.cat(states[2:], dim=1)

    def _edge(self, states: list[Tensor], index: int, drop_probability: float) -> Tensor:
        op = self.ops[index]
        y: Tensor = op(states[self.preds[index]])
        drops = self.training and drop_probability > 0 and not isinstance(op, nn.Identity)
        return drop_path(y, drop_probability) if drops else y


class Network(nn.Module):
    """The network that is retrained and judged: forward(images) -> (logits, auxiliary logits or None)."""

    def __init__(self, cells: DartsArchitecture, form: ImageForm, size: Size, auxiliary: bool) -> None:
        super().__init__()
        self.drop_path = 0.0  # probability, set by the training loop at each epoch
        self.auxiliary_after = 2 * size.cells // 3
        self.stem = stem(form.channels, STEM_MULTIPLIER * size.channels)
        found, width, self.auxiliary = [], _Widths(size), None
        for index, reduce in enumerate(_layout(size.cells)):
            cell = cells.reduce if reduce else cells.normal
            found.append(FoundCell(cell, *width.next(reduce), reduce))
            if auxiliary and index == self.auxiliary_after:
                self.auxiliary = AuxiliaryHead(width.last, form.classes)
        self.cells = nn.ModuleList(found)
        self.classifier = nn.Linear(width.last, form.classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        auxiliary = None
        before = last = self.stem(images)
        for index, cell in enumerate(self.cells):
            before, last = last, cell(before, last, self.drop_path)
            if self.auxiliary is not None and self.training and index == self.auxiliary_after:
                auxiliary = self.auxiliary(last)
        return self.classifier(last.mean((2, 3))), auxiliary


class AuxiliaryHead(nn.Module):
    """DARTS' auxiliary classifier, in training only. It is made for an 8x8 map; any other map is pooled to 2x2."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        # on 8x8 DARTS takes 5x5 windows three apart, quarters would be 4x4
        x = F.avg_pool2d(x, 5, 3) if x.shape[-2:] == (8, 8) else quarters(x)
        return self.classifier(self.features(x).flatten(1))


def quarters(x: Tensor) -> Tensor:
    """Means of the four quarters, [B, C, H, W] -> [B, C, 2, 2]; odd sides share their middle line.

    The same as adaptive_avg_pool2d(x, 2), whose gradient on a GPU is not deterministic.
    """
    height, width = x.shape[-2:]
    rows = (slice(0, (height + 1) // 2), slice(height // 2, height))
    columns = (slice(0, (width + 1) // 2), slice(width // 2, width))
    return torch.stack([torch.stack([x[..., r, c].mean((-2, -1)) for c in columns], -1) for r in rows], -2)


def stem(c_in: int, c_out: int) -> nn.Module:
    """3x3 convolution and batch norm, affine in the supernet too (DARTS)."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out))


class _Widths:
    """Channels of the two inputs of each cell in turn, its width, and whether its older input must be halved."""

    def __init__(self, size: Size) -> None:
        self.channels = size.channels
        self.before = self.last = STEM_MULTIPLIER * size.channels
        self.halve = False

    def next(self, reduce: bool) -> tuple[int, int, int, bool]:
        self.channels *= 2 if reduce else 1
        widths = self.before, self.last, self.channels, self.halve
        self.before, self.last, self.halve = self.last, NODES * self.channels, reduce
        return widths


def _layout(cells: int) -> list[bool]:
    """Whether each cell is a reduction."""
    return [index in reductions(cells) for index in range(cells)]


def _sum(maps: Sequence[Tensor]) -> Tensor:
    total = maps[0]
    for y in maps[1:]:
        total = total + y
    return total
