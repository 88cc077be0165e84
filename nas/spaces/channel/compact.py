"""Compact networks, without dead channels, and the transfer of weights from a gated network.

Shape legend: B batch, C width of the cell, H x W its map, E = 14 edges; U, M, S, K as in channel_masks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.architectures.cell_shape import DARTS_EDGES, NODES, reductions
from nas.architectures.channel_masks import Cell, Masks, live, members
from nas.architectures.channel_sizes import OPERATIONS, Operation
from nas.config.params import Size
from nas.contracts import ImageForm
from nas.spaces.blocks.ops import PointwiseConv2d, batch_norm, relu_conv_bn
from nas.spaces.blocks.stems import AuxiliaryHead, CellWidths, input_stem, reduction_flags
from nas.spaces.channel import grouped
from nas.spaces.channel.gated import Edge, GatedNetwork, dropped, wires

# --- Compact


class CompactReduce(nn.Module):
    """FactorizedReduce with fewer channels: `first` of its first convolution, `second` of the shifted one."""

    def __init__(self, c_in: int, first: int, second: int) -> None:
        super().__init__()
        self.conv_1 = PointwiseConv2d(c_in, first, stride=2) if first else None
        self.conv_2 = PointwiseConv2d(c_in, second, stride=2) if second else None
        self.bn = batch_norm(first + second, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        height, width = x.shape[-2:]
        x = F.pad(x, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else x
        halves = [] if self.conv_1 is None else [self.conv_1(x)]
        halves += [] if self.conv_2 is None else [self.conv_2(x[:, :, 1:, 1:])]
        return self.bn(torch.cat(halves, dim=1))


class Placing(nn.Module):
    """Adds selected channels of one feature map to selected channels of another: channels `take` of the input to
    channels `put` of the target."""

    def __init__(self, channels: int, source: int | None, target: int) -> None:
        """`source`, `target`: the sets of channels that the input (None: only `channels`) and the target contain."""
        super().__init__()
        self.take = self._index("taken", channels, source)
        self.put = self._index("placed", channels, target)

    def _index(self, name: str, channels: int, among: int | None) -> str | None:
        """Register a buffer with the positions of the channels. Returns its name; None if all are selected."""
        if among is None or channels == among:
            return None
        self.register_buffer(name, positions(channels, among), persistent=False)
        return name

    def forward(self, total: Tensor, x: Tensor) -> Tensor:
        """Channels go last, as index_select and index_add on NCHW would lose the channels-last layout."""
        total, x = total.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
        x = x if self.take is None else x.index_select(-1, self.get_buffer(self.take))
        total = total + x if self.put is None else total.index_add(-1, self.get_buffer(self.put), x)
        return total.permute(0, 3, 1, 2)


def positions(channels: int, among: int) -> Tensor:
    """The positions of the channels of a set in a larger set."""
    places = {c: place for place, c in enumerate(members(among))}
    return torch.tensor([places[c] for c in members(channels)], dtype=torch.long)


def drop_factors(x: Tensor, operations: int, probability: float) -> Tensor:
    """The factors of drop path per image and operation, [B, operations]; the same draws as by drop_path."""
    keep = 1.0 - probability
    drawn = x.new_empty(operations, len(x))
    for row in drawn.unbind():
        row.bernoulli_(keep)
    return (drawn / keep).t()


class EdgeGroup(nn.Module):
    """The edges that leave one or two states, computed together (nas.spaces.channel.grouped). It has no parameters.

    Sums over edges are products with constant matrices of zeros and ones: `sums` for all operations, `skips_<state>`
    for the skips from a state, each [channels of the terms, live channels of all later nodes].
    """

    def __init__(self, preds: tuple[int, ...], operation: Operation, cell: Cell, alive: Sequence[int]) -> None:
        super().__init__()
        self.preds, self.twice = preds, operation.double
        later = range(preds[-1] + 1, 2 + NODES)
        starts = [sum(alive[j].bit_count() for j in later if j < node) for node in range(2 + NODES)]
        self.columns = sum(alive[node].bit_count() for node in later)
        self.ops: dict[int, list[int]] = {}  # state -> edges whose operation reads it
        sums, middle, outputs = [], [], []
        for pred in preds:
            leaving = {e: node for e, (node, of) in enumerate(DARTS_EDGES) if of == pred}
            ops = [e for e in leaving if cell[e].op]
            if ops:
                self.ops[pred] = ops
                sums += [starts[leaving[e]] + positions(cell[e].op, alive[leaving[e]]) for e in ops]
                outputs += [cell[e].op.bit_count() for e in ops]
                first = [(cell[e].mid if self.twice else cell[e].op).bit_count() for e in ops]
                middle += first
                self.register_buffer(f"owners_{pred}", grouped.owners(first), persistent=False)
            if any(cell[e].skip for e in leaving):
                skips = torch.zeros(alive[pred].bit_count(), self.columns)
                for e, node in leaving.items():
                    taken = cell[e].skip
                    skips[positions(taken, alive[pred]), starts[node] + positions(taken, alive[node])] = 1
                self.register_buffer(f"skips_{pred}", skips, persistent=False)
        if not self.ops:
            return
        self.counts = [middle, outputs] if self.twice else [outputs]  # of passes: output channels of each edge
        self.register_buffer("sums", torch.eye(self.columns)[torch.cat(sums)], persistent=False)
        self.register_buffer("blocks", grouped.blocks(outputs, middle), persistent=False)
        running = [e for e, gates in enumerate(cell) if gates.op]
        spread = torch.zeros(len(running), sum(outputs))
        spread[[running.index(e) for some in self.ops.values() for e in some]] = grouped.owners(outputs).t()
        self.register_buffer("spread", spread, persistent=False)

    def forward(
        self,
        edges: nn.ModuleDict,
        states: Sequence[Tensor | None],
        reduce: bool,
        total: Tensor | None,
        factors: Tensor | None,
    ) -> Tensor | None:
        """`total` [B H W, columns] with the terms of these edges added.

        `factors`: those of drop path [B, operations of the cell], in the order of the edges.
        """
        if self.ops:
            y = self.operations(edges, states)
            if factors is not None:
                y = y * (factors @ self.get_buffer("spread"))[:, :, None, None]
            total = grouped.added(total, y, self.get_buffer("sums"))
        for pred in self.preds:
            skips, x = self._buffers.get(f"skips_{pred}"), states[pred]
            if skips is not None and x is not None:
                total = grouped.added(total, wires([x], reduce and pred < 2)[0], skips)
        return total

    def operations(self, edges: nn.ModuleDict, states: Sequence[Tensor | None]) -> Tensor:
        """The operations' maps next to each other, by state, then by edge."""
        of_state: list[list[Any]] = [[edges[str(e)] for e in some] for some in self.ops.values()]
        first = [edge.first for some in of_state for edge in some]
        second = [edge.second for some in of_state for edge in some] if self.twice else []
        weights = [part for some in of_state for part in grouped.weights([edge.first for edge in some])]
        weights += grouped.affine(first)
        if self.twice:
            weights += grouped.weights(second) + grouped.affine(second)
        parts = iter(grouped.joined(weights))
        statistics = grouped.Statistics([first, second] if self.twice else [first], self.counts)
        maps = []
        for pred in self.ops:
            x, owner = states[pred], self.get_buffer(f"owners_{pred}")
            assert x is not None
            kernels = [next(parts)] if first[0].depthwise is None else [next(parts), next(parts)]
            maps.append(grouped.of_one_input(F.relu(x), first[0], kernels, owner))
        y = maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)
        y = grouped.batch_norm(y, first[0].bn, [next(parts), next(parts)], statistics)
        if self.twice:
            kernels = [next(parts), next(parts)]
            y = grouped.of_own_inputs(F.relu(y), second[0], kernels, self.get_buffer("blocks"), sum(self.counts[1]))
            y = grouped.batch_norm(y, second[0].bn, [next(parts), next(parts)], statistics)
        statistics.store()
        return y


class CompactCell(nn.Module):
    """A cell whose inputs, edges and nodes have only their live channels."""

    def __init__(
        self, operation: Operation, cell: Cell, width: int, inputs: tuple[int, int], halve: bool, reduce: bool
    ) -> None:
        super().__init__()
        self.reduce, self.alive = reduce, live(cell, width)
        counts = [u.bit_count() for u in self.alive]
        low = self.alive[0] & ((1 << width // 2) - 1)
        self.input_0: nn.Module | None = None
        self.input_1: nn.Module | None = None
        if counts[0] and halve:
            self.input_0 = CompactReduce(inputs[0], low.bit_count(), counts[0] - low.bit_count())
        elif counts[0]:
            self.input_0 = relu_conv_bn(inputs[0], counts[0], affine=True)
        if counts[1]:
            self.input_1 = relu_conv_bn(inputs[1], counts[1], affine=True)
        self.edges, self.places, self.skips = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for e, ((node, pred), gates) in enumerate(zip(DARTS_EDGES, cell, strict=True)):
            if gates.op:
                stride = 2 if reduce and pred < 2 else 1
                kept = counts[pred], gates.mid.bit_count(), gates.op.bit_count()
                self.edges[str(e)] = Edge(operation, *kept, stride, affine=True)
                self.places[str(e)] = Placing(gates.op, None, self.alive[node])
            if gates.skip:
                self.skips[str(e)] = Placing(gates.skip, self.alive[pred], self.alive[node])
        self.groups = nn.ModuleList(EdgeGroup(preds, operation, cell, self.alive) for preds in grouped.GROUPS)

    def forward(self, before: Tensor, last: Tensor, drop_probability: float) -> Tensor:
        """Training steps on small maps compute edges in groups, all else one by one; equal up to rounding."""
        small = grouped.is_small(last, max(u.bit_count() for u in self.alive))
        form = self.in_groups if self.training and small else self.one_by_one
        return form(before, last, drop_probability)

    def in_groups(self, before: Tensor, last: Tensor, drop_probability: float) -> Tensor:
        """All edges that leave the inputs, then all that leave nodes 2, 3 and 4; each group adds to all later nodes."""
        states: list[Tensor | None] = [
            None if op is None else op(x) for op, x in ((self.input_0, before), (self.input_1, last))
        ]
        factors = drop_factors(last, len(self.edges), drop_probability) if drop_probability > 0 else None
        batch, _, height, width = next(x for x in states if x is not None).shape
        if self.reduce:
            height, width = (height + 1) // 2, (width + 1) // 2
        total: Tensor | None = None  # of the nodes that are not complete, [B H W, their live channels]
        for node, group in enumerate(self.groups, start=2):
            total = group(self.edges, states, self.reduce, total, factors)
            wide = self.alive[node].bit_count()
            done, total = total.split([wide, total.shape[1] - wide], dim=1)
            states.append(done.unflatten(0, (batch, height, width)).permute(0, 3, 1, 2))
        return torch.cat([x for x in states[2:] if x is not None], dim=1)

    def one_by_one(self, before: Tensor, last: Tensor, drop_probability: float) -> Tensor:
        states: list[Tensor | None] = [
            None if op is None else op(x) for op, x in ((self.input_0, before), (self.input_1, last))
        ]
        skips = [None if x is None else wires([x], self.reduce)[0] for x in states]
        some = next(x for x in skips if x is not None)
        for node in range(2, 2 + NODES):
            batch, _, height, width = some.shape
            total = some.new_zeros(batch, self.alive[node].bit_count(), height, width)
            total = total.contiguous(memory_format=torch.channels_last)
            for e in (str(e) for e, (j, _) in enumerate(DARTS_EDGES) if j == node):
                pred = DARTS_EDGES[int(e)][1]
                if e in self.edges:
                    y = dropped(self.edges[e](states[pred]), drop_probability, self.training)
                    total = self.places[e](total, y)
                if e in self.skips:
                    total = self.skips[e](total, skips[pred])
            states.append(total)
            skips.append(total)
        return torch.cat([x for x in states[2:] if x is not None], dim=1)


class CompactNetwork(nn.Module):
    """The network that is retrained and evaluated: forward(images) -> (logits, auxiliary logits or None).

    The auxiliary head reads the whole concatenation, with zeros for dead channels. It is removed after training.
    """

    def __init__(self, masks: Masks, form: ImageForm, size: Size, auxiliary: bool) -> None:
        """`masks` must have the size of the network."""
        super().__init__()
        self.drop_path = 0.0  # probability, set by the training loop at each epoch
        self.auxiliary_after = reductions(size.cells)[1]
        self.stem = input_stem(form, size)
        before, last, _, halve = CellWidths(size).next(reduce=False)
        cells, self.auxiliary = [], None
        for k, ((gates, width), reduce) in enumerate(zip(masks.each(), reduction_flags(size.cells), strict=True)):
            cells.append(CompactCell(OPERATIONS[masks.op], gates, width, (before, last), halve, reduce))
            before, last, halve = last, sum(u.bit_count() for u in cells[-1].alive[2:]), reduce
            if auxiliary and k == self.auxiliary_after:
                self.auxiliary, self.whole = AuxiliaryHead(NODES * width, form.classes), NODES * width
                self.register_buffer("concatenated", concatenated(cells[-1].alive, width), persistent=False)
        self.cells = nn.ModuleList(cells)
        self.classifier = nn.Linear(last, form.classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        auxiliary = None
        before, last = self.stem(images)
        for k, cell in enumerate(self.cells):
            before, last = last, cell(before, last, self.drop_path)
            if self.auxiliary is not None and self.training and k == self.auxiliary_after:
                batch, _, height, width = last.shape
                whole = last.new_zeros(batch, self.whole, height, width).index_copy(
                    1, self.get_buffer("concatenated"), last
                )
                auxiliary = self.auxiliary(whole)
        return self.classifier(last.mean((2, 3))), auxiliary


def concatenated(alive: Sequence[int], width: int) -> Tensor:
    """Positions of the live channels of nodes 2..5 among all output channels of a cell."""
    return torch.tensor([node * width + c for node, u in enumerate(alive[2:]) for c in members(u)])


def compacted(network: GatedNetwork, masks: Masks, form: ImageForm, size: Size) -> CompactNetwork:
    """The compact network, on the CPU, with the weights of a gated one that has affine batch norms.

    It computes the same function as the gated network with the masks as gates.
    """
    with torch.random.fork_rng(devices=[]):  # its initial weights are not used; drawing them must not change drop path
        compact = CompactNetwork(masks, form, size, auxiliary=False)
    before = last = torch.arange(CellWidths(size).last)  # all output channels of a stem are alive
    given = {name: value.cpu() for name, value in network.state_dict().items()}
    wanted = compact.state_dict()
    for k, (cell, width) in enumerate(masks.each()):
        alive = [torch.tensor(members(u), dtype=torch.long) for u in live(cell, width)]
        rules = {f"cells.{k}.input_{i}.": (alive[i], x) for i, x in ((0, before), (1, last))}
        low = alive[0] < width // 2
        rules[f"cells.{k}.input_0.conv_1."] = alive[0][low], before
        rules[f"cells.{k}.input_0.conv_2."] = alive[0][~low] - width // 2, before
        for e, ((_, pred), gates) in enumerate(zip(DARTS_EDGES, cell, strict=True)):
            op, mid = (torch.tensor(members(s), dtype=torch.long) for s in (gates.op, gates.mid))
            double = OPERATIONS[masks.op].double
            edge = f"cells.{k}.edges.{e}."
            rules[edge + "first."] = mid if double else op, alive[pred]
            rules[edge + "first.depthwise."] = alive[pred], alive[pred]
            rules[edge + "second."], rules[edge + "second.depthwise."] = (op, mid), (mid, mid)
        wanted.update(
            {name: _taken(given[name], *_rule(name, rules)) for name in wanted if name.startswith(f"cells.{k}.")}
        )
        before, last = last, concatenated(live(cell, width), width)
    rest = {name: given[name] for name in wanted if not name.startswith("cells.")}
    rest["classifier.weight"] = rest["classifier.weight"][:, last]
    compact.load_state_dict({**wanted, **rest})
    return compact


def _rule(name: str, rules: dict[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(rows, columns) of the most specific rule for a weight."""
    return rules[max((prefix for prefix in rules if name.startswith(prefix)), key=len)]


def _taken(value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The rows and columns of a kernel, the rows of a depthwise kernel or batch norm; a counter is unchanged."""
    if value.dim() == 0:
        return value
    value = value[rows]
    return value[:, columns] if value.dim() == 4 and value.shape[1] > 1 else value
