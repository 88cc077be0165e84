"""TENAS: one fixed operation on every edge of every cell; channels and channel-level skips are pruned by the Taylor
scores of their gates, all in one ranking, until a budget is met.

This is not VITA-Group's TE-NAS (the training-free search, ICLR 2021): another method by other authors.
Source: Lim, Kim, IEEE Access 10, 2022, of which only the abstract is public to us: one operation type, Taylor
expansion, channels, channel-level skips, another topology in each cell. Scores: Molchanov et al., see
nas/methods/shared/gate_scores.py. Ours: everything else, see docs/methods/tenas.md.
Shapes: all gates of a network are one vector [G] in the order cell, edge, axis (op, mid, skip), channel; as tables they
are [E, 3, C] per cell. Scores are float64.
"""

import math
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from nas.complexity import Count
from nas.config.params import MethodParams
from nas.config.sections import ParamsError, Section
from nas.contracts.gates import GATES, GatedSupernet, GateMix, GateSpace
from nas.data.dataset import Batch
from nas.engine.tasks import Tally
from nas.methods.shared.base import Derived, ValidPass, frozen
from nas.methods.shared.gate_scores import (
    MID_GATE,
    OP_GATE,
    SKIP_GATE,
    images_scores,
    layer_normed,
    loss_change,
    protected,
    shortest,
    target_size,
)
from nas.methods.shared.supernet_search import SupernetSearch
from nas.records import finite

Tables = list[Tensor]


class Budget(Section):
    kind: Literal["params", "macs", "gates"]
    value: float = Field(gt=0)  # params, macs: of the compact network at search size; gates: the share that stays

    @model_validator(mode="after")
    def a_share_is_below_one(self) -> Self:
        if self.kind == "gates" and self.value >= 1:
            raise ValueError("with kind: gates the value is the share of the gates that stays, below 1")
        return self


class Params(MethodParams):
    op: Literal["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "conv_3x3"]
    skip_mode: Literal["gated", "fallback", "none"]
    mid_gates: bool  # in the middle of the double operations; the others have no middle
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

    needs: ClassVar[str] = "a space of channels, as TENAS prunes channels and chooses no operations"

    @classmethod
    def accepts(cls, space: Any) -> bool:
        return isinstance(space, GateSpace)

    @model_validator(mode="after")
    def schedule_and_budget_go_together(self) -> Self:
        if (self.schedule == "constant_gates") != (self.budget.kind == "gates"):
            raise ValueError("schedule: constant_gates goes with budget.kind: gates, and no other schedule does")
        return self


class DeriveParams(Section):
    rule: Literal["open"]
    resize: Literal["refuse", "repeat", "topk"]
    form: Literal["compact", "masked"]  # of the network in retraining; the network that is measured is compact


class Method(SupernetSearch[Params]):
    supernet: GatedSupernet

    def setup(self) -> None:
        setting, params = self.setting, self.params
        assert isinstance(setting.space, GateSpace)
        self.space = setting.space.of(params.op)
        self.open = self.space.every_gate(setting.common)  # tables of bool, on the CPU
        self.lengths = [table.numel() for table in self.open]
        if params.skip_mode != "gated":
            for table in self.open:
                table[:, SKIP_GATE] = False  # none: no skip; fallback: a skip wherever the operation is closed
        self.ranked = torch.cat([self.rankable(table).flatten() for table in self.open])
        self.leaders = self.leading_cells()
        used = [torch.full_like(table, self.leaders.count(k), dtype=torch.int) for k, table in enumerate(self.open)]
        # number of cells that each gate controls; 0 if another cell's gate controls its cell
        self.uses = torch.cat([table.flatten() for table in used])
        self.whole, _ = self.sizes(self.open)
        self.check()
        affine = params.score == "bn_gamma"
        self.use(self.space.supernet(setting.form, setting.common, affine=affine), self.epochs)
        self.total = torch.zeros(sum(self.lengths), dtype=torch.float64, device=setting.device)  # of scores
        self.iterations = 0  # over which `total` sums
        self.scores = torch.zeros(sum(self.lengths), dtype=torch.float64)  # of the last event
        self.events: list[dict[str, Any]] = []
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
        """The gates that compete: op gates and, where they exist, mid and skip gates."""
        ranked = torch.zeros_like(table)
        ranked[:, OP_GATE] = True
        ranked[:, MID_GATE] = self.params.mid_gates and "mid" in self.space.gate_kinds
        ranked[:, SKIP_GATE] = self.params.skip_mode == "gated"
        return ranked

    def leading_cells(self) -> list[int]:
        """The cell whose gates each cell uses: itself, or with `masks: stage` the first normal cell of its stage."""
        leaders = list(range(len(self.open)))
        for stage in self.space.cells_of_stages(self.setting.common) if self.params.masks == "stage" else ():
            for cell in stage:
                leaders[cell] = stage[0]
        return leaders

    def check(self) -> None:
        """Raises ParamsError if no pruning can happen, nothing can be shared, or the budget cannot be reached."""
        params, common = self.params, self.setting.common
        if params.masks == "stage" and self.leaders == list(range(len(self.open))):
            raise ParamsError(
                f"search.tenas.masks is stage, but no stage of {common.cells} cells has two normal ones: nothing would "
                "be shared; set masks: cell, or search.common.cells to 6 or more"
            )
        if self.events_planned == 0:
            raise ParamsError(
                f"search.tenas.prune_every is {params.prune_every}, but prune_epochs: {params.prune_epochs} has only "
                f"{params.prune_epochs * self.setting.steps} iterations: nothing would be pruned; lower the first or "
                "raise the second"
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
        """Each cell with the table of the cell whose gates it uses."""
        return [tables[leader] for leader in self.leaders]

    def shared(self, tables: Tables) -> Tensor:
        """The means [G] over the cells that share their gates."""
        groups = [[t for t, of in zip(tables, self.leaders, strict=True) if of == k] for k in range(len(tables))]
        means = [torch.stack(group).mean(0) if group else tables[k] for k, group in enumerate(groups)]
        return torch.cat([table.flatten() for table in self.of_leaders(means)])

    def apply(self) -> None:
        """Update what follows from the open gates: the vector on the device, what runs, the cost of an image."""
        self.gates = torch.cat([table.flatten() for table in self.open]).float().to(self.setting.device)
        self.running = [
            [(bool(edge[OP_GATE]), bool(edge[SKIP_GATE])) for edge in table.any(-1)]
            for table in self.with_skips(self.open)
        ]
        self.compact, masked = self.sizes(self.open)
        self.image_macs = masked.macs

    def with_skips(self, gates: Tables) -> Tables:
        """With `fallback` the skip gates are 1 - op gates, not gates of their own."""
        if self.params.skip_mode != "fallback":
            return gates
        ops = [table[..., OP_GATE, :] for table in gates]
        skips = [~op if op.dtype == torch.bool else 1 - op for op in ops]
        return [torch.stack([op, t[..., MID_GATE, :], skip], -2) for op, t, skip in zip(ops, gates, skips, strict=True)]

    def mix(self, gates: Tensor) -> GateMix:
        return GateMix(self.with_skips(self.tables(gates)), self.running)

    def closed(self, gates: Tables) -> Tables:
        """The gates after closing by the rules of the space. With `fallback` channels never die, only edges do."""
        if self.params.skip_mode != "fallback":
            return self.space.closed(gates)
        with_all_skips = [
            torch.stack([t[:, OP_GATE], t[:, MID_GATE], torch.ones_like(t[:, SKIP_GATE])], 1) for t in gates
        ]
        closed = self.space.closed(with_all_skips)
        for table in closed:
            table[:, SKIP_GATE] = False
        return closed

    # --- One epoch

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.pruning = 0 <= epoch - self.params.warmup < self.params.prune_epochs

    def step(self, train: Batch, valid: Batch) -> Tally:
        scoring = self.pruning and self.params.score in ("gate2019", "abs2017")
        on_train = scoring and self.params.score_split == "train"
        if scoring and not on_train:
            self.score(valid)
        gates = self.leaf(train) if on_train else self.gates
        tally = self.weight_step(train, self.mix(gates))  # gates get a gradient too; it is neither clipped nor applied
        if on_train:
            self.accumulate(gates)
        if self.pruning:
            self.iterations += 1
            if self.iterations == self.params.prune_every:
                self.prune(train)
        return tally

    def leaf(self, batch: Batch) -> Tensor:
        """The gates as variables; with scores per image, a copy for each image."""
        each = self.params.score == "abs2017"
        gates = self.gates.expand(len(batch.labels), -1) if each else self.gates
        return gates.clone().requires_grad_()

    def score(self, batch: Batch) -> None:
        """A forward and backward pass only for the scores."""
        gates = self.leaf(batch)
        with frozen(self.trainer.parameters):
            loss = self.setting.task.loss(self.supernet(batch.images, self.mix(gates)), batch.labels)
            loss.backward()
        self.accumulate(gates)
        self.spend("valid_images", len(batch.labels))

    def accumulate(self, gates: Tensor) -> None:
        """Add squares, or absolute values per image. The change of a swap from operation to skip keeps its sign."""
        assert gates.grad is not None
        change = loss_change(gates.detach(), gates.grad)
        if self.params.score == "abs2017":
            self.total += images_scores(change)
        elif self.params.skip_mode == "fallback":
            for total, added in zip(self.tables(self.total), self.tables(change), strict=True):
                total[:, OP_GATE] += added[:, OP_GATE]
                total[:, MID_GATE] += added[:, MID_GATE].square()
        else:
            self.total += change.square()

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        return {
            "lr": self.trainer.lr,
            **self.measured(self.mix(self.gates), valid_pass),
            "params_m": self.compact.params_m,
            "macs_m": self.compact.macs_m,
            **{f"gates.{axis}": count for axis, count in self.count_open().items()},
        }

    def count_open(self) -> dict[str, int]:
        """Open gates per axis."""
        return {axis: sum(int(table[:, at].sum()) for table in self.open) for at, axis in enumerate(GATES)}

    # --- An event

    def prune(self, batch: Batch) -> None:
        """One pruning event. It reads scores from the device and sizes networks on the CPU, so this step waits."""
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
                "removed": {axis: before[axis] - after[axis] for axis in GATES},
                "loss_before": finite(loss_before),
                "loss_after": finite(self.loss(batch)),
                **spread,
            }
        )

    def event_scores(self) -> Tensor:
        """Scores of the chosen form, as means over cells that share gates, then as a moving average over the events."""
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
                    table[:, OP_GATE] = table[:, OP_GATE].square()
        scores = self.shared(tables)
        if self.events:
            kept = self.params.score_ema
            scores = torch.where(scores.isfinite(), kept * self.scores + (1 - kept) * scores, scores)
        return scores

    def ranking(self) -> Tensor:
        """The scores; with `cost_weight`, divided by the parameters that go with the gate."""
        if not self.params.cost_weight:
            return self.scores
        costs = self.space.costs(self.with_skips(self.open), self.setting.form, self.setting.common)
        return self.scores / self.shared(costs)

    def remaining(self) -> tuple[Tables, float]:
        """The gates open after this event, and the size it aims at (with `gates`: the gates to remove by then)."""
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
        """Number to remove now, and in total by now: ceil(all to remove / T_ev) per event, at most all that must go.

        Gates that the space's rules close count too.
        """
        gates = int(self.ranked.sum())
        # rounded first, since 1 - 0.7 is slightly more than 0.3 in floating point
        whole = math.ceil(round((1 - self.params.budget.value) * gates, 6))
        each = math.ceil(whole / self.events_planned)
        gone = gates - int((now & self.ranked).sum())
        return max(0, min(each, whole - gone)), float(min(each * (len(self.events) + 1), whole))

    def clear_momentum(self) -> None:
        """Zero the momentum of weights used only by pruned channels: only weight decay still moves them."""
        velocity = dict(zip(map(id, self.trainer.parameters), self.trainer.velocity(), strict=True))
        for weight, part in self.supernet.parts(self.open):
            buffer = velocity[id(weight)]
            if buffer is not None:
                buffer *= part.to(buffer.device)

    def loss(self, batch: Batch) -> float:
        """The loss of a batch with the present gates, in evaluation mode."""
        self.supernet.eval()
        with torch.no_grad():
            loss = self.setting.task.loss(self.supernet(batch.images, self.mix(self.gates)), batch.labels).item()
        self.supernet.train()
        self.spent += self.image_macs * len(batch.labels)
        return float(loss)

    def spread(self) -> dict[str, Any]:
        """Minimum, quartiles and maximum of the open gates' scores per axis; per axis and cell the median, None if all
        are closed."""
        scores = [t.masked_fill(~mask, torch.inf) for t, mask in zip(self.tables(self.scores), self.open, strict=True)]
        quartiles, medians = {}, {}
        for at, axis in enumerate(GATES):
            cells = [table[:, at][table[:, at].isfinite()] for table in scores]
            values = torch.cat(cells)
            points = values.quantile(torch.linspace(0, 1, 5).double()).tolist() if len(values) else None
            quartiles[axis] = None if points is None else [rounded(point) for point in points]
            medians[axis] = [rounded(float(cell.median())) if len(cell) else None for cell in cells]
        return {"quartiles": quartiles, "medians": medians}

    # --- State

    def search_state(self) -> dict[str, Any]:
        compact, masked = self.sizes(self.open)
        architecture = self.space.architecture(self.with_skips(self.open), self.params.skip_mode)
        scores = self.scores.where(self.scores.isfinite(), 0.0)
        sizes = {"compact": compact, "masked": masked, "supernet": self.whole}
        return {
            "architecture": architecture.to_dict(),
            "scores": [nested(table.tolist()) for table in self.tables(scores)],
            "sizes": {name: {"params": size.params, "macs": size.macs} for name, size in sizes.items()},
            "events": self.events,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "open": self.open,
            "total": self.total,
            "iterations": self.iterations,
            "scores": self.scores,
            "events": self.events,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.open = [table.cpu() for table in state["open"]]
        self.total, self.iterations = state["total"].clone(), state["iterations"]
        self.scores, self.events = state["scores"].cpu(), list(state["events"])
        self.apply()
        super().load_state_dict(state)


def rounded(value: float) -> float:
    """To four digits: scores are estimates, and a record holds many of them."""
    return float(f"{value:.3e}")


def nested(values: Any) -> Any:
    return [nested(value) for value in values] if isinstance(values, list) else rounded(values)


def derive(state: dict[str, Any], params: DeriveParams, space: GateSpace) -> list[Derived]:
    """The gates that are open at the end. The notes: sizes at search size, and statistics of the cells."""
    scores = state["scores"] if params.resize == "topk" else None
    chosen = {"resize": params.resize, "form": params.form, "scores": scores}
    architecture = space.parse({**state["architecture"], **chosen})
    return [Derived("main", architecture, {"sizes": state["sizes"], "topology": space.statistics(architecture)})]
