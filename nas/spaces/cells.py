"""Cells, the supernet of mixed edges, and the network of found cells (DARTS, section 2.1; cnn/model*.py).

Shape legend: B batch, C width of the cell, H x W its map, E = 14 edges, O = 8 operations.
A cell maps two inputs to [B, 4C, H, W]; a reduction cell to [B, 4C, ceil(H/2), ceil(W/2)].
A network is a row of cells, each of a type that has a name; cells of one type share what is chosen, never weights.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.config import Size
from nas.contracts import Growth, HardMix, ImageForm, Mix, Pairs, SoftMix
from nas.spaces import batched
from nas.spaces.architecture import EDGES, NODES, PRIMITIVES, ArchitectureError
from nas.spaces.batched import Edge, Running, summed, times
from nas.spaces.ops import OPS, FactorizedReduce, drop_path, relu_conv_bn, supernet_op

STEM_MULTIPLIER = 3
SKIP = PRIMITIVES.index("skip_connect")
NONE = PRIMITIVES.index("none")


def reductions(cells: int) -> tuple[int, int]:
    """Positions of the reduction cells: one third and two thirds of the depth."""
    return cells // 3, 2 * cells // 3


def is_reduction(kind: str) -> bool:
    """Whether a cell type halves the map and doubles the channels, by its name."""
    return kind.startswith("reduce")


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
            y = times(y, weight)
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

    def forward(self, before: Tensor, last: Tensor, running: Running, skip_dropout: float) -> Tensor:
        inputs = [self.input_0(before), self.input_1(last)]
        run = self._one_by_one if self.reference else batched.nodes
        return torch.cat(run(self.edges, inputs, running, skip_dropout), dim=1)

    @staticmethod
    def _one_by_one(
        mixed: nn.ModuleList, inputs: Sequence[Tensor], running: Running, skip_dropout: float
    ) -> list[Tensor]:
        states = list(inputs)
        for node in range(2, 2 + NODES):
            incoming = [(e, pred) for e, (j, pred) in enumerate(EDGES) if j == node]
            states.append(summed([mixed[e](states[pred], running.edges[e], skip_dropout) for e, pred in incoming]))
        return states[2:]


class GrowingSupernet(nn.Module):
    """A supernet that is a row of cells of named types, of which some are found."""

    kinds: tuple[str, ...]
    found: Mapping[str, Pairs]

    def inherit(self, older: "GrowingSupernet") -> None:
        """Take the weights of a supernet from before a type was found or repeated, wherever the shapes agree.

        The cells of a type follow each other in order; one that the older network lacks takes those of its first.
        """
        weights = dict(older.named_parameters()) | dict(older.named_buffers())
        with torch.no_grad():
            for name, value in [*self.named_parameters(), *self.named_buffers()]:
                source = weights.get(self._name_in(older, name))
                if source is not None and source.shape == value.shape:
                    value.copy_(source)

    def _name_in(self, older: "GrowingSupernet", name: str) -> str:
        """What a parameter of this network is called in the older one; empty for a cell of a type that it lacks."""
        if not name.startswith("cells."):
            return name
        _, place, *rest = name.split(".")
        kind, index = self.kinds[int(place)], int(place)
        holders = [at for at, held in enumerate(older.kinds) if held == kind]
        turn = self.kinds[:index].count(kind)
        if not holders:
            return ""
        cell = holders[turn] if turn < len(holders) else holders[0]
        return ".".join(["cells", str(cell), *self._within_cell(older, kind, rest)])

    def _within_cell(self, older: "GrowingSupernet", kind: str, name: list[str]) -> list[str]:
        """What a parameter of a cell is called in the older network's cell of its type."""
        return name


class Supernet(GrowingSupernet):
    """Many architectures at once: forward(images, mix) -> logits [B, classes]. A type that is found is no mixture."""

    def __init__(self, form: ImageForm, size: Size, growth: Growth, reference: bool = False) -> None:
        super().__init__()
        self.stem = input_stem(form, size)
        self.kinds, self.found = growth.kinds, growth.found
        cells: list[nn.Module] = []
        width = _Widths(size)
        for kind in self.kinds:
            reduce = is_reduction(kind)
            if kind in growth.found:
                cells.append(FoundCell(growth.found[kind], *width.next(reduce), reduce, searching=True))
            else:
                cells.append(MixedCell(*width.next(reduce), reduce, reference))
        self.cells = nn.ModuleList(cells)
        self.classifier = nn.Linear(width.last, form.classes)

    def forward(self, images: Tensor, mix: Mix) -> Tensor:
        mixed = {kind: running(mix, kind) for kind in dict.fromkeys(self.kinds) if kind not in self.found}
        skip_dropout = mix.skip_dropout if isinstance(mix, SoftMix) else 0.0
        before, last = self.stem(images)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            given = (mixed[kind], skip_dropout) if kind in mixed else (0.0,)
            before, last = last, cell(before, last, *given)
        return self.classifier(last.mean((2, 3)))

    def _within_cell(self, older: GrowingSupernet, kind: str, name: list[str]) -> list[str]:
        if name[0] == "ops" and kind not in older.found:  # an operation of a found cell, once one of a mixed edge
            op, pred = self.found[kind][int(name[1])]
            edge = EDGES.index((2 + int(name[1]) // 2, pred))
            return ["edges", str(edge), "ops", str(PRIMITIVES.index(op)), *name[2:]]
        return name


def running(mix: Mix, kind: str) -> Running:
    """What runs on each edge of a cell type."""
    if isinstance(mix, HardMix):
        return Running([[choice] for choice in mix.choices[kind]], None)
    weights = mix.weights[kind]
    every = range(weights.shape[1])
    return Running(mix.alive[kind] if mix.alive is not None else [every] * len(weights), weights)


class FoundCell(nn.Module):
    """A discrete cell: two edges a node; drop path on every edge but the identities.

    `searching`: as part of a supernet, whose norms have no scales and whose pools are followed by one.
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


class Network(nn.Module):
    """The network that is retrained and judged: forward(images) -> (logits, auxiliary logits or None).

    `cells`: cell type -> its cell; `kinds`: the type of each cell in order of depth.
    """

    def __init__(
        self, cells: Mapping[str, Pairs], kinds: Sequence[str], form: ImageForm, size: Size, auxiliary: bool
    ) -> None:
        super().__init__()
        self.drop_path = 0.0  # probability, set by the training loop at each epoch
        self.auxiliary_after = reductions(len(kinds))[1]
        self.stem = input_stem(form, size)
        found, width, self.auxiliary = [], _Widths(size), None
        for index, kind in enumerate(kinds):
            found.append(FoundCell(cells[kind], *width.next(is_reduction(kind)), is_reduction(kind)))
            if auxiliary and index == self.auxiliary_after:
                self.auxiliary = AuxiliaryHead(width.last, form.classes)
        self.cells = nn.ModuleList(found)
        self.classifier = nn.Linear(width.last, form.classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        auxiliary = None
        before, last = self.stem(images)
        for index, cell in enumerate(self.cells):
            before, last = last, cell(before, last, self.drop_path)
            if self.auxiliary is not None and self.training and index == self.auxiliary_after:
                auxiliary = self.auxiliary(last)
        return self.classifier(last.mean((2, 3))), auxiliary


class AuxiliaryHead(nn.Module):
    """DARTS' auxiliary classifier, in training only. It is made for maps of 8x8 (CIFAR) and 7x7 (ImageNet); any other
    map is pooled to 2x2. quark0/darts leaves out the last batch norm for ImageNet, P-DARTS has it, and so has this."""

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
        # there DARTS takes 5x5 windows, three and two apart, where quarters would be 4x4
        height, width = x.shape[-2:]
        apart = {(8, 8): 3, (7, 7): 2}.get((height, width))
        x = F.avg_pool2d(x, 5, apart) if apart else quarters(x)
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


class CifarStem(nn.Module):
    """One 3x3 convolution to three times the width, which is both inputs of the first cell."""

    def __init__(self, c_in: int, channels: int) -> None:
        super().__init__()
        self.whole = stem(c_in, STEM_MULTIPLIER * channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        whole = self.whole(images)
        return whole, whole


class ImageNetStem(nn.Module):
    """Three 3x3 convolutions of stride 2; the first cell gets the maps of a quarter and of an eighth of the side."""

    def __init__(self, c_in: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.quarter = nn.Sequential(*_halving(c_in, half), nn.ReLU(), *_halving(half, channels))
        self.eighth = nn.Sequential(nn.ReLU(), *_halving(channels, channels))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        quarter = self.quarter(images)
        return quarter, self.eighth(quarter)


def _halving(c_in: int, c_out: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False)
    yield nn.BatchNorm2d(c_out)


def input_stem(form: ImageForm, size: Size) -> nn.Module:
    """forward(images) -> the two inputs of the first cell (DARTS, NetworkCIFAR and NetworkImageNet)."""
    return (CifarStem if size.stem == "cifar" else ImageNetStem)(form.channels, size.channels)


def check_stem(size: Size, space: str) -> None:
    """ArchitectureError for the stem of ImageNet, where a space has no way to count or build it."""
    if size.stem != "cifar":
        raise ArchitectureError(f"stem is '{size.stem}', but {space} has that of 'cifar' alone: set stem: cifar")


class _Widths:
    """Channels of the two inputs of each cell in turn, its width, and whether its older input must be halved."""

    def __init__(self, size: Size) -> None:
        self.channels = size.channels
        self.halve = size.stem == "imagenet"
        self.before = self.last = size.channels if self.halve else STEM_MULTIPLIER * size.channels

    def next(self, reduce: bool) -> tuple[int, int, int, bool]:
        self.channels *= 2 if reduce else 1
        widths = self.before, self.last, self.channels, self.halve
        self.before, self.last, self.halve = self.last, NODES * self.channels, reduce
        return widths


def _layout(cells: int) -> list[bool]:
    """Whether each cell is a reduction."""
    return [index in reductions(cells) for index in range(cells)]
