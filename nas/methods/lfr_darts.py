"""LFR-DARTS: a cell for each stage of the network, searched from shallow to deep in a supernet that deepens as it goes.

Source: Hao, Zhu, "Layered feature representation for differentiable architecture search", Soft Computing 26 (2022),
4741-4753. Only its abstract is public: several cells, one per iteration, from shallow to deep; the cell is optimised by
gradient descent, its weak connections are pruned, the supernet is deepened by more of this cell. The rest is DARTS'
(relaxation, bi-level steps, rule of the cell), P-DARTS' (a supernet of 5 cells that grows, 25 epochs of which 10 warm
up, their optimisers), or ours: stages as layers, `groups`, `future`, the growth, weights after it, every option, the
search in NAS-Bench-201's skeleton.
Shapes: alphas [14 edges, 8 operations], there [6, 5], one table per cell type; a type is found, current or future.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Annotated, Any, Literal, Protocol, Self, cast

import torch
from pydantic import BeforeValidator, Field, field_validator, model_validator
from torch import Tensor, nn

from nas.config.params import MethodParams, SearchCommon
from nas.config.sections import Section, as_tuple
from nas.contracts import EdgeSpace, Growth, Pairs, SoftMix
from nas.data.dataset import Batch
from nas.engine.tasks import Tally, judge
from nas.methods.shared.base import Derived, SearchMethod, ValidPass, WeightTrainer, entropy, frozen, op_counts
from nas.methods.shared.relaxed import SKIP, AlphaTrainer, discretised, gradient, second_order, shares, strongest_ops

STAGES = {  # of each space the cell types of its stages, in order of depth, the normal one of a stage first
    "layered": (("normal_1", "reduce_1"), ("normal_2", "reduce_2"), ("normal_3",)),
    "nasbench201_layered": (("cell_1",), ("cell_2",), ("cell_3",)),
}
KEPT = (5, 3)  # operations of an edge after the first and the second third, of eight (P-DARTS)
SKIP_DROPOUT_RATE, PDARTS_EPOCHS = 0.2, 14  # decay per epoch after the warm-up, over its 14 further ones


def cell_types(space: str) -> tuple[str, ...]:
    """In order of depth."""
    return tuple(kind for stage in STAGES[space] for kind in stage)


def normals(space: str) -> tuple[str, ...]:
    return tuple(stage[0] for stage in STAGES[space])


def as_groups(value: Any) -> Any:
    return tuple(as_tuple(group) for group in value) if isinstance(value, list) else value


class Params(MethodParams):
    space: Literal["layered", "nasbench201_layered"]
    epochs_each: int = Field(ge=1)  # epochs of an iteration
    warmup: int = Field(ge=0)  # of them before its first architecture step
    alpha_lr: float = Field(gt=0)  # Adam, betas .5 and .999
    alpha_decay: float = Field(ge=0)
    alpha_clip: float = Field(gt=0)
    joint_reduction: bool  # a stage's normal and reduction cell in one iteration, or in two; where `groups` is null
    groups: Annotated[tuple[tuple[str, ...], ...] | None, BeforeValidator(as_groups)]  # any other order
    n_grow: int = Field(ge=1)  # copies of a normal cell once it is found
    future: Literal["uniform", "trainable", "absent"]
    inherit: bool
    prune: Literal["end", "progressive"]
    order: Literal["first", "unrolled"]
    skip_dropout: float = Field(ge=0, lt=1)
    max_skips: int | None = Field(ge=0)

    def check(self, common: SearchCommon) -> None:
        if common.lr_warmup_epochs >= self.epochs_each:
            raise ValueError(
                f"'epochs_each' is {self.epochs_each}: expected more than the {common.lr_warmup_epochs} of "
                "'search.common.lr_warmup_epochs', or the lr is never reached"
            )

    @model_validator(mode="after")
    def keys_that_go_together(self) -> Self:
        named = [kind for group in self.iterations for kind in group]
        if sorted(named) != sorted(self.types) or not all(self.iterations):
            raise ValueError(f"'groups' must name each of {', '.join(self.types)} once, in groups that are not empty")
        if self.warmup >= self.epochs_each:
            raise ValueError("'warmup' must be less than 'epochs_each', else no architecture step is taken")
        if self.warmup == 0 and not self.inherit:
            raise ValueError("'warmup: 0' needs 'inherit: true': weights begin anew in every iteration")
        if self.future == "absent" and tuple(named) != self.types:
            raise ValueError("'future: absent' needs groups in order of depth: the network ends with the current one")
        if self.order == "unrolled" and self.skip_dropout > 0:
            raise ValueError(
                "'order: unrolled' needs 'skip_dropout: 0': its difference of two passes would be one of masks"
            )
        if self.prune == "progressive" and self.epochs_each - self.warmup < 3:
            raise ValueError("'prune: progressive' needs three epochs after the warm-up, a third for each set")
        return self

    @property
    def types(self) -> tuple[str, ...]:
        return cell_types(self.space)

    @property
    def iterations(self) -> tuple[tuple[str, ...], ...]:
        """The cell types that each iteration finds."""
        if self.groups is not None:
            return self.groups
        return STAGES[self.space] if self.joint_reduction else tuple((kind,) for kind in self.types)


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
            raise ValueError("a control stands twice")
        return controls


# --- The supernet of an iteration


def repeats(params: Params, iteration: int) -> dict[str, int]:
    """Copies of each type: one, and of a normal type `n_grow` once it is found."""
    found = {kind for group in params.iterations[:iteration] for kind in group}
    return {kind: params.n_grow if kind in found.intersection(normals(params.space)) else 1 for kind in params.types}


def row(params: Params, iteration: int) -> tuple[str, ...]:
    """The type of each cell, in order of depth; with `future: absent` up to the last current one."""
    count = repeats(params, iteration)
    types = params.types
    if params.future == "absent" and iteration < len(params.iterations):
        types = types[: 1 + max(types.index(kind) for kind in params.iterations[iteration])]
    return tuple(kind for kind in types for _ in range(count[kind]))


def skip_dropout(epoch: int, params: Params) -> float:
    """Within an iteration: linear in the warm-up, then exponential (P-DARTS), to the same end whatever its length."""
    after, epochs = epoch - params.warmup, params.epochs_each
    if after < 0:
        return params.skip_dropout * (epochs - 1 - epoch) / epochs
    scale = PDARTS_EPOCHS / max(epochs - 1 - params.warmup, 1)
    return params.skip_dropout * math.exp(-SKIP_DROPOUT_RATE * scale * after)


def kept(epoch: int, params: Params) -> int | None:
    """How many operations of eight stay on an edge of a current cell when this epoch of an iteration ends; None: all.

    At thirds of the epochs that train alphas (ours: by thirds of all, those of P-DARTS would be no judge yet).
    """
    third = (params.epochs_each - params.warmup) / 3
    ends = [params.warmup + math.ceil(third * turn) - 1 for turn in (1, 2)]
    return dict(zip(ends, KEPT, strict=True)).get(epoch) if params.prune == "progressive" else None


# --- Pruning


def strengths(alpha: Tensor, alive: Tensor, first: int = 1) -> list[tuple[int, float]]:
    """(operation, share) of the best operation but none of each edge; none takes its share of the softmax.

    `first`: the first operation that an edge may be found with, 0 to let none be one.
    """
    return strongest_ops(shares(alpha, alive)[:, first:], first)


def prune(alpha: Tensor, alive: Tensor, space: EdgeSpace, max_skips: int | None) -> Pairs:
    """The cell that a table stands for: per edge the strongest operation but none, per node the two strongest edges.

    Where none may stay it takes part, and the space keeps every edge. `max_skips`: while more skips stay, the weakest
    counts 0 on its edge and the rule is applied again (P-DARTS).
    """
    first, names = first_op(space), next(iter(space.variables().values()))[0]
    return discretised(shares(alpha, alive)[:, first:], space, names.index(SKIP), max_skips, first)


def first_op(space: EdgeSpace) -> int:
    return 0 if space.none_stays else 1


def margins(strength: Sequence[tuple[int, float]]) -> list[float | None]:
    """Per node by how much the second strongest edge is stronger than the third; None where there is no third."""
    first, found = 0, list[float | None]()
    for node in range(2, 6):
        values = sorted((share for _, share in strength[first : first + node]), reverse=True)
        found.append(values[1] - values[2] if node > 2 else None)
        first += node
    return found


class Inheriting(Protocol):
    """A supernet that can take over the weights of a shallower one."""

    def inherit(self, older: nn.Module) -> None: ...


class Method(SearchMethod[Params]):
    def setup(self) -> None:
        assert isinstance(self.setting.space, EdgeSpace)
        self.space = self.setting.space
        self.names = self.space.variables()
        self.found: dict[str, list[tuple[str, int]]] = {}
        self.records: list[dict[str, Any]] = []
        self.spent = 0  # multiply-adds
        self.begin(0)

    @property
    def epochs(self) -> int:
        return self.params.epochs_each * len(self.params.iterations)

    def begin(self, iteration: int) -> None:
        """The supernet of an iteration, with fresh weights (or the older one's), alphas, optimisers and schedule."""
        setting, params = self.setting, self.params
        self.iteration, self.current = iteration, params.iterations[iteration]
        earlier = [kind for group in params.iterations[:iteration] for kind in group]
        self.growth = Growth(row(params, iteration), {kind: self.found[kind] for kind in earlier})
        self.mixed = [kind for kind in params.types if kind in self.growth.cell_types and kind not in earlier]
        older = getattr(self, "supernet", None)
        self.supernet = setting.place(self.space.supernet(setting.form, setting.common, growth=self.growth))
        if params.inherit and older is not None:
            cast(Inheriting, self.supernet).inherit(older)
        self.trainer = WeightTrainer(self.supernet, setting.common, params.epochs_each)
        trained = self.mixed if params.future == "trainable" else self.current
        shapes = {kind: (len(self.names[kind]), len(self.names[kind][0])) for kind in self.mixed}
        self.architect = AlphaTrainer(
            {kind: shapes[kind] for kind in trained},
            params.alpha_lr,
            params.alpha_decay,
            setting.device,
            params.alpha_clip,
        )
        uniform = {kind: torch.zeros(shapes[kind], device=setting.device) for kind in self.mixed if kind not in trained}
        self.alphas: dict[str, Tensor] = {**self.architect.alphas, **uniform}
        self.alive = {kind: torch.ones(shapes[kind], dtype=torch.bool) for kind in self.mixed}
        self.slope = torch.zeros(2, dtype=torch.float64, device=setting.device)  # norms of alpha gradients, their count
        self.count()

    def count(self) -> None:
        """What runs, and what one image costs now."""
        self.running = {kind: [r.nonzero().flatten().tolist() for r in alive] for kind, alive in self.alive.items()}
        self.mask = {kind: alive.to(self.setting.device) for kind, alive in self.alive.items()}
        setting = self.setting
        self.image_macs = self.space.supernet_macs(setting.form, setting.common, self.running, self.growth)

    # --- One epoch

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        iteration, self.own_epoch = divmod(epoch, self.params.epochs_each)
        if iteration != self.iteration:
            self.begin(iteration)
        self.trainer.start_epoch(self.own_epoch)
        self.skip_dropout = skip_dropout(self.own_epoch, self.params)
        self.supernet.train()

    def mix(self) -> SoftMix:
        weights = {
            kind: alpha.masked_fill(~self.mask[kind], -math.inf).softmax(-1) for kind, alpha in self.alphas.items()
        }
        return SoftMix(weights, self.running, self.skip_dropout)

    def step(self, train: Batch, valid: Batch) -> Tally:
        if self.own_epoch >= self.params.warmup:  # alphas first, as in DARTS
            self.alpha_step(train, valid)
        with torch.no_grad():
            mix = self.mix()
        logits = self.supernet(train.images, mix)
        loss = self.setting.task.loss(logits, train.labels)
        self.trainer.descend(loss)
        self.spend("train_images", len(train.labels))
        return Tally.of(loss, self.setting.task.correct(logits, train.labels), len(train.labels))

    def alpha_step(self, train: Batch, valid: Batch) -> None:
        """Of the current alphas alone (with `future: trainable` of the deeper ones, too)."""
        alphas = list(self.architect.alphas.values())
        if self.params.order == "first":
            with frozen(self.trainer.parameters):
                gradients = gradient(self.loss(valid), alphas)
        else:
            gradients = second_order(lambda: self.loss(train), lambda: self.loss(valid), self.trainer, alphas)
            self.spend("train_images", 3 * len(train.labels))
        self.spend("valid_images", len(valid.labels))
        self.slope[0] += torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt()
        self.slope[1] += 1
        self.architect.descend(gradients)

    def loss(self, batch: Batch) -> Tensor:
        return self.setting.task.loss(self.supernet(batch.images, self.mix()), batch.labels)

    def spend(self, part: str, images: int) -> None:
        self.passes[part] += images
        self.spent += 3 * self.image_macs * images

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        self.supernet.eval()
        with torch.no_grad():
            mix = self.mix()
        tally = judge(lambda images: self.supernet(images, mix), valid_pass(), self.setting.task)
        valid_loss, valid_acc = tally.means()
        tables = {kind: mix.weights[kind] for kind in self.current}
        row = {
            "lr": self.trainer.lr,
            "valid_loss": valid_loss,
            "valid_acc": valid_acc,
            "entropy": entropy(tables.values()),
            "iteration": self.iteration + 1,
            "cells": len(self.growth.cell_types),
            **op_counts(tables, self.names),
        }
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
        """`prune: progressive`: the best operations of a current edge stay (ties: lower index), none as any other."""
        count = kept(self.own_epoch, self.params)
        if count is None:
            return
        for kind in self.current:
            table = shares(self.alphas[kind].cpu(), self.alive[kind])
            most = round(count * table.shape[1] / 8)
            best = (-table).argsort(dim=-1, stable=True)[:, :most]
            self.alive[kind] = torch.zeros_like(self.alive[kind]).scatter(1, best, True)
        self.count()

    def finish(self) -> None:
        """The current cells are pruned; they are found, and will not change any more."""
        record = self.examined()
        for kind in self.current:
            limit = self.params.max_skips if kind in normals(self.params.space) else None
            cell = prune(self.alphas[kind].cpu(), self.alive[kind], self.space, limit)
            self.found[kind] = [(op, pred) for op, pred in cell]
            record["cells"][kind]["found"] = [list(pair) for pair in self.found[kind]]
        self.records.append(record)
        print("\n".join(explained(record, self.found)), flush=True)

    def examined(self) -> dict[str, Any]:
        """What the iteration worked on and what the pruning rests on."""
        states = {kind: "current" if kind in self.current else "future" for kind in self.mixed}
        of_cells, network = {"mixed": 0, "found": 0}, cast(Any, self.supernet)
        for kind, cell in zip(network.cell_types, network.cells, strict=True):
            if kind in self.names:  # no residual block
                of_cells["mixed" if kind in states else "found"] += sum(p.numel() for p in cell.parameters())
        cells = {}
        for kind in self.current:
            strength = strengths(self.alphas[kind].cpu(), self.alive[kind], first_op(self.space))
            cells[kind] = {
                "alpha": self.alphas[kind].tolist(),
                "alive": self.alive[kind].int().tolist(),
                "ops": [op for op, _ in strength],
                "strengths": [share for _, share in strength],
                "margins": [] if self.space.none_stays else margins(strength),  # where every edge stays none competes
            }
        row = [[kind, states.get(kind, "found")] for kind in self.growth.cell_types]
        return {"epoch": self.epoch, "row": row, "params": of_cells, "cells": cells}

    # --- State

    def search_state(self) -> dict[str, Any]:
        found = {kind: [list(pair) for pair in self.found[kind]] for kind in self.params.types}
        return {"found": found, "iterations": self.records, "depth": len(row(self.params, len(self.params.iterations)))}

    def macs(self) -> int:
        return self.spent

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "passes": self.passes,
            "spent": self.spent,
            "found": self.found,
            "records": self.records,
            "alive": self.alive,
            "slope": self.slope,
            "supernet": self.supernet.state_dict(),
            "weights": self.trainer.optimiser.state_dict(),
            "architect": self.architect.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.passes, self.spent = dict(state["passes"]), state["spent"]
        self.found, self.records = dict(state["found"]), list(state["records"])
        self.begin(state["epoch"] // self.params.epochs_each)
        self.alive = {kind: alive.cpu() for kind, alive in state["alive"].items()}
        self.count()
        self.start_epoch(state["epoch"])
        self.slope = state["slope"].clone()
        self.supernet.load_state_dict(state["supernet"])
        self.trainer.optimiser.load_state_dict(state["weights"])
        self.architect.load_state_dict(state["architect"])


def explained(record: Mapping[str, Any], found: Mapping[str, Pairs]) -> Iterator[str]:
    """Lines that say what was found, and how clearly."""
    depth = len(record["row"])
    yield f"iteration over at the end of epoch {record['epoch'] + 1}: {depth} cells, parameters {record['params']}"
    for kind, cell in record["cells"].items():
        pairs = " | ".join(f"{op} {pred}" for op, pred in found[kind])
        margin = ", ".join("-" if lead is None else f"{lead:.4f}" for lead in cell["margins"])
        yield f"  {kind}: {pairs}" + (f"; second over third edge of each node: {margin}" if margin else "")
        skips = sum(op == "skip_connect" for op, _ in found[kind])
        if 2 * skips > len(found[kind]):
            yield f"  warning: {skips} of the {len(found[kind])} operations of {kind} are skip connections"


# --- Derivation


def derive(state: dict[str, Any], params: DeriveParams, space: EdgeSpace) -> list[Derived]:
    """The cells as they were found, and the controls that the claim of layers is measured against (ours).

    `repeat_1` and `repeat_3`: the normal cell of the first or of the last stage everywhere; `_equal`: as wide as comes
    nearest to the parameters of the layered network. `swapped`: the cells from deep to shallow.
    """
    cells: dict[str, Pairs] = {kind: [(op, pred) for op, pred in pairs] for kind, pairs in state["found"].items()}
    found = [Derived("main", space.compose(cells), layers(cells, space))]
    for control in params.controls:
        changed = space.compose(controlled(cells, control, space.name))
        found.append(Derived(control, changed, {}, like="main" if control.endswith("_equal") else None))
    return found


def controlled(cells: Mapping[str, Pairs], control: str, space: str) -> dict[str, Pairs]:
    if control == "swapped":
        types = cell_types(space)  # the same backwards, but for the numbers
        return {kind: cells[other] for kind, other in zip(types, types[::-1], strict=True)}
    first, *_, last = normals(space)
    return {**cells, **dict.fromkeys(normals(space), cells[first if control.startswith("repeat_1") else last])}


def layers(cells: Mapping[str, Pairs], space: EdgeSpace) -> dict[str, Any]:
    """Whether the cells are layered at all: how far the normal ones differ, and what each is made of."""
    kinds = normals(space.name)
    pairs = {f"{a[-1]}-{b[-1]}": difference(cells[a], cells[b], space) for a, b in combinations(kinds, 2)}
    return {"differences": pairs, "cells": {kind: made_of(cells[kind], space) for kind in kinds}}


def difference(one: Pairs, other: Pairs, space: EdgeSpace) -> float:
    """Share of (operation, edge) pairs that the other cell has not."""
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
        "skip_share": sum(op == "skip_connect" for op, _ in cell) / len(cell),
        "depth": max(depth.values()),
    }


def convolutions(op: str) -> int:
    """Non-linear layers one after the other: a separable convolution is two."""
    return {"sep": 2, "dil": 1, "nor": 1}.get(op[:3], 0)
