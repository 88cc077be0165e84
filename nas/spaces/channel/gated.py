"""Cells of one fixed operation with a gate per channel, as a search trains them.

Shape legend: B batch, C width of the cell, H x W its map, E = 14 edges; U, M, S, K as in channel_masks.
A node is the sum over its edges of  g_op * op(x) + g_skip * S(x);  S is the identity, or average pooling 2x2 on an edge
of stride 2. Gates act directly after batch norms; a double operation has a second gate in its middle.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.architectures.cell_shape import DARTS_EDGES, NODES
from nas.architectures.channel_sizes import OPERATIONS, Operation
from nas.config.params import Size
from nas.contracts import ImageForm
from nas.contracts.gates import GatedSupernet, GateMix
from nas.spaces.blocks.mixing import summed
from nas.spaces.blocks.ops import DepthwiseConv2d, PointwiseConv2d, batch_norm, drop_path
from nas.spaces.blocks.stems import CellWidths, input_stem, preprocess, reduction_flags
from nas.spaces.channel import grouped


class Pass(nn.Module):
    """ReLU, convolution, batch norm, gate: [B, c_in, H, W] -> [B, c_out, ceil(H / stride), ceil(W / stride)]."""

    def __init__(self, operation: Operation, c_in: int, c_out: int, stride: int, affine: bool) -> None:
        super().__init__()
        kernel, dilation = operation.kernel, operation.dilation
        self.depthwise = DepthwiseConv2d(c_in, kernel, stride, dilation) if operation.separable else None
        self.convolution = (
            PointwiseConv2d(c_in, c_out)
            if operation.separable
            else nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        )
        self.bn = batch_norm(c_out, affine)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """`gate`: [C], [B, C], or None for an open one."""
        x = F.relu(x)
        x = self.convolution(x if self.depthwise is None else self.depthwise(x))
        return self.bn(x) if gate is None else gated_norm(self.bn, x, gate)

    def parts(self, inputs: Tensor | None, outputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Weights that feed only gated channels, each with a mask of its part that feeds an open one."""
        rows, columns = outputs[:, None, None, None], inputs
        yield self.convolution.weight, rows if columns is None else rows & columns[:, None, None]
        if self.depthwise is not None and columns is not None:
            yield self.depthwise.weight, columns[:, None, None, None]
        yield from ((scale, outputs) for scale in self.bn.parameters())  # none unless affine


def gated_norm(bn: nn.Module, x: Tensor, gate: Tensor) -> Tensor:
    """gate * batch norm(x). A gate per channel becomes the scale of the norm, which saves a pass over the pixels."""
    assert isinstance(bn, nn.BatchNorm2d)
    if gate.dim() > 1:
        y = bn(x)
        return y * gate[:, :, None, None].to(y.dtype)
    scale, shift = (bn.weight * gate, bn.bias * gate) if bn.affine else (gate, None)
    if bn.training and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
    by_batch = bn.training or bn.running_mean is None
    return F.batch_norm(x, bn.running_mean, bn.running_var, scale, shift, by_batch, bn.momentum or 0.0, bn.eps)


class Edge(nn.Module):
    """The operation of an edge: u channels in, m in the middle of a double operation, s out."""

    def __init__(self, operation: Operation, u: int, m: int, s: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.first = Pass(operation, u, m if operation.double else s, stride, affine)
        self.second = Pass(operation, m, s, 1, affine) if operation.double else None

    def forward(self, x: Tensor, op: Tensor | None = None, mid: Tensor | None = None) -> Tensor:
        if self.second is None:
            return self.first(x, op)
        return self.second(self.first(x, mid), op)

    def parts(self, op: Tensor, mid: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        if self.second is None:
            yield from self.first.parts(None, op)
        else:
            yield from self.first.parts(None, mid)
            yield from self.second.parts(mid, op)

    @property
    def norms(self) -> tuple[nn.Module, nn.Module | None]:
        """The batch norms before the op gate and before the mid gate."""
        return (self.first.bn, None) if self.second is None else (self.second.bn, self.first.bn)


def wires(states: Sequence[Tensor], reduce: bool) -> list[Tensor]:
    """S(x) of each state. `reduce`: the edges have stride 2; a last odd row or column is averaged on its own."""
    return [F.avg_pool2d(x, 2, 2, ceil_mode=True) if reduce else x for x in states]


def dropped(y: Tensor, probability: float, training: bool) -> Tensor:
    """Drop path of the output of an operation. Skips are not dropped."""
    return drop_path(y, probability) if training and probability > 0 else y


# --- Gated


@cache
def sums(first: int, edges: tuple[int, ...], channels: int) -> Tensor:
    """[edges C, nodes C]: adds the channels of each edge to those of its node, of the nodes from `first`."""
    blocks = torch.eye(2 + NODES - first)[[DARTS_EDGES[e][0] - first for e in edges]]
    return torch.kron(blocks, torch.eye(channels))


@cache
def diagonals(nodes: tuple[bool, ...], channels: int) -> Tensor:
    """[C, nodes C]: a diagonal per node, zeros for those that are False."""
    return torch.kron(torch.tensor([nodes]).float(), torch.eye(channels))


@cache
def owners(edges: int, channels: int) -> Tensor:
    return grouped.owners([channels] * edges)


@cache
def blocks(edges: int, channels: int, device: torch.device) -> Tensor:
    return grouped.blocks([channels] * edges, [channels] * edges).to(device)


class GatedCell(nn.Module):
    def __init__(
        self,
        operation: Operation,
        c_before: int,
        c_last: int,
        channels: int,
        halve: bool,
        reduce: bool,
        affine: bool,
        reference: bool = False,
    ) -> None:
        super().__init__()
        self.reduce, self.affine, self.reference = reduce, affine, reference
        self.input_0 = preprocess(c_before, channels, halve, affine)
        self.input_1 = preprocess(c_last, channels, False, affine)
        strides = [2 if reduce and pred < 2 else 1 for _, pred in DARTS_EDGES]
        self.edges = nn.ModuleList(Edge(operation, channels, channels, channels, s, affine) for s in strides)

    def forward(
        self,
        before: Tensor,
        last: Tensor,
        gates: Tensor,
        running: Sequence[tuple[bool, bool]] | None,
        drop_probability: float = 0.0,
    ) -> Tensor:
        """`gates`: [E, 3, C], or [B, E, 3, C] for a gate per image. `running`: see GateMix.

        On small maps a search computes edges in groups, otherwise one by one; the two are equal up to rounding.
        """
        small = grouped.is_small(last, gates.shape[-1]) and not self.reference
        if small and not self.affine and gates.dim() == 3 and not (self.training and drop_probability > 0):
            return self.in_groups(before, last, gates, running)
        return self.one_by_one(before, last, gates, running, drop_probability)

    def in_groups(
        self, before: Tensor, last: Tensor, gates: Tensor, running: Sequence[tuple[bool, bool]] | None
    ) -> Tensor:
        """All edges that leave the inputs, then all that leave nodes 2, 3 and 4; each group adds to all later nodes."""
        states = [self.input_0(before), self.input_1(last)]
        skips = wires(states, self.reduce)
        of_edge = [edge.unbind(-2) for edge in gates.unbind(-3)]
        batch, width, height, breadth = skips[0].shape
        total: Tensor | None = None  # of the nodes that are not complete, [B H W, nodes C]
        for node, preds in enumerate(grouped.GROUPS, start=2):
            leaving = [[e for e, (_, of) in enumerate(DARTS_EDGES) if of == pred] for pred in preds]
            ops = [[e for e in some if running is None or running[e][0]] for some in leaving]
            if any(ops):
                y = self.operations([states[pred] for pred in preds], ops, of_edge)
                total = grouped.added(total, y, sums(node, tuple(e for some in ops for e in some), width).to(y))
            for pred, some in zip(preds, leaving, strict=True):
                open_skips = tuple(running is None or running[e][1] for e in some)
                if any(open_skips):
                    scales = torch.cat([of_edge[e][2] for e in some]).to(skips[pred].dtype)
                    total = grouped.added(total, skips[pred], diagonals(open_skips, width).to(scales) * scales)
            assert total is not None, f"nothing reaches node {node}"
            done, total = total.split([width, total.shape[1] - width], dim=1)
            states.append(done.unflatten(0, (batch, height, breadth)).permute(0, 3, 1, 2))
            skips.append(states[-1])
        return torch.cat(states[2:], dim=1)

    def operations(
        self, states: Sequence[Tensor], ops: Sequence[Sequence[int]], gates: Sequence[Sequence[Tensor]]
    ) -> Tensor:
        """The gated maps of `ops`, the edges that run of each state, next to each other."""
        edges: list[Any] = list(self.edges)
        first = [edges[e].first for some in ops for e in some]
        second = [edges[e].second for some in ops for e in some if edges[e].second is not None]
        weights = [part for some in ops if some for part in grouped.weights([edges[e].first for e in some])]
        parts = iter(grouped.joined(weights + (grouped.weights(second) if second else [])))
        per_pass, width = 1 if first[0].depthwise is None else 2, first[0].convolution.out_channels
        maps = [
            grouped.of_one_input(
                F.relu(x), first[0], [next(parts) for _ in range(per_pass)], owners(len(some), width).to(x)
            )
            for x, some in zip(states, ops, strict=True)
            if some
        ]
        y = maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)
        for at in (1, 0) if second else (0,):  # the gate in the middle, that of the output
            if at == 0 and second:
                places = blocks(len(second), width, y.device)
                y = grouped.of_own_inputs(F.relu(y), second[0], [next(parts), next(parts)], places, len(second) * width)
            scale = torch.cat([gates[e][at] for some in ops for e in some])
            y = F.batch_norm(y, None, None, scale, None, True, 0.0, first[0].bn.eps)
        return y

    def one_by_one(
        self,
        before: Tensor,
        last: Tensor,
        gates: Tensor,
        running: Sequence[tuple[bool, bool]] | None,
        drop_probability: float,
    ) -> Tensor:
        states = [self.input_0(before), self.input_1(last)]
        skips = wires(states, self.reduce)
        of_edge = [edge.unbind(-2) for edge in gates.unbind(-3)]
        for node in range(2, 2 + NODES):
            parts = []
            for e, (j, pred) in enumerate(DARTS_EDGES):
                runs, skip = (j == node, j == node) if running is None or j != node else running[e]
                op, mid, wire = of_edge[e]
                if runs:
                    parts.append(dropped(self.edges[e](states[pred], op, mid), drop_probability, self.training))
                if skip:
                    parts.append(skips[pred] * wire[..., None, None].to(skips[pred].dtype))
            states.append(summed(parts))
            skips.append(states[-1])
        return torch.cat(states[2:], dim=1)


class GatedNetwork(GatedSupernet):
    """Every channel of every edge at once: forward(images, mix) -> logits [B, classes]."""

    def __init__(self, form: ImageForm, size: Size, op: str, affine: bool, reference: bool = False) -> None:
        super().__init__()
        self.stem = input_stem(form, size)
        width = CellWidths(size)
        self.cells = nn.ModuleList(
            GatedCell(OPERATIONS[op], *width.next(reduce), reduce, affine, reference)
            for reduce in reduction_flags(size.cells)
        )
        self.classifier = nn.Linear(width.last, form.classes)

    def forward(self, images: Tensor, mix: GateMix) -> Tensor:
        before, last = self.stem(images)
        for k, cell in enumerate(self.cells):
            running = None if mix.running is None else mix.running[k]
            before, last = last, cell(before, last, mix.gates[k], running)
        return self.classifier(last.mean((2, 3)))

    def parts(self, gates: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for edges, table in zip(self._edges(), gates, strict=True):
            for edge, (op, mid, _) in zip(edges, table, strict=True):
                yield from edge.parts(op, mid)

    def _edges(self) -> list[list[Any]]:
        """For each cell its 14 edges."""
        return [list(cell.get_submodule("edges").children()) for cell in self.cells]

    def scales(self) -> list[Tensor]:
        tables = []
        for edges in self._edges():
            none = torch.full_like(edges[0].first.bn.weight, torch.inf)
            rows = [[none if bn is None else bn.weight.detach().abs() for bn in (*e.norms, None)] for e in edges]
            tables.append(torch.stack([torch.stack(row) for row in rows]))
        return tables
