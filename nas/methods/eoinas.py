"""EoiNAS: soft Gumbel samples of the operations, an indicator of their importance, and one operation per edge less at
each slimming point until one is left.

Source: Xie, Zhou, Kung, arXiv 1911.10511 and TNNLS 33(11) for the claims; formulas, schedules and defaults are facts of
the authors' code release. Ours: dense tables with a mask, the worth of an operation that was never drawn
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

from nas.config.params import MethodParams
from nas.config.sections import Section
from nas.contracts import ArchitectureLike, EdgeSpace, SoftMix
from nas.data.dataset import Batch
from nas.engine.tasks import Tally, judge
from nas.methods.shared.base import Derived, SearchMethod, Setting, ValidPass, WeightTrainer, entropy, frozen, op_counts
from nas.methods.shared.relaxed import AlphaTrainer, shares, strongest_ops
from nas.methods.shared.repeated import BestOf
from nas.methods.shared.short_trainings import best

NONE = 0  # its column in the tables of every space
RELEASE_EPOCHS, RELEASE_WARMUP = 160, 20
RELEASE_LAMBDA, RELEASE_DRAWS = 0.5, 20 * 391  # draws per edge and stage, which lambda weighs accuracies against
TEMPERATURE, TEMPERATURE_DECAY = 5.0, 0.965  # per epoch after the warm-up, over 139 epochs
SKIP_DROPOUT, SKIP_DROPOUT_RATE = 0.1, 0.2
EMA = 0.9  # ours
Tables = dict[str, Tensor]


class Params(MethodParams):
    space: Literal["darts", "nasbench201"]
    warmup: int = Field(ge=1)  # epochs before the first architecture step
    prune_every: int = Field(ge=1)  # epochs of a slimming stage
    alpha_lr: float = Field(gt=0)  # Adam, betas .5 and .999
    alpha_decay: float = Field(ge=0)
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
    k_epochs: int = Field(ge=1)  # of the short training that compares what they found


class DeriveParams(Section):
    rule: Literal["indicator"]


# --- Schedules (release, train_search.py; lengths other than 160 epochs are scaled so that they end at the same values)


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


# --- Sampling, indicator, slimming


def sample(alpha: Tensor, alive: Tensor, tau: float) -> Tensor:
    """softmax((alpha + g) / tau) over the alive operations, g standard Gumbel; the others get exactly 0.

    Its largest entry is a draw from softmax(alpha) at any tau. The noise is drawn on the CPU, equal on every device.
    """
    gumbel = -torch.empty(alpha.shape).exponential_().log()
    return ((alpha + gumbel.to(alpha.device, non_blocking=True)) / tau).masked_fill(~alive, -math.inf).softmax(-1)


def importance(
    alpha: Tensor, accuracy: Tensor, drawn: Tensor, alive: Tensor, lam: float, drop_unsampled: bool
) -> Tensor:
    """I = softmax(alpha) + lambda A / F; -inf where not alive.

    What was never drawn divides by zero in the release. Ours: never drawn and never judged goes first with
    `drop_unsampled`; otherwise F counts as 1.
    """
    found = shares(alpha, alive) + lam * accuracy / drawn.clamp_min(1)
    if drop_unsampled and lam > 0:
        found = found.masked_fill((drawn == 0) & (accuracy == 0), -math.inf)
    return found.masked_fill(~alive, -math.inf)


def least(table: Tensor, alive: Tensor) -> list[int]:
    """Per edge the alive operation of the lowest value; ties: the lower index."""
    rows = zip(table.tolist(), alive.tolist(), strict=True)
    return [min((value, op) for op, value in enumerate(values) if living[op])[1] for values, living in rows]


def slim(table: Tensor, alive: Tensor, none_stays: bool = False) -> list[int]:
    """The operation that goes on each edge: `none` if it is one of the last two, else the least important.

    `none_stays`: the space has edges without a connection, so `none` goes like any other (ours, for NAS-Bench-201).
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
    """The release's fault, for study: when alpha loses a column, every edge loses the one that edge 0 dropped, so that
    from then on alpha and operations are out of step."""
    rows = [row[living] for row, living in zip(alpha, before, strict=True)]  # compact, as the release holds them
    first = before[0].nonzero().flatten().tolist().index(drop[0])
    after, out = without(before, drop), alpha.clone()
    for row, values, living in zip(out, rows, after, strict=True):
        row[living] = torch.cat([values[:first], values[first + 1 :]])
    return out


class Search(SearchMethod[Params]):
    def setup(self) -> None:
        assert isinstance(self.setting.space, EdgeSpace)
        self.space = self.setting.space
        self.names = self.space.variables()
        self.kinds = list(self.names)
        self.lam = self.chosen_lambda()
        self.shape = len(self.names[self.kinds[0]]), len(self.names[self.kinds[0]][0])
        self.alive = {kind: torch.ones(self.shape, dtype=torch.bool) for kind in self.kinds}
        self.slimming: list[dict[str, Any]] = []
        self.spent = 0  # multiply-adds
        self.begin()
        self.count()

    def chosen_lambda(self) -> float:
        if self.params.indicator == "alpha":
            return 0.0
        if self.params.lam == "auto":  # A / F falls with the number of draws, softmax(alpha) does not
            return RELEASE_LAMBDA * self.params.prune_every * self.setting.steps / RELEASE_DRAWS
        return self.params.lam

    @property
    def epochs(self) -> int:
        """The warm-up and seven stages of which each ends with one operation less: 20 + 7 * 20 in the release."""
        return self.params.warmup + self.params.prune_every * (self.shape[1] - 1)

    @property
    def alive_now(self) -> int:
        """K, the same on every edge."""
        return int(self.alive[self.kinds[0]][0].sum())

    def begin(self) -> None:
        """Fresh weights, alphas, counters and optimisers: at the start, and at every stage without `inherit`."""
        setting, shape = self.setting, self.shape
        self.supernet = setting.place(setting.space.supernet(setting.form, setting.common))
        p = self.params
        shapes = dict.fromkeys(self.kinds, shape)
        self.architect = AlphaTrainer(shapes, p.alpha_lr, p.alpha_decay, setting.device, p.alpha_clip)
        self.alphas = self.architect.alphas
        self.accuracy = {kind: torch.zeros(shape, dtype=torch.float64, device=setting.device) for kind in self.kinds}
        self.judged = {kind: torch.zeros(shape, dtype=torch.int64, device=setting.device) for kind in self.kinds}
        self.begin_stage()
        self.stage_epochs = self.epochs if self.params.inherit else self.stage_length()
        self.trainer = WeightTrainer(self.supernet, setting.common, self.stage_epochs)

    def begin_stage(self) -> None:
        """F and Adam's moments begin anew; everything else is inherited along the chain of stages."""
        device = self.setting.device
        self.drawn = {kind: torch.zeros(self.shape, dtype=torch.int64, device=device) for kind in self.kinds}
        self.architect.renew()

    def stage_length(self) -> int:
        return self.params.prune_every + (self.params.warmup if not self.slimming else 0)

    def count(self) -> None:
        """What one image costs now, with the alive operations alone."""
        self.mask = {kind: alive.to(self.setting.device) for kind, alive in self.alive.items()}
        self.running = {kind: [row.nonzero().flatten().tolist() for row in self.alive[kind]] for kind in self.kinds}
        self.image_macs = self.space.supernet_macs(self.setting.form, self.setting.common, self.running)

    # --- One epoch

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        local = epoch if self.params.inherit or not self.slimming else self.epochs_in_stage(epoch)
        self.trainer.start_epoch(local)
        # without inheritance a stage learns its weights before its alphas, two fifths of it (ours, after P-DARTS)
        fresh = not self.params.inherit and bool(self.slimming) and local < int(0.4 * self.stage_epochs)
        self.judging = epoch >= self.params.warmup and not fresh
        self.tau = temperature(epoch, self.epochs, self.params.warmup)
        self.skip_dropout = skip_dropout(epoch, self.epochs, self.params.warmup)
        self.supernet.train()

    def epochs_in_stage(self, epoch: int) -> int:
        return (epoch - self.params.warmup) % self.params.prune_every

    def draw(self) -> SoftMix:
        """One sample per cell type, shared by all its cells."""
        weights = {kind: sample(self.alphas[kind], self.mask[kind], self.tau) for kind in self.kinds}
        return SoftMix(weights, self.running, self.skip_dropout)

    def step(self, train: Batch, valid: Batch) -> Tally:
        if self.judging and self.params.order == "a_then_w":
            self.alpha_step(valid)
        with torch.no_grad():
            mix = self.draw()
        logits = self.supernet(train.images, mix)
        loss = self.setting.task.loss(logits, train.labels)
        self.trainer.descend(loss)
        self.passes["train_images"] += len(train.labels)
        self.spent += 3 * self.image_macs * len(train.labels)
        if self.judging and self.params.order == "w_then_a":
            self.alpha_step(valid)
        if self.judging:
            for kind in self.kinds:
                self.drawn[kind] += sampled(mix.weights[kind])
        return Tally.of(loss, self.setting.task.correct(logits, train.labels), len(train.labels))

    def alpha_step(self, valid: Batch) -> None:
        """First order, on a sample of its own, whose accuracy on this batch is what its operations are worth."""
        mix, alphas = self.draw(), list(self.alphas.values())
        with frozen(self.trainer.parameters):
            logits = self.supernet(valid.images, mix)
            gradients = torch.autograd.grad(self.setting.task.loss(logits, valid.labels), alphas)
        self.architect.descend(gradients)
        found = 100.0 * self.setting.task.correct(logits, valid.labels).double() / len(valid.labels)
        for kind in self.kinds:
            self.judge_sample(kind, sampled(mix.weights[kind]), found)
        self.passes["valid_images"] += len(valid.labels)
        self.spent += 3 * self.image_macs * len(valid.labels)

    def judge_sample(self, kind: str, chosen: Tensor, found: Tensor) -> None:
        before, count = self.accuracy[kind], self.judged[kind] + 1
        match self.params.acc_stat:
            case "last":
                new = found.expand_as(before)
            case "mean":
                new = before + (found - before) / count
            case "ema":
                new = torch.where(count == 1, found, EMA * before + (1 - EMA) * found)
        self.accuracy[kind] = torch.where(chosen, new, before)
        self.judged[kind] = torch.where(chosen, count, self.judged[kind])

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        self.supernet.eval()
        tables = {kind: shares(self.alphas[kind].cpu(), self.alive[kind]) for kind in self.kinds}
        mix = SoftMix({kind: table.float().to(self.setting.device) for kind, table in tables.items()}, self.running)
        valid_loss, valid_acc = judge(
            lambda images: self.supernet(images, mix), valid_pass(), self.setting.task
        ).means()
        row = {
            "lr": self.trainer.lr,
            "valid_loss": valid_loss,
            "valid_acc": valid_acc,
            "entropy": entropy(tables.values()),
            "temperature": self.tau,
            "skip_dropout": self.skip_dropout,
            "alive": self.alive_now,
            **op_counts(tables, self.names),
        }
        since, gradual = self.epoch + 1 - self.params.warmup, self.params.pruning == "gradual"
        if gradual and since > 0 and since % self.params.prune_every == 0:
            row["disagreements"] = self.slim_once()
        if not gradual and self.epoch + 1 == self.epochs:
            row["disagreements"] = sum(self.slim_once() for _ in range(self.shape[1] - 1))
        return row

    # --- A slimming point

    def slim_once(self) -> int:
        """One operation of every edge goes; on how many edges alpha alone would have chosen another."""
        self.slimming.append({"epoch": self.epoch, "cells": {kind: self.examined(kind) for kind in self.kinds}})
        cells = self.slimming[-1]["cells"]
        for kind in self.kinds:
            drop, before = cells[kind]["dropped"], self.alive[kind]
            self.alive[kind] = without(before, drop)
            if self.params.alpha_compaction == "release" and self.alive_now > 1:
                with torch.no_grad():
                    faulty = compact_as_released(self.alphas[kind].cpu(), before, drop)
                    self.alphas[kind].copy_(faulty)
        self.count()
        print("\n".join(explained(self.slimming[-1], self.names)), flush=True)
        if self.alive_now > 1 and self.params.pruning == "gradual":
            self.begin_stage() if self.params.inherit else self.begin()
        pairs = [
            pair for cell in cells.values() for pair in zip(cell["dropped"], cell["dropped_by_alpha"], strict=True)
        ]
        return sum(ours != by_alpha for ours, by_alpha in pairs)

    def examined(self, kind: str) -> dict[str, Any]:
        """All that the choice rests on: p, A, F and I of every operation, and what goes by I and by alpha alone."""
        alpha, alive = self.alphas[kind].detach().cpu(), self.alive[kind]
        accuracy, drawn = self.accuracy[kind].cpu(), self.drawn[kind].cpu()
        found = importance(alpha, accuracy, drawn, alive, self.lam, self.params.drop_unsampled)
        table = shares(alpha, alive)
        return {
            "share": table.tolist(),
            "accuracy": accuracy.tolist(),
            "drawn": drawn.tolist(),
            "indicator": [[value if math.isfinite(value) else None for value in row] for row in found.tolist()],
            "alive": alive.int().tolist(),
            "dropped": slim(found, alive, self.space.none_stays),
            "dropped_by_alpha": slim(table, alive, self.space.none_stays),
        }

    # --- State

    def incumbent(self) -> dict[str, ArchitectureLike]:
        """By alpha among what is alive (ours): what an edge is worth by the indicator is known at slimming points."""
        tables = {kind: shares(self.alphas[kind].cpu(), self.alive[kind]) for kind in self.kinds}
        first = 0 if self.space.none_stays or self.alive_now == 1 else 1
        return {"main": self.space.assemble({k: strongest_ops(t[:, first:], first) for k, t in tables.items()})}

    def search_state(self) -> dict[str, Any]:
        alphas = {kind: alpha.tolist() for kind, alpha in self.alphas.items()}
        operations = list(self.names[self.kinds[0]][0])  # the same on every edge: what a table's columns are
        return {"alphas": alphas, "lambda": self.lam, "operations": operations, "slimming": self.slimming}

    def macs(self) -> int:
        return self.spent

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "passes": self.passes,
            "spent": self.spent,
            "slimming": self.slimming,
            "alive": self.alive,
            "drawn": self.drawn,
            "accuracy": self.accuracy,
            "judged": self.judged,
            "stage_epochs": self.stage_epochs,
            "supernet": self.supernet.state_dict(),
            "weights": self.trainer.optimiser.state_dict(),
            "architect": self.architect.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.passes, self.spent, self.slimming = dict(state["passes"]), state["spent"], list(state["slimming"])
        self.alive = {kind: table.cpu() for kind, table in state["alive"].items()}
        self.count()
        self.trainer.epochs = self.stage_epochs = state["stage_epochs"]
        self.drawn, self.accuracy, self.judged = dict(state["drawn"]), dict(state["accuracy"]), dict(state["judged"])
        self.start_epoch(state["epoch"])
        self.supernet.load_state_dict(state["supernet"])
        self.trainer.optimiser.load_state_dict(state["weights"])
        self.architect.load_state_dict(state["architect"])


def Method(params: Params, setting: Setting) -> SearchMethod[Params]:
    """A search, or with `best_of_k` several and a contest of what they found (ours; no row of a table by default)."""
    if params.protocol == "single":
        return Search(params, setting)
    space = setting.space
    assert isinstance(space, EdgeSpace)
    return BestOf(
        lambda: Search(params, setting),
        lambda state: architecture(state, space),
        params.k,
        params.k_epochs,
        params,
        setting,
    )


def sampled(weights: Tensor) -> Tensor:
    """bool: the largest weight of each edge."""
    return nn.functional.one_hot(weights.detach().argmax(-1), weights.shape[-1]).bool()


def explained(point: Mapping[str, Any], names: Mapping[str, Any]) -> Iterator[str]:
    """A line per edge that says why an operation went."""
    yield f"slimming at the end of epoch {point['epoch'] + 1}: p (share), A (accuracy, %), F (draws), I (indicator)"
    for kind, cell in point["cells"].items():
        for e, drop in enumerate(cell["dropped"]):
            ops = [op for op, living in enumerate(cell["alive"][e]) if living]
            told = []
            for op in ops:
                value = cell["indicator"][e][op]
                shown = "-inf" if value is None else f"{value:.3f}"
                p, a, f = cell["share"][e][op], cell["accuracy"][e][op], cell["drawn"][e][op]
                told.append(f"{'*' if op == drop else ''}{names[kind][e][op]} {p:.3f} {a:.0f} {f} {shown}")
            yield f"  {kind} edge {e}, * goes: " + " | ".join(told)


def derive(state: dict[str, Any], params: DeriveParams, space: EdgeSpace) -> list[Derived]:
    """The survivors of the last slimming; an edge is as strong as the better indicator of its last two operations, with
    that of none counted as 0; node 2 keeps both edges, the others their two strongest (ties: lower edge)."""
    if "best_of" not in state:
        return [Derived("main", architecture(state, space), {})]
    at = best(state["best_of"])
    chosen = state["best_of"][at]
    return [Derived("main", architecture(chosen["state"], space), {"search": at, "valid_acc": chosen["valid_acc"]})]


def architecture(state: Mapping[str, Any], space: EdgeSpace) -> ArchitectureLike:
    last = state["slimming"][-1]["cells"]
    return space.assemble({kind: survivors(cell) for kind, cell in last.items()})


def survivors(cell: Mapping[str, Any]) -> list[tuple[int, float]]:
    """(operation, score) of each edge."""
    found = []
    for living, values, drop in zip(cell["alive"], cell["indicator"], cell["dropped"], strict=True):
        pair = [op for op, alive in enumerate(living) if alive]
        scores = {op: 0.0 if op == NONE or values[op] is None else values[op] for op in pair}
        (kept,) = [op for op in pair if op != drop]
        found.append((kept, max(scores.values())))
    return found
