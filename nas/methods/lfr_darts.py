"""LFR-DARTS: a cell for each stage of the network, searched from shallow to deep in a supernet that deepens as it goes.

Source: Hao, Zhu, "Layered feature representation for differentiable architecture search", Soft Computing 26 (2022),
4741-4753. Only its abstract is public: several cells, one per iteration, from shallow to deep; the cell is optimised by
gradient descent, its weak connections are pruned, the supernet is deepened by more of this cell. The rest is DARTS'
(relaxation, bi-level steps, rule of the cell), P-DARTS' (a supernet of 5 cells that grows, 25 epochs of which 10 warm
up, their optimisers), or ours: stages as layers, `groups`, `future`, the growth, weights after it, every option, the
search in NAS-Bench-201's skeleton.
Shapes: alphas [14 edges, 8 operations] (in that skeleton [6, 5]), one table per cell type. A cell type is discrete,
current (searched in this iteration) or future (searched in a later one).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, cast

import torch
from pydantic import BeforeValidator, Field, field_validator, model_validator
from torch import Tensor, nn

from nas.config.params import SearchCommon
from nas.config.sections import Section, as_tuple
from nas.contracts import EdgeSpace, Growth, HardMix, Pairs, SoftMix
from nas.data.dataset import Batch
from nas.methods.shared.base import Derived, ValidPass
from nas.methods.shared.relaxed import SKIP_CONNECT, discretised, shares, strongest_ops
from nas.methods.shared.relaxed_search import RelaxedParams, RelaxedSearch

Stages = tuple[tuple[str, ...], ...]  # of a space: the cell types of each stage by depth, the normal one first
KEPT = (5, 3)  # operations of an edge after the first and the second third, of eight (P-DARTS)
SKIP_DROPOUT_RATE, PDARTS_EPOCHS = 0.2, 14  # decay per epoch after the warm-up, over its 14 further ones


def cell_types(stages: Stages) -> tuple[str, ...]:
    """All cell types, in order of depth."""
    return tuple(cell_type for stage in stages for cell_type in stage)


def normals(stages: Stages) -> tuple[str, ...]:
    """The normal cell type of each stage, in order of depth."""
    return tuple(stage[0] for stage in stages)


def as_groups(value: Any) -> Any:
    return tuple(as_tuple(group) for group in value) if isinstance(value, list) else value


class Params(RelaxedParams):
    epochs_each: int = Field(ge=1)  # epochs of an iteration
    warmup: int = Field(ge=0)  # of these, the epochs before its first architecture step
    alpha_clip: float = Field(gt=0)
    joint_reduction: bool  # a stage's normal and reduction cell in one iteration, or in two; where `groups` is null
    groups: Annotated[Stages | None, BeforeValidator(as_groups)]  # null, or the cell types of each iteration
    n_grow: int = Field(ge=1)  # copies of a normal cell once it is discrete
    future: Literal["uniform", "trainable", "absent"]
    inherit: bool
    prune: Literal["end", "progressive"]
    order: Literal["first", "unrolled"]
    skip_dropout: float = Field(ge=0, lt=1)
    max_skips: int | None = Field(ge=0)

    needs: ClassVar[str] = "a space whose stages have cell types of their own"

    @classmethod
    def accepts(cls, space: Any) -> bool:
        return isinstance(space, EdgeSpace) and bool(space.stages)

    def check(self, common: SearchCommon) -> None:
        if common.lr_warmup_epochs >= self.epochs_each:
            raise ValueError(
                f"'epochs_each' is {self.epochs_each}: expected more than the {common.lr_warmup_epochs} of "
                "'search.common.lr_warmup_epochs', or the lr is never reached"
            )

    def check_space(self, space: Any) -> None:
        types, iterations = cell_types(space.stages), self.iterations(space.stages)
        named = [cell_type for group in iterations for cell_type in group]
        if sorted(named) != sorted(types) or not all(iterations):
            raise ValueError(f"'groups' must name each of {', '.join(types)} once, in groups that are not empty")
        if self.future == "absent" and tuple(named) != types:
            raise ValueError("'future: absent' needs groups in order of depth: the network ends with the current one")

    @model_validator(mode="after")
    def keys_go_together(self) -> Self:
        if self.warmup >= self.epochs_each:
            raise ValueError("'warmup' must be less than 'epochs_each', or no architecture step is taken")
        if self.warmup == 0 and not self.inherit:
            raise ValueError("'warmup: 0' needs 'inherit: true': every iteration starts with fresh weights")
        if self.order == "unrolled" and self.skip_dropout > 0:
            raise ValueError(
                "'order: unrolled' needs 'skip_dropout: 0': its finite difference would compare dropout masks"
            )
        if self.prune == "progressive" and self.epochs_each - self.warmup < 3:
            raise ValueError("'prune: progressive' needs at least three epochs after the warm-up, one per third")
        return self

    def iterations(self, stages: Stages) -> Stages:
        """The cell types that each iteration searches."""
        if self.groups is not None:
            return self.groups
        return stages if self.joint_reduction else tuple((cell_type,) for cell_type in cell_types(stages))


class DeriveParams(Section):
    rule: Literal["collected"]
    controls: Annotated[
        tuple[Literal["repeat_1", "repeat_1_equal", "repeat_3", "repeat_3_equal", "swapped"], ...],
        BeforeValidator(as_tuple),
    ]

    @field_validator("controls")
    @classmethod
    def each_once(cls, controls: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(controls)) != len(controls):
            raise ValueError("a control is named twice")
        return controls


# --- The supernet of an iteration


def repeats(params: Params, stages: Stages, iteration: int) -> dict[str, int]:
    """Copies of each cell type: one, and `n_grow` of a normal type once it is discrete."""
    earlier = {cell_type for group in params.iterations(stages)[:iteration] for cell_type in group}
    grown = earlier.intersection(normals(stages))
    return {cell_type: params.n_grow if cell_type in grown else 1 for cell_type in cell_types(stages)}


def row(params: Params, stages: Stages, iteration: int) -> tuple[str, ...]:
    """The type of each cell, in order of depth. With `future: absent` the network ends with the last current cell."""
    count = repeats(params, stages, iteration)
    types, iterations = cell_types(stages), params.iterations(stages)
    if params.future == "absent" and iteration < len(iterations):
        types = types[: 1 + max(types.index(cell_type) for cell_type in iterations[iteration])]
    return tuple(cell_type for cell_type in types for _ in range(count[cell_type]))


def skip_dropout(epoch: int, params: Params) -> float:
    """Within an iteration: linear in the warm-up, then exponential (P-DARTS), to the same end at any length."""
    after, epochs = epoch - params.warmup, params.epochs_each
    if after < 0:
        return params.skip_dropout * (epochs - 1 - epoch) / epochs
    scale = PDARTS_EPOCHS / max(epochs - 1 - params.warmup, 1)
    return params.skip_dropout * math.exp(-SKIP_DROPOUT_RATE * scale * after)


def kept(epoch: int, params: Params) -> int | None:
    """Operations of eight that stay on an edge of a current cell when this epoch of an iteration ends; None: all.

    Operations go at thirds of the epochs that train alphas (ours: at thirds of all epochs, as in P-DARTS, alphas would
    be barely trained at the first).
    """
    third = (params.epochs_each - params.warmup) / 3
    ends = [params.warmup + math.ceil(third * turn) - 1 for turn in (1, 2)]
    return dict(zip(ends, KEPT, strict=True)).get(epoch) if params.prune == "progressive" else None


# --- Pruning


def strengths(alpha: Tensor, alive: Tensor, first: int = 1) -> list[tuple[int, float]]:
    """(operation, share) of the best operation of each edge, from `first` on; `none` takes part in the softmax.

    `first`: 1 leaves `none` out, 0 lets an edge end with it.
    """
    return strongest_ops(shares(alpha, alive)[:, first:], first)


def prune(alpha: Tensor, alive: Tensor, space: EdgeSpace, max_skips: int | None) -> Pairs:
    """The cell of a table: per edge the strongest operation except `none`, per node the two strongest edges.

    In a space where `none` stays it takes part, and the space keeps every edge. `max_skips`: see `discretised`.
    """
    first, names = first_op(space), next(iter(space.variables().values()))[0]
    return discretised(shares(alpha, alive)[:, first:], space, names.index(SKIP_CONNECT), max_skips, first)


def first_op(space: EdgeSpace) -> int:
    return 0 if space.none_stays else 1


def margins(strength: Sequence[tuple[int, float]]) -> list[float | None]:
    """Per node, by how much its second strongest edge is stronger than the third; None for a node of two edges."""
    first, leads = 0, list[float | None]()
    for node in range(2, 6):
        values = sorted((share for _, share in strength[first : first + node]), reverse=True)
        leads.append(values[1] - values[2] if node > 2 else None)
        first += node
    return leads


class Inheriting(Protocol):
    """A supernet that can take over the weights of a shallower one."""

    def inherit(self, older: nn.Module) -> None: ...


class Method(RelaxedSearch[Params]):
    growth: Growth

    def setup(self) -> None:
        self.alpha_clip, self.second_order = self.params.alpha_clip, self.params.order == "unrolled"
        self.discrete: dict[str, list[tuple[str, int]]] = {}
        self.records: list[dict[str, Any]] = []
        super().setup()

    @property
    def stages(self) -> Stages:
        return self.space.stages

    @property
    def iterations(self) -> Stages:
        return self.params.iterations(self.stages)

    @property
    def epochs(self) -> int:
        return self.params.epochs_each * len(self.iterations)

    def begin(self, iteration: int = 0) -> None:
        """Start an iteration: a supernet with fresh weights (or the older one's), alphas, optimisers and schedule."""
        params = self.params
        self.iteration, self.current = iteration, self.iterations[iteration]
        earlier = [cell_type for group in self.iterations[:iteration] for cell_type in group]
        discrete = {cell_type: self.discrete[cell_type] for cell_type in earlier}
        self.growth = Growth(row(params, self.stages, iteration), discrete)
        self.mixed = [t for t in self.names if t in self.growth.cell_types and t not in earlier]
        trained = self.mixed if params.future == "trainable" else self.current
        older = getattr(self, "supernet", None)
        self.start_training(params.epochs_each, {cell_type: self.shapes[cell_type] for cell_type in trained})
        if params.inherit and older is not None:
            cast(Inheriting, self.supernet).inherit(older)
        for cell_type in self.mixed:
            if cell_type not in trained:
                self.alphas[cell_type] = torch.zeros(self.shapes[cell_type], device=self.setting.device)  # uniform
        self.keep({cell_type: torch.ones(self.shapes[cell_type], dtype=torch.bool) for cell_type in self.mixed})
        self.slope = torch.zeros(2, dtype=torch.float64, device=self.setting.device)  # sum of gradient norms, count

    # --- One epoch

    def start_epoch(self, epoch: int) -> None:
        iteration, self.own_epoch = divmod(epoch, self.params.epochs_each)
        if iteration != self.iteration:
            self.begin(iteration)
        self.skip_dropout = skip_dropout(self.own_epoch, self.params)
        super().start_epoch(epoch)

    def weight_epoch(self, epoch: int) -> int:
        return self.own_epoch

    @property
    def alphas_learn(self) -> bool:
        return self.own_epoch >= self.params.warmup

    def alpha_gradients(self, train: Batch, valid: Batch) -> list[Tensor]:
        """Of the current cell types only (with `future: trainable`, of the deeper ones too)."""
        gradients = super().alpha_gradients(train, valid)
        self.slope[0] += torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt()
        self.slope[1] += 1
        return gradients

    def judged(self) -> tuple[SoftMix | HardMix, Mapping[str, Tensor]]:
        mix, tables = super().judged()
        return mix, {cell_type: tables[cell_type] for cell_type in self.current}

    def figures(self) -> dict[str, Any]:
        return {"iteration": self.iteration + 1, "cells": len(self.growth.cell_types)}

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        row = super().end_epoch(valid_pass)
        total, steps = self.slope.tolist()
        if steps:
            row["alpha_gradient"] = total / steps
            self.slope.zero_()
        self.thin_out()
        if self.own_epoch + 1 == self.params.epochs_each:
            self.finish()
        return row

    # --- The end of an iteration

    def thin_out(self) -> None:
        """`prune: progressive`: keep the best operations of each current edge (ties: lower index); `none` may stay."""
        count = kept(self.own_epoch, self.params)
        if count is None:
            return
        alive = dict(self.alive)
        for cell_type in self.current:
            table = shares(self.alphas[cell_type].cpu(), alive[cell_type])
            most = round(count * table.shape[1] / 8)
            best = (-table).argsort(dim=-1, stable=True)[:, :most]
            alive[cell_type] = torch.zeros_like(alive[cell_type]).scatter(1, best, True)
        self.keep(alive)

    def finish(self) -> None:
        """Prune the current cells. From here on they are discrete and do not change."""
        record = self.examined()
        for cell_type in self.current:
            limit = self.params.max_skips if cell_type in normals(self.stages) else None
            cell = prune(self.alphas[cell_type].cpu(), self.alive[cell_type], self.space, limit)
            self.discrete[cell_type] = [(op, pred) for op, pred in cell]
            record["cells"][cell_type]["found"] = [list(pair) for pair in self.discrete[cell_type]]
        self.records.append(record)
        print("\n".join(explained(record, self.discrete)), flush=True)

    def examined(self) -> dict[str, Any]:
        """The record of an iteration: the supernet that it trained, and the values that pruning uses."""
        states = {cell_type: "current" if cell_type in self.current else "future" for cell_type in self.mixed}
        of_cells, network = {"mixed": 0, "found": 0}, cast(Any, self.supernet)
        for cell_type, cell in zip(network.cell_types, network.cells, strict=True):
            if cell_type in self.names:  # not a residual block
                of_cells["mixed" if cell_type in states else "found"] += sum(p.numel() for p in cell.parameters())
        cells = {}
        for cell_type in self.current:
            strength = strengths(self.alphas[cell_type].cpu(), self.alive[cell_type], first_op(self.space))
            cells[cell_type] = {
                "alpha": self.alphas[cell_type].tolist(),
                "alive": self.alive[cell_type].int().tolist(),
                "ops": [op for op, _ in strength],
                "strengths": [share for _, share in strength],
                "margins": [] if self.space.none_stays else margins(strength),  # where every edge stays none competes
            }
        row = [[cell_type, states.get(cell_type, "found")] for cell_type in self.growth.cell_types]
        return {"epoch": self.epoch, "row": row, "params": of_cells, "cells": cells}

    # --- State

    def search_state(self) -> dict[str, Any]:
        found = {cell_type: [list(pair) for pair in self.discrete[cell_type]] for cell_type in self.names}
        depth = len(row(self.params, self.stages, len(self.iterations)))
        return {"found": found, "iterations": self.records, "depth": depth}

    def state_dict(self) -> dict[str, Any]:
        state = {"discrete": self.discrete, "records": self.records, "alive": self.alive, "slope": self.slope}
        return {**super().state_dict(), **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.discrete, self.records = dict(state["discrete"]), list(state["records"])
        self.begin(state["epoch"] // self.params.epochs_each)
        self.keep({cell_type: alive.cpu() for cell_type, alive in state["alive"].items()})
        self.slope = state["slope"].clone()
        super().load_state_dict(state)


def explained(record: Mapping[str, Any], discrete: Mapping[str, Pairs]) -> Iterator[str]:
    """Lines for the log: the derived cells, and by how much their edges lead."""
    depth = len(record["row"])
    yield f"end of an iteration after epoch {record['epoch'] + 1}: {depth} cells, parameters {record['params']}"
    for cell_type, cell in record["cells"].items():
        pairs = " | ".join(f"{op} {pred}" for op, pred in discrete[cell_type])
        margin = ", ".join("-" if lead is None else f"{lead:.4f}" for lead in cell["margins"])
        yield f"  {cell_type}: {pairs}" + (f"; second over third edge of each node: {margin}" if margin else "")
        skips = sum(op == SKIP_CONNECT for op, _ in discrete[cell_type])
        if 2 * skips > len(discrete[cell_type]):
            yield f"  warning: {skips} of the {len(discrete[cell_type])} operations of {cell_type} are skip connections"


# --- Derivation


def derive(state: dict[str, Any], params: DeriveParams, space: EdgeSpace) -> list[Derived]:
    """The cells of all iterations, and the controls that the claim of layers is measured against (ours).

    `repeat_1`, `repeat_3`: the normal cell of the first or of the last stage everywhere; `_equal`: at the width whose
    parameters come closest to those of the layered network. `swapped`: the cells from deep to shallow.
    """
    cells: dict[str, Pairs] = {t: [(op, pred) for op, pred in pairs] for t, pairs in state["found"].items()}
    derived = [Derived("main", space.compose(cells), layers(cells, space))]
    for control in params.controls:
        changed = space.compose(controlled(cells, control, space.stages))
        derived.append(Derived(control, changed, {}, like="main" if control.endswith("_equal") else None))
    return derived


def controlled(cells: Mapping[str, Pairs], control: str, stages: Stages) -> dict[str, Pairs]:
    if control == "swapped":
        types = cell_types(stages)  # backwards, normal and reduction cells are in the same places
        return {cell_type: cells[other] for cell_type, other in zip(types, types[::-1], strict=True)}
    first, *_, last = normals(stages)
    return {**cells, **dict.fromkeys(normals(stages), cells[first if control.startswith("repeat_1") else last])}


def layers(cells: Mapping[str, Pairs], space: EdgeSpace) -> dict[str, Any]:
    """Whether the cells are layered at all: how far the normal ones differ, and what each consists of."""
    types = normals(space.stages)
    pairs = {f"{a[-1]}-{b[-1]}": difference(cells[a], cells[b], space) for a, b in combinations(types, 2)}
    return {"differences": pairs, "cells": {cell_type: made_of(cells[cell_type], space) for cell_type in types}}


def difference(one: Pairs, other: Pairs, space: EdgeSpace) -> float:
    """Share of the (operation, edge) pairs of one cell that the other cell lacks."""
    a, b = ({(op, e) for (op, _), e in zip(cell, space.edges_of(cell), strict=True)} for cell in (one, other))
    return 1 - len(a & b) / len(one)


def made_of(cell: Pairs, space: EdgeSpace) -> dict[str, float]:
    """Of a normal cell, whose skips are identities: mean kernel width of its convolutions, share of skips, convolutions
    on the longest path from an input to any node."""
    widths, nodes = [int(op[-1]) for op, _ in cell if "conv" in op], space.nodes_of(cell)
    depth = dict.fromkeys(range(nodes[0]), 0)  # of the nodes that an input reaches
    for node, (op, pred) in zip(nodes, cell, strict=True):
        if op != "none" and pred in depth:
            depth[node] = max(depth.get(node, 0), depth[pred] + convolutions(op))
    return {
        "mean_kernel": sum(widths) / len(widths) if widths else 0.0,
        "skip_share": sum(op == SKIP_CONNECT for op, _ in cell) / len(cell),
        "depth": max(depth.values()),
    }


def convolutions(op: str) -> int:
    """Non-linear layers of an operation in sequence: a separable convolution has two."""
    return {"sep": 2, "dil": 1, "nor": 1}.get(op[:3], 0)
