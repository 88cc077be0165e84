"""Formulas for the size of a network of channel masks. Tests compare them with the networks of nas/spaces/channel.

Parameters of an edge with u channels in, m in the middle and s out (9 for a 3x3 kernel, 25 for a 5x5):
separable 9u + us + 2s; double 9u + um + 2m, then 9m + ms + 2s; plain 3x3 convolution 9us + 2s.
Multiply-adds: the same products times the pixels of their output, without the batch norms.
`stem`: cifar | imagenet, as in nas/spaces/blocks/stems.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, Protocol

from nas.architectures.cell_shape import DARTS_EDGES, STEM_MULTIPLIER, reductions
from nas.architectures.channel_masks import Cell, Gates, Masks, every, live, uniform


class Form(Protocol):
    """The attributes of nas.contracts.ImageForm."""

    @property
    def channels(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def classes(self) -> int: ...


@dataclass(frozen=True)
class Operation:
    """ReLU, convolution, batch norm; `separable`: depthwise and 1x1; `double`: twice, the second with stride 1."""

    kernel: int
    dilation: int
    separable: bool
    double: bool

    def convolution(self, c_in: int, c_out: int) -> int:
        """Weights of one pass, without its batch norm."""
        square = self.kernel**2
        return square * c_in + c_in * c_out if self.separable else square * c_in * c_out

    def sizes(self, u: int, m: int, s: int) -> tuple[int, int]:
        """(weights of convolutions, of batch norms) of an edge."""
        if not self.double:
            return self.convolution(u, s), 2 * s
        return self.convolution(u, m) + self.convolution(m, s), 2 * m + 2 * s


OPERATIONS = {  # a network has one of these on all of its edges
    "sep_conv_3x3": Operation(3, 1, separable=True, double=True),
    "sep_conv_5x5": Operation(5, 1, separable=True, double=True),
    "dil_conv_3x3": Operation(3, 2, separable=True, double=False),
    "conv_3x3": Operation(3, 1, separable=False, double=False),
}


class Sizes(NamedTuple):
    """By the convention of nas.complexity: parameters with affine batch norms, multiply-adds of one image."""

    params: int
    macs: int


@dataclass(frozen=True)
class _Place:
    """A cell in its network: live channels of its inputs and nodes, pixels of its input and output maps."""

    cell: Cell
    width: int
    inputs: tuple[int, int]
    alive: list[int]
    pixels_in: int
    pixels_out: int


def _stem(channels: int, form: Form, stem: str) -> list[tuple[int, int, int]]:
    """The 3x3 convolutions of the stem: channels in and out, and how often the map has been halved after each."""
    if stem == "cifar":
        return [(form.channels, STEM_MULTIPLIER * channels, 0)]
    return [(form.channels, channels // 2, 1), (channels // 2, channels, 2), (channels, channels, 3)]


def _map(form: Form, halved: int) -> tuple[int, int]:
    """Height and width after this number of halvings, each rounded up."""
    return -(-form.height >> halved), -(-form.width >> halved)


def _places(masks: Masks, form: Form, stem: str) -> Iterator[_Place]:
    _, before, halved = _stem(masks.channels, form, stem)[-1]
    last, (height, width) = before, _map(form, halved)
    for k, (cell, channels) in enumerate(masks.each()):
        pixels_in = height * width
        if k in reductions(len(masks.cells)):
            height, width = -(-height // 2), -(-width // 2)
        alive = [u.bit_count() for u in live(cell, channels)]
        yield _Place(cell, channels, (before, last), alive, pixels_in, height * width)
        before, last = last, sum(alive[2:])


def effective(masks: Masks, form: Form, stem: str = "cifar") -> Sizes:
    """Sizes of the compact network, where dead channels are removed everywhere, also from the layers that read them."""
    operation, params, macs = OPERATIONS[masks.op], 0, 0
    for c_in, c_out, halved in _stem(masks.channels, form, stem):
        params += (9 * c_in + 2) * c_out
        macs += 9 * c_in * c_out * prod(_map(form, halved))
    for place in _places(masks, form, stem):
        for c_in, c_out in zip(place.inputs, place.alive[:2], strict=True):
            params += (c_in + 2) * c_out
            macs += c_in * c_out * place.pixels_in
        for (_, pred), gates in zip(DARTS_EDGES, place.cell, strict=True):
            if gates.op:
                weights, norms = operation.sizes(place.alive[pred], gates.mid.bit_count(), gates.op.bit_count())
                params += weights + norms
                macs += weights * place.pixels_out
    classifier = sum(place.alive[2:]) * form.classes
    return Sizes(params + classifier + form.classes, macs + classifier)


def nominal(masks: Masks, form: Form, stem: str = "cifar") -> Sizes:
    """Sizes of the masked network: operations without open channels are removed, all other kernels are whole."""

    def whole(cell: Cell, width: int) -> Cell:
        return tuple(Gates(every(width) * (g.op > 0), every(width) * (g.op > 0), every(width)) for g in cell)

    return effective(Masks(masks.op, masks.channels, tuple(whole(*each) for each in masks.each())), form, stem)


def first_halves(masks: Masks, form: Form, stem: str = "cifar") -> int:
    """Parameters of a network with all skips in which every double operation consists of its first half only."""
    operation = OPERATIONS[masks.op]
    wires = uniform(masks.op, len(masks.cells), masks.channels, lambda w: Gates(0, 0, every(w)))
    fixed = effective(wires, form, stem)
    return fixed.params + sum(len(DARTS_EDGES) * (operation.convolution(c, c) + 2 * c) for c in masks.widths)


# --- The cost of a single gate

Costs = tuple[list[int], list[int], list[int]]  # for the op, mid and skip channels of an edge


def marginal(masks: Masks, form: Form, stem: str = "cifar") -> list[list[Costs]]:
    """The parameters that closing each gate removes, per cell and edge; at least 1, and 1 for a closed gate.

    A gate costs its part of its edge. If it is the only gate that feeds a channel of its node, it also costs everything
    that reads this channel. Channels that die further downstream are not counted.
    """
    operation, places = OPERATIONS[masks.op], list(_places(masks, form, stem))
    costs = []
    for k, place in enumerate(places):
        readers = places[k + 1].alive[1] if k + 1 < len(places) else form.classes
        readers += places[k + 2].alive[0] if k + 2 < len(places) else 0
        nodes = [readers + sum(_read(operation, place.cell, node)) for node in range(6)]
        costs.append([_costs(operation, place, e, nodes[node]) for e, (node, _) in enumerate(DARTS_EDGES)])
    return costs


def _read(operation: Operation, cell: Cell, node: int) -> Iterator[int]:
    """For each edge that leaves the node, the parameters that read one channel of the node."""
    for (_, pred), gates in zip(DARTS_EDGES, cell, strict=True):
        if pred == node and gates.op:
            yield operation.convolution(1, (gates.mid if operation.double else gates.op).bit_count())


def _costs(operation: Operation, place: _Place, edge: int, of_channel: int) -> Costs:
    node, pred = DARTS_EDGES[edge]
    gates, alone = place.cell[edge], _fed_once(place.cell, node)
    u, m, s = place.alive[pred], gates.mid.bit_count(), gates.op.bit_count()
    whole = sum(operation.sizes(u, m, s))
    of_op = whole - sum(operation.sizes(u, m, s - 1)) if s > 1 else whole  # closing the last one removes the edge
    of_mid = whole - sum(operation.sizes(u, m - 1, s)) if m > 1 else whole

    def each(channels: int, own: int, feeds: bool) -> list[int]:
        extra = [of_channel * (feeds and alone >> c & 1) for c in range(place.width)]
        return [max(1, own + more) if channels >> c & 1 else 1 for c, more in enumerate(extra)]

    return each(gates.op, of_op, True), each(gates.mid, of_mid, False), each(gates.skip, 0, True)


def _fed_once(cell: Cell, node: int) -> int:
    """Channels of a node that only one gate feeds."""
    once = twice = 0
    for (j, _), gates in zip(DARTS_EDGES, cell, strict=True):
        for channels in (gates.op, gates.skip) if j == node else ():
            twice |= once & channels
            once |= channels
    return once & ~twice
