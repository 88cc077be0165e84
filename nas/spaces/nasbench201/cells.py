"""Cells of NAS-Bench-201, the supernet of mixed edges, and the network of discrete cells.

Source: Dong and Yang 2020, arXiv 2001.00326; D-X-Y/AutoDL-Projects (MIT), cell_operations.py, tiny_network.py and
search_model_darts.py. Ours: a supernet normalises by the batch everywhere after its stem, odd maps are rounded up, and
the network can have the auxiliary head of the shared recipe, which the benchmark's network lacks.

Shape legend: B batch, C width of the stage, H x W its map, E = 6 edges, O = 5 operations.
A cell maps [B, C, H, W] to itself; a residual block to [B, 2C, ceil(H/2), ceil(W/2)]. A network is three stages of N
cells each, at C, 2C and 4C, with a residual block between them.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.architectures.base import ArchitectureError
from nas.architectures.nasbench201 import CELL_TYPES, NASBENCH201_EDGES, OPERATIONS
from nas.config.params import Size
from nas.contracts import Growth, ImageForm, Mix, SoftMix
from nas.spaces.blocks import kernels
from nas.spaces.blocks.growing import GrowingSupernet, running_ops
from nas.spaces.blocks.mixing import Edge, Part, Running, batch_norm, summed, times, weighted
from nas.spaces.blocks.ops import OPS, PointwiseConv2d, Zero, drop_path, relu_conv_bn
from nas.spaces.blocks.ops import batch_norm as norm
from nas.spaces.blocks.stems import AuxiliaryHead, check_stem, stem

NONE_INDEX, SKIP_INDEX, POOL_INDEX = (OPERATIONS.index(name) for name in ("none", "skip_connect", "avg_pool_3x3"))
OUTPUT = 3
RESIDUAL = "residual"  # the block between two stages, in a row of cell types
LEAVING = tuple(tuple(e for e, (_, pred) in enumerate(NASBENCH201_EDGES) if pred == state) for state in range(OUTPUT))


def operation(name: str, channels: int, affine: bool) -> nn.Module:
    """A candidate, of stride 1. No batch norm follows the pool, not even in the supernet."""
    match name:
        case "none":
            return Zero(1)
        case "skip_connect":
            return nn.Identity()
        case "nor_conv_1x1":
            return relu_conv_bn(channels, channels, affine)
        case "nor_conv_3x3":
            return nn.Sequential(nn.ReLU(), conv_3x3(channels, channels, 1), norm(channels, affine))
        case _:
            return OPS["avg_pool_3x3"](channels, 1, affine)


def conv_3x3(c_in: int, c_out: int, stride: int) -> nn.Module:
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)


class Residual(nn.Module):
    """The block between two stages (ResNetBasicblock, stride 2); its norms have scales in a supernet too."""

    def __init__(self, channels: int, searching: bool) -> None:
        super().__init__()
        wide = 2 * channels
        self.conv_a = nn.Sequential(nn.ReLU(), conv_3x3(channels, wide, 2), scaled_norm(wide, searching))
        self.conv_b = nn.Sequential(nn.ReLU(), conv_3x3(wide, wide, 1), scaled_norm(wide, searching))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), PointwiseConv2d(channels, wide))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_b(self.conv_a(x)) + self.shortcut(x)


def scaled_norm(channels: int, searching: bool) -> nn.Module:
    """Batch norm outside of the cells. A supernet uses the batch's statistics, since each pass runs another path."""
    return nn.BatchNorm2d(channels, track_running_stats=not searching)


# --- The supernet


def live(edges: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """The operations of each edge that contribute to the output of the cell: all but `none` and those on an edge into a
    node that no other node reads.

    `none` adds zero; its weight only lowers the share of the others.
    """
    real = [[op for op in ops if op != NONE_INDEX] for ops in edges]
    for node in (2, 1):
        if not any(real[e] for e in LEAVING[node]):
            real = [[] if n == node else ops for (n, _), ops in zip(NASBENCH201_EDGES, real, strict=True)]
    return real


class MixedEdge(nn.Module):
    """An edge of the supernet: the weighted sum of its candidates. Its forward is the reference for the batched one.

    `only`: the one candidate that it has; None means all.
    """

    def __init__(self, channels: int, only: str | None = None) -> None:
        super().__init__()
        self.ops = nn.ModuleList(
            operation(name if only in (None, name) else "none", channels, False) for name in OPERATIONS
        )

    def forward(self, x: Tensor, edge: Edge, skip_dropout: float) -> Tensor:
        maps = [torch.zeros_like(x)] if not edge else []
        for op, weight in edge:
            y = self.ops[op](x)
            if op == SKIP_INDEX and skip_dropout and self.training:
                y = F.dropout(y, skip_dropout)
            maps.append(times(y, weight))
        return summed(maps)


class MixedCell(nn.Module):
    """A cell of mixed edges; `reference` runs them one by one, as the benchmark's code does.

    `discrete`: one operation per edge, if the cell is no longer mixed.
    """

    def __init__(self, channels: int, reference: bool, discrete: Sequence[str] | None = None) -> None:
        super().__init__()
        self.reference = reference
        self.edges = nn.ModuleList(
            MixedEdge(channels, discrete[e] if discrete else None) for e in range(len(NASBENCH201_EDGES))
        )

    def forward(self, x: Tensor, running: Running, skip_dropout: float) -> Tensor:
        return (self._one_by_one if self.reference else self._batched)(x, running, skip_dropout)

    def _one_by_one(self, x: Tensor, running: Running, skip_dropout: float) -> Tensor:
        states = [x]
        for node in range(1, OUTPUT + 1):
            incoming = [(e, pred) for e, (n, pred) in enumerate(NASBENCH201_EDGES) if n == node]
            states.append(summed([self.edges[e](states[pred], running.edges[e], skip_dropout) for e, pred in incoming]))
        return states[-1]

    def _batched(self, x: Tensor, running: Running, skip_dropout: float) -> Tensor:
        """All edges that leave a state at once, as in nas/spaces/darts/batched.py."""
        incoming: dict[int, list[Tensor]] = defaultdict(list)
        for state, leaving in enumerate(LEAVING):
            y = x if state == 0 else summed(incoming[state] or [torch.zeros_like(x)])
            for e, part in self._leave(y, leaving, running, skip_dropout):
                incoming[NASBENCH201_EDGES[e][0]].append(part)
        return summed(incoming[OUTPUT] or [torch.zeros_like(x)])

    def _leave(self, x: Tensor, leaving: tuple[int, ...], running: Running, skip_dropout: float) -> list[Part]:
        """The edges share the state's ReLU and its pool. The same operation of all edges is one convolution, and the
        weight of an operation is the scale of its batch norm."""
        mixed: Any = self.edges
        parts: list[Part] = []
        plain = []  # maps that all edges with the operation share
        relu: Tensor | None = None
        for op, held in running.leaving(leaving).items():
            if op == SKIP_INDEX and skip_dropout and self.training:
                parts += [(e, times(F.dropout(x, skip_dropout), weight)) for e, weight in held]
            elif op in (SKIP_INDEX, POOL_INDEX):
                plain.append((mixed[held.edges[0]].ops[op](x), held))
            else:
                relu = F.relu(x) if relu is None else relu
                kernel = torch.cat([mixed[e].ops[op][1].weight for e in held.edges])
                y = batch_norm(convolved(relu, kernel), held.scale(x.shape[1]))
                parts += zip(held.edges, y.chunk(len(held.edges), dim=1), strict=True)
        return parts + weighted(plain)


def convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """x [B, C, H, W] by kernels [E C, C, k, k] with `same` padding."""
    if kernel.shape[-1] == 1 and kernels.suit(x):
        return kernels.pointwise(x, kernel)
    return F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)


class NasBench201Supernet(GrowingSupernet):
    """Many architectures at once: forward(images, mix) -> logits [B, classes].

    Cells of a discrete type run the one operation of each edge, without dropout after skips. The `cell_types` of the
    growth include the residual blocks, as in `layout`.
    """

    def __init__(self, form: ImageForm, size: Size, growth: Growth, reference: bool = False) -> None:
        super().__init__()
        check_stem(size, "NAS-Bench-201's skeleton")
        self.stem = stem(form.channels, size.channels)
        self.cell_types, self.discrete = growth.cell_types, growth.discrete
        ops = {cell_type: [op for op, _ in cell] for cell_type, cell in self.discrete.items()}
        *widths, last = widths_of(self.cell_types, size.channels)
        self.cells = nn.ModuleList(
            Residual(channels, searching=True)
            if cell_type == RESIDUAL
            else MixedCell(channels, reference, ops.get(cell_type))
            for cell_type, channels in zip(self.cell_types, widths, strict=True)
        )
        self.norm = scaled_norm(last, searching=True)
        self.classifier = nn.Linear(last, form.classes)

    def forward(self, images: Tensor, mix: Mix) -> Tensor:
        mixed = {
            cell_type: self._running(cell_type, mix)
            for cell_type in dict.fromkeys(self.cell_types)
            if cell_type != RESIDUAL
        }
        skip_dropout = mix.skip_dropout if isinstance(mix, SoftMix) else 0.0
        x = self.stem(images)
        for cell_type, cell in zip(self.cell_types, self.cells, strict=True):
            drop = 0.0 if cell_type in self.discrete else skip_dropout
            x = cell(x) if cell_type == RESIDUAL else cell(x, mixed[cell_type], drop)
        return self.classifier(F.relu(self.norm(x)).mean((2, 3)))

    def _running(self, cell_type: str, mix: Mix) -> Running:
        if cell_type in self.discrete:
            return Running(live([[OPERATIONS.index(op)] for op, _ in self.discrete[cell_type]]), None)
        given = running_ops(mix, cell_type)
        return Running(live(given.ops), given.weights)


# --- The network


class DiscreteCell(nn.Module):
    """A discrete cell; drop path on every edge except identities."""

    def __init__(self, operations: Sequence[str], channels: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList(operation(name, channels, True) for name in operations)

    def forward(self, x: Tensor, drop_probability: float) -> Tensor:
        states = [x]
        for node in range(1, OUTPUT + 1):
            edges = [(e, pred) for e, (n, pred) in enumerate(NASBENCH201_EDGES) if n == node]
            states.append(summed([self._edge(self.ops[e], states[pred], drop_probability) for e, pred in edges]))
        return states[-1]

    def _edge(self, op: nn.Module, x: Tensor, drop_probability: float) -> Tensor:
        drops = self.training and drop_probability > 0 and not isinstance(op, nn.Identity | Zero)
        return drop_path(op(x), drop_probability) if drops else op(x)


class NasBench201Network(nn.Module):
    """The network that is retrained and evaluated: forward(images) -> (logits, auxiliary logits or None).

    `operations`: for each stage the operations of its cell.
    """

    def __init__(self, operations: Sequence[Sequence[str]], form: ImageForm, size: Size, auxiliary: bool) -> None:
        super().__init__()
        self.drop_path = 0.0  # probability, set by the training loop at each epoch
        self.stem = stem(form.channels, size.channels)
        cell_types = layout(size, CELL_TYPES)
        *widths, wide = widths_of(cell_types, size.channels)
        cells = dict(zip(CELL_TYPES, operations, strict=True))
        self.cells = nn.ModuleList(
            Residual(channels, searching=False) if cell_type == RESIDUAL else DiscreteCell(cells[cell_type], channels)
            for cell_type, channels in zip(cell_types, widths, strict=True)
        )
        self.auxiliary = AuxiliaryHead(wide, form.classes) if auxiliary else None  # after the second residual block
        self.auxiliary_after = [at for at, cell_type in enumerate(cell_types) if cell_type == RESIDUAL][1]
        self.norm = scaled_norm(wide, searching=False)
        self.classifier = nn.Linear(wide, form.classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        auxiliary, x = None, self.stem(images)
        for at, cell in enumerate(self.cells):
            x = cell(x, self.drop_path) if isinstance(cell, DiscreteCell) else cell(x)
            if self.auxiliary is not None and self.training and at == self.auxiliary_after:
                auxiliary = self.auxiliary(x)
        return self.classifier(F.relu(self.norm(x)).mean((2, 3))), auxiliary


# --- Depth and width


def stage_cells(size: Size) -> int:
    """N, the number of cells in a stage. Raises ArchitectureError if the space has no networks of this size."""
    check_stem(size, "NAS-Bench-201's skeleton")
    if size.cells < 5 or size.cells % 3 != 2:
        raise ArchitectureError(
            f"cells is {size.cells}, but NAS-Bench-201's skeleton has three stages of N cells and two residual blocks "
            "between them: expected 3 N + 2, so 5, 8, 11, 14 or 17 (the benchmark's)"
        )
    return (size.cells - 2) // 3


def layout(size: Size, cell_types: Sequence[str]) -> tuple[str, ...]:
    """The type of each cell, and the residual blocks, in order of depth. `cell_types`: the type of each stage."""
    return joined([cell_type] * stage_cells(size) for cell_type in cell_types)


def joined(stages: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """The cells of all stages, with a residual block between each two of them."""
    row: list[str] = []
    for stage in stages:
        row += [RESIDUAL] if row else []
        row += stage
    return tuple(row)


def widths_of(cell_types: Sequence[str], channels: int) -> Iterator[int]:
    """The width of the input of each cell and block, and of the output of the last."""
    for cell_type in cell_types:
        yield channels
        channels *= 2 if cell_type == RESIDUAL else 1
    yield channels
