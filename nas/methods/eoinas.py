"""EoiNAS: soft Gumbel samples of the operations, an indicator of their importance, and slimming points at which every
edge loses one operation, until one is left.

Source: Xie, Zhou, Kung, arXiv 1911.10511 and TNNLS 33(11) for the claims; formulas, schedules and defaults are facts of
the authors' code release. Ours: dense tables with a mask, the value of an operation that was never sampled
(`drop_unsampled`), the rescaling of lambda and of the temperature to other lengths (`auto`), `inherit: false`, ties.
Shapes: all tables are [14 edges, 8 operations], one per cell type: alpha; `alive` bool; `drawn` int64 (F, the
iterations in which the operation was the sample of the weight step); `accuracy` (A, percent).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nas.config.sections import Section
from nas.contracts import ArchitectureLike, EdgeSpace, SoftMix
from nas.data.dataset import Batch
from nas.engine.tasks import Tally
from nas.methods.shared.base import Derived, SearchMethod, Setting, ValidPass, frozen
from nas.methods.shared.relaxed import gradient, gumbel_softmax, shares, strongest_ops
from nas.methods.shared.relaxed_search import RelaxedParams, RelaxedSearch
from nas.methods.shared.repeated import BestOf
from nas.methods.shared.short_trainings import best

NONE = 0  # its column in the tables of every space
RELEASE_EPOCHS, RELEASE_WARMUP = 160, 20
RELEASE_LAMBDA, RELEASE_DRAWS = 0.5, 20 * 391  # its lambda, which is tuned to this many draws per edge and stage
TEMPERATURE, TEMPERATURE_DECAY = 5.0, 0.965  # per epoch after the warm-up, over 139 epochs
SKIP_DROPOUT, SKIP_DROPOUT_RATE = 0.1, 0.2
EMA = 0.9  # ours
Tables = dict[str, Tensor]


class Params(RelaxedParams):
    warmup: int = Field(ge=1)  # epochs before the first architecture step
    prune_every: int = Field(ge=1)  # epochs of a slimming stage
    alpha_clip: float = Field(gt=0)
    indicator: Literal["eoi", "alpha"]
    lam: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(alias="lambda")
    acc_stat: Literal["last", "mean", "ema"]
    drop_unsampled: bool
    pruning: Literal["gradual", "one_shot"]
    inherit: bool
    order: Literal["w_then_a", "a_then_w"]
    alpha_compaction: Literal["aligned", "release"]
    protocol: Literal["single", "best_of_k"]
    k: int = Field(ge=1)  # searches of best_of_k
    k_epochs: int = Field(ge=1)  # of the short training that compares their architectures


class DeriveParams(Section):
    rule: Literal["indicator"]


# --- Schedules (release, train_search.py; other lengths than 160 epochs are scaled to end at the same values)


def temperature(epoch: int, epochs: int, warmup: int) -> float:
    """tau(e): 5 until the end of the warm-up, then falling by a factor per epoch to 5 * .965^139."""
    return TEMPERATURE * TEMPERATURE_DECAY ** _elapsed(epoch, epochs, warmup)


def skip_dropout(epoch: int, epochs: int, warmup: int) -> float:
    """Probability of the dropout behind stride-1 skips: linear in the warm-up, then exponential."""
    if epoch < warmup:
        return SKIP_DROPOUT * (epochs - 1 - epoch) / epochs
    return SKIP_DROPOUT * math.exp(-SKIP_DROPOUT_RATE * _elapsed(epoch, epochs, warmup))


def _elapsed(epoch: int, epochs: int, warmup: int) -> float:
    """Epochs since the warm-up, in epochs of the release: 0 to 139."""
    scale = (RELEASE_EPOCHS - 1 - RELEASE_WARMUP) / max(epochs - 1 - warmup, 1)
    return max(epoch - warmup, 0) * scale


# --- Indicator and slimming


def importance(
    alpha: Tensor, accuracy: Tensor, drawn: Tensor, alive: Tensor, lam: float, drop_unsampled: bool
) -> Tensor:
    """I = softmax(alpha) + lambda A / F; -inf where not alive.

    The release divides by zero for an operation that was never sampled. Ours: with `drop_unsampled` an operation that
    was neither sampled nor judged goes first; otherwise F counts as 1.
    """
    indicator = shares(alpha, alive) + lam * accuracy / drawn.clamp_min(1)
    if drop_unsampled and lam > 0:
        indicator = indicator.masked_fill((drawn == 0) & (accuracy == 0), -math.inf)
    return indicator.masked_fill(~alive, -math.inf)


def least(table: Tensor, alive: Tensor) -> list[int]:
    """Per edge the alive operation of lowest value; ties: the lower index."""
    rows = zip(table.tolist(), alive.tolist(), strict=True)
    return [min((value, op) for op, value in enumerate(values) if living[op])[1] for values, living in rows]


def slim(table: Tensor, alive: Tensor, none_stays: bool = False) -> list[int]:
    """The operation to remove on each edge: `none` if it is one of the last two, else the least important.

    `none_stays`: an edge of the space may be without a connection, so `none` is treated like any other operation (ours,
    for NAS-Bench-201).
    """
    drop = least(table, alive)
    if none_stays:
        return drop
    return [NONE if row.sum() == 2 and row[NONE] else op for row, op in zip(alive, drop, strict=True)]


def without(alive: Tensor, drop: list[int]) -> Tensor:
    kept = alive.clone()
    kept[torch.arange(len(drop)), torch.tensor(drop)] = False
    return kept


def compact_as_released(alpha: Tensor, before: Tensor, drop: list[int]) -> Tensor:
    """A bug of the release, kept for study: when alpha loses a column, every edge loses the one that edge 0 dropped, so
    from then on alphas and operations no longer correspond."""
    rows = [row[living] for row, living in zip(alpha, before, strict=True)]  # compact, as the release holds them
    first = before[0].nonzero().flatten().tolist().index(drop[0])
    after, out = without(before, drop), alpha.clone()
    for row, values, living in zip(out, rows, after, strict=True):
        row[living] = torch.cat([values[:first], values[first + 1 :]])
    return out


class Method(RelaxedSearch[Params]):
    @classmethod
    def build(cls, params: Params, setting: Setting) -> SearchMethod[Any]:
        """One search; with `best_of_k` several, and a contest of their architectures (ours; in no default table)."""
        if params.protocol == "single":
            return cls(params, setting)
        space = setting.space
        assert isinstance(space, EdgeSpace)
        return BestOf(
            lambda: cls(params, setting),
            lambda state: architecture(state, space),
            params.k,
            params.k_epochs,
            params,
            setting,
        )

    def setup(self) -> None:
        self.lam = self.chosen_lambda()
        self.alpha_clip, self.alphas_first = self.params.alpha_clip, self.params.order == "a_then_w"
        self.slimming: list[dict[str, Any]] = []
        super().setup()
        self.keep({cell_type: torch.ones(shape, dtype=torch.bool) for cell_type, shape in self.shapes.items()})

    def chosen_lambda(self) -> float:
        if self.params.indicator == "alpha":
            return 0.0
        if self.params.lam == "auto":  # A / F falls with the number of draws, softmax(alpha) does not
            return RELEASE_LAMBDA * self.params.prune_every * self.setting.steps / RELEASE_DRAWS
        return self.params.lam

    @property
    def epochs(self) -> int:
        """The warm-up, then a stage for each operation that goes: 20 + 7 * 20 in the release."""
        return self.params.warmup + self.params.prune_every * (self.operations - 1)

    @property
    def operations(self) -> int:
        """Operations of an edge before slimming, the same number on every edge."""
        return next(iter(self.shapes.values()))[1]

    @property
    def alive_now(self) -> int:
        """K, operations of an edge that are left, the same number on every edge."""
        return int(next(iter(self.alive.values()))[0].sum())

    def begin(self) -> None:
        """Fresh weights, alphas, counters and optimisers: at the start and, without `inherit`, at every stage."""
        self.stage_epochs = self.epochs if self.params.inherit else self.stage_length()
        self.start_training(self.stage_epochs, self.shapes)
        self.accuracy, self.judged_draws = self.zeros(torch.float64), self.zeros(torch.int64)
        self.begin_stage()

    def zeros(self, dtype: torch.dtype) -> Tables:
        device = self.setting.device
        return {cell_type: torch.zeros(shape, dtype=dtype, device=device) for cell_type, shape in self.shapes.items()}

    def begin_stage(self) -> None:
        """Reset F and Adam's moments; everything else is inherited from stage to stage."""
        self.drawn = self.zeros(torch.int64)
        self.architect.renew()

    def stage_length(self) -> int:
        return self.params.prune_every + (self.params.warmup if not self.slimming else 0)

    # --- One epoch

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.tau = temperature(epoch, self.epochs, self.params.warmup)
        self.skip_dropout = skip_dropout(epoch, self.epochs, self.params.warmup)

    def weight_epoch(self, epoch: int) -> int:
        if self.params.inherit or not self.slimming:
            return epoch
        return (epoch - self.params.warmup) % self.params.prune_every

    @property
    def alphas_learn(self) -> bool:
        """After the warm-up. Without `inherit`, also not in the first two fifths of a stage, in which its fresh weights
        learn (ours, after P-DARTS)."""
        fresh = not self.params.inherit and bool(self.slimming)
        if fresh and self.weight_epoch(self.epoch) < int(0.4 * self.stage_epochs):
            return False
        return self.epoch >= self.params.warmup

    def mix(self) -> SoftMix:
        """One sample per cell type, shared by all its cells."""
        weights = {
            cell_type: gumbel_softmax(alpha, self.mask[cell_type], self.tau) for cell_type, alpha in self.alphas.items()
        }
        return SoftMix(weights, self.running, self.skip_dropout)

    def weight_step(self, batch: Batch, mix: SoftMix) -> Tally:
        tally = super().weight_step(batch, mix)
        if self.alphas_learn:
            for cell_type, weights in mix.weights.items():
                self.drawn[cell_type] += sampled(weights)
        return tally

    def alpha_gradients(self, train: Batch, valid: Batch) -> list[Tensor]:
        """First order, on a sample of its own; its accuracy on this batch is credited to its operations."""
        mix = self.mix()
        with frozen(self.trainer.parameters):
            logits = self.supernet(valid.images, mix)
            gradients = gradient(self.setting.task.loss(logits, valid.labels), list(self.alphas.values()))
        accuracy = 100.0 * self.setting.task.correct(logits, valid.labels).double() / len(valid.labels)
        for cell_type, weights in mix.weights.items():
            self.judge_sample(cell_type, sampled(weights), accuracy)
        self.spend("valid_images", len(valid.labels))
        return gradients

    def judge_sample(self, cell_type: str, chosen: Tensor, accuracy: Tensor) -> None:
        """Update A of the operations of a sample by `acc_stat`."""
        before, count = self.accuracy[cell_type], self.judged_draws[cell_type] + 1
        match self.params.acc_stat:
            case "last":
                new = accuracy.expand_as(before)
            case "mean":
                new = before + (accuracy - before) / count
            case "ema":
                new = torch.where(count == 1, accuracy, EMA * before + (1 - EMA) * accuracy)
        self.accuracy[cell_type] = torch.where(chosen, new, before)
        self.judged_draws[cell_type] = torch.where(chosen, count, self.judged_draws[cell_type])

    def alive_shares(self) -> Tables:
        """softmax(alpha) over the alive operations, on the CPU."""
        return {cell_type: shares(alpha.cpu(), self.alive[cell_type]) for cell_type, alpha in self.alphas.items()}

    def judged(self) -> tuple[SoftMix, Tables]:
        tables = self.alive_shares()
        on_device = {cell_type: table.float().to(self.setting.device) for cell_type, table in tables.items()}
        return SoftMix(on_device, self.running), tables

    def figures(self) -> dict[str, Any]:
        return {"temperature": self.tau, "skip_dropout": self.skip_dropout, "alive": self.alive_now}

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        row = super().end_epoch(valid_pass)
        since, gradual = self.epoch + 1 - self.params.warmup, self.params.pruning == "gradual"
        if gradual and since > 0 and since % self.params.prune_every == 0:
            row["disagreements"] = self.slim_once()
        if not gradual and self.epoch + 1 == self.epochs:
            row["disagreements"] = sum(self.slim_once() for _ in range(self.operations - 1))
        return row

    # --- A slimming point

    def slim_once(self) -> int:
        """Remove one operation of every edge. Returns on how many edges alpha alone would have removed another."""
        cells = {cell_type: self.examined(cell_type) for cell_type in self.names}
        self.slimming.append({"epoch": self.epoch, "cells": cells})
        before = dict(self.alive)
        self.keep({cell_type: without(before[cell_type], cell["dropped"]) for cell_type, cell in cells.items()})
        if self.params.alpha_compaction == "release" and self.alive_now > 1:
            for cell_type, cell in cells.items():
                with torch.no_grad():
                    alpha = self.alphas[cell_type]
                    alpha.copy_(compact_as_released(alpha.cpu(), before[cell_type], cell["dropped"]))
        print("\n".join(explained(self.slimming[-1], self.names)), flush=True)
        if self.alive_now > 1 and self.params.pruning == "gradual":
            self.begin_stage() if self.params.inherit else self.begin()
        pairs = [
            pair for cell in cells.values() for pair in zip(cell["dropped"], cell["dropped_by_alpha"], strict=True)
        ]
        return sum(dropped != by_alpha for dropped, by_alpha in pairs)

    def examined(self, cell_type: str) -> dict[str, Any]:
        """The values behind the choice: p, A, F and I of every operation, and what I and alpha alone would remove."""
        alpha, alive = self.alphas[cell_type].detach().cpu(), self.alive[cell_type]
        accuracy, drawn = self.accuracy[cell_type].cpu(), self.drawn[cell_type].cpu()
        indicator = importance(alpha, accuracy, drawn, alive, self.lam, self.params.drop_unsampled)
        table = shares(alpha, alive)
        return {
            "share": table.tolist(),
            "accuracy": accuracy.tolist(),
            "drawn": drawn.tolist(),
            "indicator": [[value if math.isfinite(value) else None for value in row] for row in indicator.tolist()],
            "alive": alive.int().tolist(),
            "dropped": slim(indicator, alive, self.space.none_stays),
            "dropped_by_alpha": slim(table, alive, self.space.none_stays),
        }

    # --- State

    def incumbent(self) -> dict[str, ArchitectureLike]:
        """By alpha among the alive operations (ours): the indicator of an edge is known only at slimming points."""
        first = 0 if self.space.none_stays or self.alive_now == 1 else 1
        edges = {cell_type: strongest_ops(t[:, first:], first) for cell_type, t in self.alive_shares().items()}
        return {"main": self.space.assemble(edges)}

    def search_state(self) -> dict[str, Any]:
        operations = list(next(iter(self.names.values()))[0])  # the columns of every table
        return {**super().search_state(), "lambda": self.lam, "operations": operations, "slimming": self.slimming}

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "slimming": self.slimming,
            "alive": self.alive,
            "drawn": self.drawn,
            "accuracy": self.accuracy,
            "judged_draws": self.judged_draws,
            "stage_epochs": self.stage_epochs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.slimming = list(state["slimming"])
        self.keep({cell_type: table.cpu() for cell_type, table in state["alive"].items()})
        self.trainer.epochs = self.stage_epochs = state["stage_epochs"]
        self.drawn, self.accuracy = dict(state["drawn"]), dict(state["accuracy"])
        self.judged_draws = dict(state["judged_draws"])
        super().load_state_dict(state)


def sampled(weights: Tensor) -> Tensor:
    """bool: the largest weight of each edge."""
    return nn.functional.one_hot(weights.detach().argmax(-1), weights.shape[-1]).bool()


def explained(point: Mapping[str, Any], names: Mapping[str, Any]) -> Iterator[str]:
    """Lines for the log: per edge, what its operations were worth and which one is removed."""
    yield f"slimming at the end of epoch {point['epoch'] + 1}: p (share), A (accuracy, %), F (draws), I (indicator)"
    for cell_type, cell in point["cells"].items():
        for e, drop in enumerate(cell["dropped"]):
            operations = []
            for op in [op for op, alive in enumerate(cell["alive"][e]) if alive]:
                value = cell["indicator"][e][op]
                shown = "-inf" if value is None else f"{value:.3f}"
                p, a, f = cell["share"][e][op], cell["accuracy"][e][op], cell["drawn"][e][op]
                operations.append(f"{'*' if op == drop else ''}{names[cell_type][e][op]} {p:.3f} {a:.0f} {f} {shown}")
            yield f"  {cell_type} edge {e}, * is removed: " + " | ".join(operations)


def derive(state: dict[str, Any], params: DeriveParams, space: EdgeSpace) -> list[Derived]:
    """The survivors of the last slimming point. The strength of an edge is the larger indicator of its last two
    operations, in which `none` counts 0; node 2 keeps both edges, the others their two strongest (ties: lower edge)."""
    if "best_of" not in state:
        return [Derived("main", architecture(state, space), {})]
    at = best(state["best_of"])
    chosen = state["best_of"][at]
    return [Derived("main", architecture(chosen["state"], space), {"search": at, "valid_acc": chosen["valid_acc"]})]


def architecture(state: Mapping[str, Any], space: EdgeSpace) -> ArchitectureLike:
    last = state["slimming"][-1]["cells"]
    return space.assemble({cell_type: survivors(cell) for cell_type, cell in last.items()})


def survivors(cell: Mapping[str, Any]) -> list[tuple[int, float]]:
    """(operation, strength) of each edge."""
    edges = []
    for row, values, drop in zip(cell["alive"], cell["indicator"], cell["dropped"], strict=True):
        pair = [op for op, alive in enumerate(row) if alive]
        scores = {op: 0.0 if op == NONE or values[op] is None else values[op] for op in pair}
        (kept,) = [op for op in pair if op != drop]
        edges.append((kept, max(scores.values())))
    return edges
