"""TENAS: one fixed operation on every edge of every cell; channels and channel-level skips go by the Taylor scores of
their gates, all in one ranking, until a budget is met.

This is not VITA-Group's TE-NAS (the training-free search, ICLR 2021): another method by other authors.
Source: Lim, Kim, IEEE Access 10, 2022, of which the abstract alone is public to us: one operation type, Taylor
expansion, channels, channel-level skips, another topology in each cell. Scores: Molchanov et al., CVPR 2019 (gates) and
ICLR 2017 (activations). Ours: all else, see docs/methods/tenas.md.
Shapes: all gates of a network are one vector [G] in the order cell, edge, kind (op, mid, skip), channel; a table of it
is [E, 3, C] per cell. Scores are float64.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from nas.complexity import Count
from nas.config.params import MethodParams
from nas.config.sections import ParamsError, Section
from nas.contracts.gates import GATES, GateMix, GateSpace
from nas.data.dataset import Batch
from nas.engine.tasks import Tally, judge
from nas.methods.shared.base import Derived, SearchMethod, ValidPass, WeightTrainer, frozen
from nas.records import finite

OP, MID, SKIP = range(3)
Tables = list[Tensor]


class Budget(Section):
    kind: Literal["params", "macs", "gates"]
    value: float = Field(gt=0)  # params, macs: of the compact network at search size; gates: the share that stays

    @model_validator(mode="after")
    def a_share_is_below_one(self) -> Self:
        if self.kind == "gates" and self.value >= 1:
            raise ValueError("with kind: gates the value is the share of the gates that stays, below 1")
        return self


def of_channels(space: Any) -> Any:
    if space != "channel":
        raise ValueError("TENAS prunes channels and chooses no operations, so its one space is 'channel'")
    return space


class Params(MethodParams):
    space: Annotated[Literal["channel"], BeforeValidator(of_channels)]
    op: Literal["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "conv_3x3"]
    skip_mode: Literal["gated", "fallback", "none"]
    mid_gates: bool  # of the double operations; the others have no middle
    masks: Literal["cell", "stage"]  # stage: the normal cells of a stage have the same gates
    score: Literal["gate2019", "abs2017", "bn_gamma", "random"]
    score_split: Literal["train", "valid"]
    score_ema: float = Field(ge=0, lt=1)
    cost_weight: bool
    schedule: Literal["linear_params", "constant_gates"]
    budget: Budget
    warmup: int = Field(ge=0)  # W, epochs before the first pruning
    prune_epochs: int = Field(ge=1)  # E - S - W
    settle: int = Field(ge=0)  # S, epochs after the last
    prune_every: int = Field(ge=1)  # F, iterations

    @model_validator(mode="after")
    def schedule_and_budget_go_together(self) -> Self:
        if (self.schedule == "constant_gates") != (self.budget.kind == "gates"):
            raise ValueError("schedule: constant_gates goes with budget.kind: gates, and no other schedule does")
        return self


class DeriveParams(Section):
    rule: Literal["open"]
    resize: Literal["refuse", "repeat", "topk"]
    form: Literal["compact", "masked"]  # of the network in retraining; what is measured is compact


# --- Schedule


def target_size(event: int, events: int, whole: int, budget: float) -> float:
    """B_k = P_0 - (P_0 - B) k / T_ev, for k = 1 .. T_ev."""
    return whole - (whole - budget) * event / events


def shortest(count: int, enough: Callable[[int], bool]) -> int | None:
    """The smallest n from 0 to `count` that is enough, which every larger one is too; None when there is none."""
    low, high = -1, 0  # low is not enough
    while not enough(high):
        if high == count:
            return None
        low, high = high, min(2 * high + 1, count)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


# --- Scores


def loss_change(gates: Tensor, gradient: Tensor) -> Tensor:
    """What closing each gate adds to the loss, to first order: -g dL/dg. With a gate per image: to the sum."""
    return -(gates * gradient).double()


def images_scores(change: Tensor) -> Tensor:
    """The 2017 form [G] from the changes [B, G] of the mean loss: the mean over images of each one's absolute change.

    The paper's also divides by the pixels of the map, which the norm over a layer takes out again.
    """
    return (len(change) * change).abs().mean(0)


def layer_normed(table: Tensor) -> Tensor:
    """Scores [E, 3, C] over their l2 norm within each edge and kind; zeros stay."""
    return table / table.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(table.dtype).tiny)


def protected(scores: Tensor, gates: Tensor, feeding: Sequence[Sequence[int]]) -> Tensor:
    """Of a cell, bool [E, 3, C]: per node the best open op or skip gate from an input, which always lives; with an op
    gate the best mid gate of its edge. So no node becomes a constant. Ties: lower edge, op, lower channel."""
    kept, width = torch.zeros_like(gates), gates.shape[-1]
    open_scores = scores.masked_fill(~gates, -torch.inf)
    for edges in feeding:
        place = first_best(open_scores[list(edges)][:, [OP, SKIP]])
        e, kind, channel = edges[place // (2 * width)], (OP, SKIP)[place // width % 2], place % width
        kept[e, kind, channel] = True
        if kind == OP:
            kept[e, MID, first_best(open_scores[e, MID])] = True
    return kept


def first_best(values: Tensor) -> int:
    """Place of the largest value; argmax of ties is not promised to be the first."""
    flat = values.flatten()
    return int((flat == flat.max()).int().argmax())


class Method(SearchMethod[Params]):
    def setup(self) -> None:
        setting, params = self.setting, self.params
        assert isinstance(setting.space, GateSpace)
        self.space = setting.space.of(params.op)
        self.open = self.space.every_gate(setting.common)  # tables of bool, on the CPU
        self.lengths = [table.numel() for table in self.open]
        if params.skip_mode != "gated":
            for table in self.open:
                table[:, SKIP] = False  # none: no skip; fallback: a skip is where the operation is not
        self.ranked = torch.cat([self.rankable(table).flatten() for table in self.open])
        self.leaders = self.leading_cells()
        used = [torch.full_like(table, self.leaders.count(k), dtype=torch.int) for k, table in enumerate(self.open)]
        self.uses = torch.cat([table.flatten() for table in used])  # cells that a gate stands for, 0 if another does
        self.whole, _ = self.sizes(self.open)
        self.check()
        affine = params.score == "bn_gamma"
        self.supernet = self.space.supernet(setting.form, setting.common, affine=affine)
        setting.place(self.supernet)
        self.trainer = WeightTrainer(self.supernet, setting.common, self.epochs)
        self.total = torch.zeros(sum(self.lengths), dtype=torch.float64, device=setting.device)  # of scores
        self.iterations = 0  # that it sums over
        self.scores = torch.zeros(sum(self.lengths), dtype=torch.float64)  # of the last event
        self.events: list[dict[str, Any]] = []
        self.spent = 0  # multiply-adds
        self.apply()

    @property
    def epochs(self) -> int:
        """E: the warm-up, the epochs that prune, and those in which the weights settle."""
        return self.params.warmup + self.params.prune_epochs + self.params.settle

    @property
    def events_planned(self) -> int:
        """T_ev = floor((E - S - W) iterations / F)."""
        return self.params.prune_epochs * self.setting.steps // self.params.prune_every

    def rankable(self, table: Tensor) -> Tensor:
        """The gates that compete: op gates, and the mid and skip gates where there are such."""
        found = torch.zeros_like(table)
        found[:, OP] = True
        found[:, MID] = self.params.mid_gates and "mid" in self.space.gate_kinds
        found[:, SKIP] = self.params.skip_mode == "gated"
        return found

    def leading_cells(self) -> list[int]:
        """The cell whose gates each cell has: itself, or with `masks: stage` the first normal cell of its stage."""
        found = list(range(len(self.open)))
        for stage in self.space.cells_of_stages(self.setting.common) if self.params.masks == "stage" else ():
            for cell in stage:
                found[cell] = stage[0]
        return found

    def check(self) -> None:
        """ParamsError where no pruning can happen, nothing can be shared, or the budget cannot be reached."""
        params, common = self.params, self.setting.common
        if params.masks == "stage" and self.leaders == list(range(len(self.open))):
            raise ParamsError(
                f"search.tenas.masks is stage, but no stage of {common.cells} cells has two normal ones: nothing would "
                "be shared; set masks: cell, or search.common.cells to 6 or more"
            )
        if self.events_planned == 0:
            raise ParamsError(
                f"search.tenas.prune_every is {params.prune_every}, but prune_epochs: {params.prune_epochs} has only "
                f"{params.prune_epochs * self.setting.steps} iterations: nothing would be pruned; lower the one or "
                "raise the other"
            )
        if params.budget.kind != "gates":
            least = self.space.smallest(self.setting.form, common, params.skip_mode, params.mid_gates)
            bound = getattr(least, params.budget.kind)
            if params.budget.value < bound:
                raise ParamsError(
                    f"search.tenas.budget.value is {params.budget.value:g} {params.budget.kind}, but with skip_mode: "
                    f"{params.skip_mode} and mid_gates: {str(params.mid_gates).lower()} no network of {common.cells} "
                    f"cells and {common.channels} channels is below {bound}; raise it, or make the supernet smaller"
                )
            whole = getattr(self.whole, params.budget.kind)
            if params.budget.value >= whole:
                print(
                    f"warning: search.tenas.budget.value is {params.budget.value:g} {params.budget.kind} and the whole "
                    f"network has {whole}: nothing will be pruned",
                    flush=True,
                )

    # --- Gates

    def tables(self, flat: Tensor) -> Tables:
        """A vector [.., G] as tables [.., E, 3, C]."""
        shapes = zip(flat.split(self.lengths, dim=-1), self.open, strict=True)
        return [part.unflatten(-1, table.shape) for part, table in shapes]

    def sizes(self, gates: Tables) -> tuple[Count, Count]:
        """Of the compact and of the masked network."""
        return self.space.sizes(self.with_skips(gates), self.setting.form, self.setting.common)

    def of_leaders(self, tables: Tables) -> Tables:
        """Each cell with the table of the cell whose gates it has."""
        return [tables[leader] for leader in self.leaders]

    def shared(self, tables: Tables) -> Tensor:
        """The means [G] over the cells that have the same gates."""
        groups = [[t for t, of in zip(tables, self.leaders, strict=True) if of == k] for k in range(len(tables))]
        means = [torch.stack(group).mean(0) if group else tables[k] for k, group in enumerate(groups)]
        return torch.cat([table.flatten() for table in self.of_leaders(means)])

    def apply(self) -> None:
        """What follows from the open gates: the vector on the device, what runs, what an image costs."""
        self.gates = torch.cat([table.flatten() for table in self.open]).float().to(self.setting.device)
        self.running = [
            [(bool(edge[OP]), bool(edge[SKIP])) for edge in table.any(-1)] for table in self.with_skips(self.open)
        ]
        self.compact, masked = self.sizes(self.open)
        self.image_macs = masked.macs

    def with_skips(self, gates: Tables) -> Tables:
        """With `fallback` the skip gates are 1 - op gates; they are no gates of their own."""
        if self.params.skip_mode != "fallback":
            return gates
        ops = [table[..., OP, :] for table in gates]
        skips = [~op if op.dtype == torch.bool else 1 - op for op in ops]
        return [torch.stack([op, t[..., MID, :], skip], -2) for op, t, skip in zip(ops, gates, skips, strict=True)]

    def mix(self, gates: Tensor) -> GateMix:
        return GateMix(self.with_skips(self.tables(gates)), self.running)

    def closed(self, gates: Tables) -> Tables:
        """Closed by the rules of the space; with `fallback` no channel ever dies, so only its edges can."""
        if self.params.skip_mode != "fallback":
            return self.space.closed(gates)
        found = self.space.closed([torch.stack([t[:, OP], t[:, MID], torch.ones_like(t[:, SKIP])], 1) for t in gates])
        for table in found:
            table[:, SKIP] = False
        return found

    # --- One epoch

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.trainer.start_epoch(epoch)
        self.pruning = 0 <= epoch - self.params.warmup < self.params.prune_epochs
        self.supernet.train()

    def step(self, train: Batch, valid: Batch) -> Tally:
        scoring = self.pruning and self.params.score in ("gate2019", "abs2017")
        on_train = scoring and self.params.score_split == "train"
        if scoring and not on_train:
            self.score(valid)
        gates = self.leaf(train) if on_train else self.gates
        logits = self.supernet(train.images, self.mix(gates))
        loss = self.setting.task.loss(logits, train.labels)
        self.trainer.descend(loss)  # the gradients of the gates come with it; they are neither clipped nor stepped
        if on_train:
            self.accumulate(gates)
        self.passes["train_images"] += len(train.labels)
        self.spent += 3 * self.image_macs * len(train.labels)
        if self.pruning:
            self.iterations += 1
            if self.iterations == self.params.prune_every:
                self.prune(train)
        return Tally.of(loss, self.setting.task.correct(logits, train.labels), len(train.labels))

    def leaf(self, batch: Batch) -> Tensor:
        """The gates as variables; one of its own for each image where scores are absolute values per image."""
        each = self.params.score == "abs2017"
        gates = self.gates.expand(len(batch.labels), -1) if each else self.gates
        return gates.clone().requires_grad_()

    def score(self, batch: Batch) -> None:
        """A forward and backward pass for the scores alone."""
        gates = self.leaf(batch)
        with frozen(self.trainer.parameters):
            loss = self.setting.task.loss(self.supernet(batch.images, self.mix(gates)), batch.labels)
            loss.backward()
        self.accumulate(gates)
        self.passes["valid_images"] += len(batch.labels)
        self.spent += 3 * self.image_macs * len(batch.labels)

    def accumulate(self, gates: Tensor) -> None:
        """Squares, or absolute values per image; the change of a swap from operation to skip keeps its sign."""
        assert gates.grad is not None
        change = loss_change(gates.detach(), gates.grad)
        if self.params.score == "abs2017":
            self.total += images_scores(change)
        elif self.params.skip_mode == "fallback":
            for total, found in zip(self.tables(self.total), self.tables(change), strict=True):
                total[:, OP] += found[:, OP]
                total[:, MID] += found[:, MID].square()
        else:
            self.total += change.square()

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        self.supernet.eval()
        mix = self.mix(self.gates)
        tally = judge(lambda images: self.supernet(images, mix), valid_pass(), self.setting.task)
        valid_loss, valid_acc = tally.means()
        return {
            "lr": self.trainer.lr,
            "valid_loss": valid_loss,
            "valid_acc": valid_acc,
            "params_m": self.compact.params_m,
            "macs_m": self.compact.macs_m,
            **{f"gates.{kind}": count for kind, count in self.count_open().items()},
        }

    def count_open(self) -> dict[str, int]:
        return {kind: sum(int(table[:, at].sum()) for table in self.open) for at, kind in enumerate(GATES)}

    # --- An event

    def prune(self, batch: Batch) -> None:
        """One pruning event. It reads scores from the device and sizes networks on the CPU: the step that waits."""
        self.scores = self.event_scores()
        before, loss_before = self.count_open(), self.loss(batch)
        spread = self.spread()
        self.open, target = self.remaining()
        self.apply()
        self.scores = self.scores.where(torch.cat([table.flatten() for table in self.open]), 0.0)
        self.clear_momentum()
        self.total.zero_()
        self.iterations = 0
        after = self.count_open()
        self.events.append(
            {
                "epoch": self.epoch,
                "target": target,
                "params": self.compact.params,
                "macs": self.compact.macs,
                "removed": {kind: before[kind] - after[kind] for kind in GATES},
                "loss_before": finite(loss_before),
                "loss_after": finite(self.loss(batch)),
                **spread,
            }
        )

    def event_scores(self) -> Tensor:
        """By the chosen form, the mean over cells of the same gates; then the moving average over the events."""
        if self.params.score == "random":
            tables = self.of_leaders(self.tables(torch.rand(len(self.scores), dtype=torch.float64)))
        elif self.params.score == "bn_gamma":
            tables = [table.cpu().double() for table in self.supernet.scales()]
        else:
            tables = self.tables((self.total / self.iterations).cpu())
            if self.params.score == "abs2017":
                tables = [layer_normed(table) for table in tables]
            elif self.params.skip_mode == "fallback":
                for table in tables:
                    table[:, OP] = table[:, OP].square()
        found = self.shared(tables)
        if self.events:
            kept = self.params.score_ema
            found = torch.where(found.isfinite(), kept * self.scores + (1 - kept) * found, found)
        return found

    def ranking(self) -> Tensor:
        """The scores; with `cost_weight` per parameter that goes with the gate."""
        if not self.params.cost_weight:
            return self.scores
        costs = self.space.costs(self.with_skips(self.open), self.setting.form, self.setting.common)
        return self.scores / self.shared(costs)

    def remaining(self) -> tuple[Tables, float]:
        """What is left open after this event, and the size it aimed at (for `gates`: the gates to remove by then)."""
        by, kept = self.ranking(), torch.zeros_like(self.ranked)
        if self.params.skip_mode != "fallback":
            pairs = zip(self.tables(by), self.open, strict=True)
            kept = torch.cat([protected(*pair, self.space.feeding).flatten() for pair in pairs])
        now = torch.cat([table.flatten() for table in self.open])
        places = (now & self.ranked & ~kept & by.isfinite() & (self.uses > 0)).nonzero().flatten()
        order = places[by[places].argsort(stable=True)]

        def without(count: int) -> Tables:
            left = now.clone()
            left[order[:count]] = False
            return self.closed(self.of_leaders(self.tables(left)))

        event, kind = len(self.events) + 1, self.params.budget.kind
        if kind == "gates":
            wanted, target = self.gates_to_remove(now)
            gone_before = self.uses[order].cumsum(0) - self.uses[order]  # a gate of several cells counts in each
            return without(int((gone_before < wanted).sum())), target
        target = target_size(event, self.events_planned, getattr(self.whole, kind), self.params.budget.value)

        def fits(count: int) -> bool:
            size, _ = self.sizes(without(count))
            return bool(getattr(size, kind) <= target)

        count_needed = shortest(len(order), fits)
        if count_needed is None:
            raise ParamsError(
                f"search.tenas.budget.value: at event {event} of {self.events_planned} everything that may go is gone, "
                f"and the network is still above {target:.0f} {kind}; raise the budget"
            )
        return without(count_needed), target

    def gates_to_remove(self, now: Tensor) -> tuple[int, float]:
        """P = ceil(all to remove / T_ev) at every event, not beyond the whole; what rules closed counts as removed."""
        gates = int(self.ranked.sum())
        whole = math.ceil(round((1 - self.params.budget.value) * gates, 6))  # 0.3 of 10 is 3, whatever 1 - 0.7 is
        each = math.ceil(whole / self.events_planned)
        gone = gates - int((now & self.ranked).sum())
        return max(0, min(each, whole - gone)), float(min(each * (len(self.events) + 1), whole))

    def clear_momentum(self) -> None:
        """Weights that feed pruned channels alone stop moving; weight decay goes on."""
        velocity = dict(zip(map(id, self.trainer.parameters), self.trainer.velocity(), strict=True))
        for weight, part in self.supernet.parts(self.open):
            buffer = velocity[id(weight)]
            if buffer is not None:
                buffer *= part.to(buffer.device)

    def loss(self, batch: Batch) -> float:
        """Of a batch with the gates as they are, in evaluation mode."""
        self.supernet.eval()
        with torch.no_grad():
            found = self.setting.task.loss(self.supernet(batch.images, self.mix(self.gates)), batch.labels).item()
        self.supernet.train()
        self.spent += self.image_macs * len(batch.labels)
        return float(found)

    def spread(self) -> dict[str, Any]:
        """Least, quartiles and largest score of the open gates per kind; per kind and cell the median, None if none."""
        scores = [t.masked_fill(~mask, torch.inf) for t, mask in zip(self.tables(self.scores), self.open, strict=True)]
        quartiles, medians = {}, {}
        for at, kind in enumerate(GATES):
            cells = [table[:, at][table[:, at].isfinite()] for table in scores]
            values = torch.cat(cells)
            points = values.quantile(torch.linspace(0, 1, 5).double()).tolist() if len(values) else None
            quartiles[kind] = None if points is None else [rounded(point) for point in points]
            medians[kind] = [rounded(float(cell.median())) if len(cell) else None for cell in cells]
        return {"quartiles": quartiles, "medians": medians}

    # --- State

    def search_state(self) -> dict[str, Any]:
        compact, masked = self.sizes(self.open)
        found = self.space.architecture(self.with_skips(self.open), self.params.skip_mode)
        finite = self.scores.where(self.scores.isfinite(), 0.0)
        sizes = {"compact": compact, "masked": masked, "supernet": self.whole}
        return {
            "architecture": found.to_dict(),
            "scores": [nested(table.tolist()) for table in self.tables(finite)],
            "sizes": {name: {"params": size.params, "macs": size.macs} for name, size in sizes.items()},
            "events": self.events,
        }

    def macs(self) -> int:
        return self.spent

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "passes": self.passes,
            "spent": self.spent,
            "open": self.open,
            "total": self.total,
            "iterations": self.iterations,
            "scores": self.scores,
            "events": self.events,
            "supernet": self.supernet.state_dict(),
            "weights": self.trainer.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.passes, self.spent, self.events = dict(state["passes"]), state["spent"], list(state["events"])
        self.open = [table.cpu() for table in state["open"]]
        self.total, self.iterations = state["total"].clone(), state["iterations"]
        self.scores = state["scores"].cpu()
        self.apply()
        self.start_epoch(state["epoch"])
        self.supernet.load_state_dict(state["supernet"])
        self.trainer.optimiser.load_state_dict(state["weights"])


def rounded(value: float) -> float:
    """To four digits: scores are estimates, and there are many of them."""
    return float(f"{value:.3e}")


def nested(values: Any) -> Any:
    return [nested(value) for value in values] if isinstance(values, list) else rounded(values)


def derive(state: dict[str, Any], params: DeriveParams, space: GateSpace) -> list[Derived]:
    """What is open at the end. The notes: sizes at search size, and how the cells came out."""
    scores = state["scores"] if params.resize == "topk" else None
    chosen = {"resize": params.resize, "form": params.form, "scores": scores}
    found = space.parse({**state["architecture"], **chosen})
    return [Derived("main", found, {"sizes": state["sizes"], "topology": space.statistics(found)})]
