"""What asng and is_nas share: a supernet that runs single paths, and distributions that learn from the ranks of the
losses of these paths.

Every step trains the weights along `n_w` sampled paths, then judges `lambda` paths of each distribution on one batch,
forward only. Tables are on the CPU and a path is Python numbers, so the losses of the pool are copied from the device
once per step. The rule against waiting for the device makes this one exception (docs/design.md).
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import torch
from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from torch import Tensor

from nas.config.params import MethodParams, SearchCommon, Size
from nas.config.sections import as_tuple
from nas.contracts import ArchitectureLike, CategoricalSpace, EdgeSpace, SoftMix
from nas.data.dataset import Batch
from nas.engine.tasks import Tally
from nas.methods.shared import distributions as ds
from nas.methods.shared.base import ValidPass, op_counts
from nas.methods.shared.distributions import Categorical, Direction, Estimator, StepRule
from nas.methods.shared.sampled_derive import padded, split, trimmed
from nas.methods.shared.supernet_search import SupernetSearch

COUNT = "count of "  # prefix of the counter of a figure that not every step has
Auto = Annotated[float, Field(gt=0)] | Literal["auto"]


class SampledParams(MethodParams):
    """The parameters that both methods share; docs/methods/is_nas.md uses the same names."""

    epochs: Annotated[int, Field(ge=1)] | Literal["common"]
    lam: int = Field(ge=1, alias="lambda")
    n_w: int = Field(ge=1)
    step: Literal["asng", "fixed"]
    alpha: float = Field(gt=0)
    delta0: Auto
    delta_max: Annotated[float, Field(gt=0)] | None
    margin: Literal["auto", "none"]
    complexity: Literal["exact", "rank"]
    r_ref: Auto
    cost_at: Literal["search"] | Size
    utility: Literal["plain", "quantile"]
    scale: Literal["code", "invariant"]
    mode: Literal["simultaneous", "separate"]
    warmup_epochs: int = Field(ge=0)
    mixture_epochs: int = Field(ge=0)

    needs: ClassVar[str] = "a space of categorical variables"

    @classmethod
    def accepts(cls, space: Any) -> bool:
        return isinstance(space, CategoricalSpace)

    def check(self, common: SearchCommon) -> None:
        own = self.epochs != "common"
        epochs = self.epochs if self.epochs != "common" else common.epochs
        if common.lr_warmup_epochs >= epochs:
            raise ValueError(
                f"'epochs' is {epochs}: expected more than the {common.lr_warmup_epochs} of "
                "'search.common.lr_warmup_epochs', or the lr is never reached"
            )
        if self.warmup_epochs >= epochs:
            raise ValueError(
                f"'warmup_epochs' is {self.warmup_epochs}: expected less than the {epochs} of "
                f"{'epochs' if own else 'search.common.epochs'}, or no epoch is left to move the distributions in"
            )

    def check_space(self, space: Any) -> None:
        if self.mixture_epochs and not isinstance(space, EdgeSpace):
            raise ValueError(
                f"'mixture_epochs' is {self.mixture_epochs}, but the supernet of space {self.space} only runs single "
                "paths: expected 0"
            )

    @model_validator(mode="after")
    def warm_up_is_whole(self) -> Self:
        if self.mixture_epochs > self.warmup_epochs:
            raise ValueError(
                f"'mixture_epochs' is {self.mixture_epochs}: expected at most the {self.warmup_epochs} of the warm-up"
            )
        if self.mode == "separate" and not self.warmup_epochs:
            raise ValueError(
                "'warmup_epochs' is 0: with mode: separate only these epochs learn weights; expected at least 1"
            )
        return self


def is_increasing(eps: tuple[float, ...]) -> tuple[float, ...]:
    if list(eps) != sorted(set(eps)):
        raise ValueError("expected increasing values, each once")
    return eps


Coefficients = Annotated[  # values of eps, which name the architectures
    tuple[Annotated[float, Field(ge=0)], ...],
    BeforeValidator(as_tuple),
    AfterValidator(is_increasing),
    Field(min_length=1),
]


P = TypeVar("P", bound=SampledParams)


@dataclass(frozen=True)
class Pool:
    """What one distribution learns from in a step: samples [N, D], their losses and importance weights, [N] each."""

    samples: Tensor
    losses: Tensor
    weights: Tensor


class SampledSearch(SupernetSearch[P]):
    """A method sets `labels` and `eps` (the weight of complexity) of its distributions, and what each learns from."""

    labels: list[str]
    eps: list[float]

    @abstractmethod
    def pools(self, samples: Tensor, losses: Tensor) -> list[Pool]:
        """The pool of each distribution. `samples`: `lambda` of the first one, `lambda` of the second, and so on."""

    @abstractmethod
    def next_distribution(self) -> int:
        """Index of the distribution that the next path of a weight step is drawn from."""

    @property
    def epochs(self) -> int:
        """`search.common.epochs`, or its own number: a step along single paths costs far less than a relaxed one."""
        own = self.params.epochs
        return super().epochs if own == "common" else own

    def setup(self) -> None:
        setting, params = self.setting, self.params
        assert isinstance(setting.space, CategoricalSpace), f"space {setting.space.name} has no categorical variables"
        self.space = setting.space
        self.even = self.even_mixture() if params.mixture_epochs else None
        self.names = self.space.categories()
        self.counts = [len(row) for rows in self.names.values() for row in rows]
        # with mode: separate weights learn in the warm-up only, otherwise to the end
        self.weight_epochs = self.epochs if params.mode == "simultaneous" else params.warmup_epochs
        self.use(self.space.supernet(setting.form, setting.common), self.weight_epochs)
        self.costs = self.cost_table()
        r_ref, delta0 = (None if value == "auto" else value for value in (params.r_ref, params.delta0))
        self.estimator = Estimator(params.utility, params.scale, params.complexity, r_ref)
        rule = StepRule(params.step, delta0, params.alpha, params.delta_max, params.margin)
        self.distributions = [Categorical(self.counts, rule) for _ in self.labels]
        self.seed = int(torch.randint(2**31, ()))  # of the random architectures that `derive` may be asked for
        self.passes["judged_images"] = 0  # forward only
        self.mode_figures: list[dict[str, float | None]] = []
        self.sums: dict[str, float] = {}

    def even_mixture(self) -> tuple[SoftMix, int]:
        """All operations of every edge with equal weights, and the multiply-adds of one image."""
        space, setting = self.space, self.setting
        assert isinstance(space, EdgeSpace)
        shapes = {t: (len(edges), len(edges[0])) for t, edges in space.variables().items()}
        weights = {t: torch.full(shape, 1 / shape[1], device=setting.device) for t, shape in shapes.items()}
        return SoftMix(weights), space.supernet_macs(setting.form, setting.common)

    def cost_table(self) -> Tensor:
        """Parameters of every category, [D, K]: of the supernet whose loss is ranked, or of a network of this size."""
        at, setting = self.params.cost_at, self.setting
        searched = at == "search"
        costs = self.space.costs(setting.form, setting.common if at == "search" else at, affine=not searched)
        return padded([row for cell_type in self.names for row in costs[cell_type]])

    # --- One step

    def start_epoch(self, epoch: int) -> None:
        # this puts the supernet in training mode, so pools are judged by batch statistics too (ASNG)
        super().start_epoch(epoch)
        self.sums = {}

    def weight_epoch(self, epoch: int) -> int:
        return min(epoch, self.weight_epochs)

    def step(self, train: Batch, valid: Batch) -> Tally:
        learned = self.train_weights(train) if self.epoch < self.weight_epochs else None
        judged = self.distribution_step(valid) if self.epoch >= self.params.warmup_epochs else None
        tally = learned or judged
        assert tally is not None, "an epoch trains weights, distributions or both"
        return tally

    def train_weights(self, train: Batch) -> Tally:
        if self.even is not None and self.epoch < self.params.mixture_epochs:
            # ours: every operation of every edge at once, so that all have been trained when ranks start to count
            mix, self.image_macs = self.even
            return self.weight_step(train, mix)
        return self.path_step(train)

    def path_step(self, train: Batch) -> Tally:
        """One step along the mean loss of `n_w` paths of the mixture, without importance weights."""
        paths = [ds.draw(self.distributions[self.next_distribution()].table, 1)[0] for _ in range(self.params.n_w)]
        logits = [self.run(path, train, backward=True) for path in paths]
        losses = [self.setting.task.loss(of_path, train.labels) for of_path in logits]
        self.trainer.descend(torch.stack(losses).mean())
        images = len(train.labels)
        self.passes["train_images"] += images * len(paths)
        tallies = [
            Tally.of(loss, self.setting.task.correct(of_path, train.labels), images)
            for loss, of_path in zip(losses, logits, strict=True)
        ]
        return sum(tallies[1:], tallies[0])

    def distribution_step(self, valid: Batch) -> Tally:
        """Judge a pool on one batch, compute the direction of every distribution by the old tables, then move all."""
        samples = torch.cat([ds.draw(d.table, self.params.lam) for d in self.distributions])
        tallies = []
        with torch.no_grad():
            for path in samples:
                logits = self.run(path, valid, backward=False)
                loss = self.setting.task.loss(logits, valid.labels)
                tallies.append(Tally.of(loss, self.setting.task.correct(logits, valid.labels), len(valid.labels)))
        self.passes["judged_images"] += len(valid.labels) * len(samples)
        rows = [torch.stack([tally.loss, tally.correct.double()]) for tally in tallies]
        figures = torch.stack(rows).cpu()  # waits for the device
        losses = figures[:, 0] / len(valid.labels)
        pools = self.pools(samples, losses)
        directions = [
            self.estimator.direction(d.table, pool.samples, pool.losses, pool.weights, self.costs, eps)
            for d, pool, eps in zip(self.distributions, pools, self.eps, strict=True)
        ]
        for m, (distribution, direction) in enumerate(zip(self.distributions, directions, strict=True)):
            moved = direction is not None and distribution.step(direction.total)
            self.note(m, pools[m], direction, moved)
        self.note_pool(samples, losses, 100 * figures[:, 1].sum().item() / (len(valid.labels) * len(samples)))
        finite = [tally for tally, loss in zip(tallies, losses, strict=True) if loss.isfinite()] or tallies
        return sum(finite[1:], finite[0])  # a path that diverged is ranked last; the search goes on

    def run(self, sample: Tensor, batch: Batch, backward: bool) -> Tensor:
        choices = self.split(sample.tolist())
        macs = self.space.path_macs(self.setting.form, self.setting.common, choices)
        self.spent += macs * len(batch.labels) * (3 if backward else 1)
        return self.supernet(batch.images, self.space.path(choices))

    def split(self, choices: Sequence[int]) -> dict[str, list[int]]:
        return split(choices, self.names)

    # --- Figures of an epoch

    def note(self, m: int, pool: Pool, direction: Direction | None, moved: bool) -> None:
        """Add the figures of one distribution to the sums over the steps of an epoch."""
        self.add(f"ess{self.suffix(m)}", ds.effective(pool.weights))
        self.add(f"weight_mean{self.suffix(m)}", pool.weights.mean().item())
        top = f"weight_max{self.suffix(m)}"
        self.sums[top] = max(self.sums.get(top, 0.0), pool.weights.max().item())
        self.add(f"cosine{self.suffix(m)}", direction.cosine if direction is not None else 0.0)
        self.add(f"skipped{self.suffix(m)}", float(not moved))

    def note_pool(self, samples: Tensor, losses: Tensor, accuracy: float) -> None:
        self.add("steps", 1.0)
        self.add("valid_acc", accuracy)
        if (known := losses[losses.isfinite()]).numel():
            self.add_mean("valid_loss", known.mean().item())
        sizes = ds.complexities(samples, self.costs)
        if losses.isfinite().all() and losses.std() > 0 and sizes.std() > 0:
            self.add_mean("correlation", torch.corrcoef(torch.stack([losses, sizes]))[0, 1].item())

    def add(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def add_mean(self, name: str, value: float) -> None:
        """Add a figure that not every step has."""
        self.add(name, value)
        self.add(f"{COUNT}{name}", 1.0)

    def suffix(self, m: int) -> str:
        """Suffix of the names of the figures of one distribution, if there are several."""
        return f".{self.labels[m]}" if len(self.labels) > 1 else ""

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        row: dict[str, Any] = {"lr": self.trainer.lr}
        if steps := self.sums.get("steps"):
            whole = ("weight_max", "skipped")  # not means
            for name, value in self.sums.items():
                if name != "steps" and not name.startswith(COUNT):
                    row[name] = value if name.startswith(whole) else value / self.sums.get(f"{COUNT}{name}", steps)
        row["entropy"] = sum(d.entropy for d in self.distributions) / len(self.distributions)
        for m, distribution in enumerate(self.distributions):
            row |= {f"{name}{self.suffix(m)}": value for name, value in self.figures(distribution).items()}
        if self.epoch >= self.params.warmup_epochs:  # before, all are equally likely and the first would lead by a tie
            row |= self.leading()
        if self.epoch + 1 == self.epochs:
            self.judge_modes(valid_pass)
        return row

    def figures(self, distribution: Categorical) -> dict[str, float]:
        """Entropy (nats), mean largest probability, complexity in the mean and of the mode (millions), step, signal."""
        mode = torch.tensor([ds.mode(distribution.table)])
        return {
            **({"entropy": distribution.entropy} if len(self.labels) > 1 else {}),
            "certainty": distribution.table.max(1).values.mean().item(),
            "complexity_m": (distribution.table * self.costs).sum().item() / 1e6,
            "mode_complexity_m": ds.complexities(mode, self.costs).item() / 1e6,
            "Delta": distribution.Delta,
            "signal": distribution.signal_power / distribution.gamma if distribution.gamma else 0.0,
        }

    def leading(self) -> dict[str, float]:
        """Number of variables on which each operation is the likeliest, as a mean over the distributions."""
        totals: dict[str, float] = {}
        for distribution in self.distributions:
            tables = dict(zip(self.names, distribution.table.split([len(v) for v in self.names.values()]), strict=True))
            for name, value in op_counts(tables, self.names).items():
                totals[name] = totals.get(name, 0.0) + value / len(self.distributions)
        return totals

    def judge_modes(self, valid_pass: ValidPass) -> None:
        """Measure the likeliest architecture of each distribution with the supernet's weights, once, at the end."""
        self.mode_figures = []
        for distribution in self.distributions:
            path = self.space.path(self.split(ds.mode(distribution.table)))
            figures = self.measured(path, valid_pass)
            loss = figures["valid_loss"]
            self.mode_figures.append({**figures, "valid_loss": loss if isfinite(loss) else None})

    def incumbent(self) -> dict[str, ArchitectureLike]:
        """Empty in the warm-up, in which all categories are equally likely."""
        if self.epoch < self.params.warmup_epochs:
            return {}
        modes = [self.split(ds.mode(distribution.table)) for distribution in self.distributions]
        return {label: self.space.choose(mode) for label, mode in zip(self.labels, modes, strict=True)}

    # --- State

    def search_state(self) -> dict[str, Any]:
        """Tables and costs row by row, without the padding after a variable's last category."""
        return {
            "labels": self.labels,
            "eps": self.eps,
            "r_ref": self.estimator.reference(self.costs),
            "seed": self.seed,
            "tables": [trimmed(d.table, self.counts) for d in self.distributions],
            "costs": trimmed(self.costs, self.counts),
            "found": self.mode_figures,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "seed": self.seed,
            "found": self.mode_figures,
            "sums": self.sums,
            "distributions": [d.state_dict() for d in self.distributions],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.seed, self.mode_figures, self.sums = state["seed"], list(state["found"]), dict(state["sums"])
        for distribution, saved in zip(self.distributions, state["distributions"], strict=True):
            distribution.load_state_dict(saved)
