"""Compact networks, without dead channels, and the transfer of weights from a gated network.

Shape legend: B batch, C width of the cell, H x W its map, E = 14 edges; U, M, S, K as in channel_masks.
"""

from collections.abc import Sequence

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
from nas.spaces.channel.gated import Edge, GatedNetwork, _dropped, wires

# --- Compact


class CompactReduce(nn.Module):
    """FactorizedReduce with some of its channels: those of the first half from one convolution, the rest shifted."""

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
    """Some channels of one map added to some of another: `take` of what is given to `put` of what there is."""

    def __init__(self, channels: int, source: int | None, target: int) -> None:
        """`channels` as they lie in the sets `source` (None: they are all that is given) and `target`."""
        super().__init__()
        self.take = self._index("taken", channels, source)
        self.put = self._index("placed", channels, target)

    def _index(self, name: str, channels: int, among: int | None) -> str | None:
        """The name of the buffer with the places of the channels; None where they are all, in order."""
        if among is None or channels == among:
            return None
        self.register_buffer(name, positions(channels, among), persistent=False)
        return name

    def forward(self, total: Tensor, x: Tensor) -> Tensor:
        """On rows of channels, since these operations put out NCHW whatever they are given."""
        total, x = total.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
        x = x if self.take is None else x.index_select(-1, self.get_buffer(self.take))
        total = total + x if self.put is None else total.index_add(-1, self.get_buffer(self.put), x)
        return total.permute(0, 3, 1, 2)


def positions(channels: int, among: int) -> Tensor:
    """The positions of the channels of a set in a larger set."""
    places = {c: place for place, c in enumerate(members(among))}
    return torch.tensor([places[c] for c in members(channels)])


class CompactCell(nn.Module):
    """What is left of a cell: inputs, edges and nodes with their live channels alone."""

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

    def forward(self, before: Tensor, last: Tensor, drop_probability: float) -> Tensor:
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
                    y = _dropped(self.edges[e](states[pred]), drop_probability, self.training)
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
