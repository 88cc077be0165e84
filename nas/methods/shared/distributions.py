"""Categorical distributions that learn from the ranking of their samples' losses alone: ASNG, and several at once.

Source of one distribution (BASE): Akimoto, Shirakawa et al., "Adaptive Stochastic Natural Gradient Method for One-Shot
Neural Architecture Search", ICML 2019, arXiv 1905.08537, and its code (shirakawas/ASNG-NAS): natural gradient,
utilities, adaptive step, margin. The penalty on complexity: Saito and Shirakawa, arXiv 1907.06341. Several that learn
from each other's samples by importance sampling: Noda, Saito, Shirakawa, arXiv 2207.10334 (IS-NAS), of which the
abstract alone is public; mixture weights, weighted baseline and quantile utilities are our reading.

Shapes: D variables of K_d categories each, K the largest of these, n = sum of (K_d - 1); M distributions; N samples,
int64 [N, D]. A table is [D, K] in float64, its rows sum to 1, and what lies behind a variable's last category is 0.
Everything here is small and lives on the CPU; nothing knows of networks or spaces.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

FLOOR = 1e-12  # of a probability that divides or stands under a logarithm (ours)
TIE = 1e-14  # losses whose relative gap is smaller are equal
STILL = 1e-13  # a direction with no larger entry is rounding, and moves nothing (1e-18 in the code, which lets it pass)
SHARE = 0.25  # rho: the best and the worst quarter of the samples count


# --- Tables and samples


def uniform(counts: Sequence[int]) -> Tensor:
    """The table in which every category of a variable is as likely as the others."""
    return used(counts).double() / torch.tensor(counts)[:, None]


def used(counts: Sequence[int]) -> Tensor:
    """Where a table of these numbers of categories has entries, bool [D, K]."""
    return torch.arange(max(counts)) < torch.tensor(counts)[:, None]


def draw(table: Tensor, number: int) -> Tensor:
    """`number` independent samples, from torch's global generator; never a category of probability 0."""
    steps = table.cumsum(1)
    steps = steps / steps[:, -1:]
    return (torch.rand(number, len(table), 1, dtype=torch.float64) >= steps).sum(-1)


def log_probability(table: Tensor, samples: Tensor) -> Tensor:
    """log p(a) of every sample, [N]."""
    chosen = table.expand(len(samples), *table.shape).gather(2, samples[:, :, None])
    return chosen.squeeze(2).clamp_min(FLOOR).log().sum(1)


def mode(table: Tensor) -> list[int]:
    """The likeliest category of each variable; ties: the lowest."""
    top = table == table.max(1, keepdim=True).values
    return top.int().argmax(1).tolist()  # of a row of zeros and ones: argmax of ties is not promised to be the first


def indicators(samples: Tensor, categories: int) -> Tensor:
    """h(a), float64 [N, D, K]."""
    return one_hot(samples, categories).double()


def importance(tables: Sequence[Tensor], samples: Tensor) -> Tensor:
    """omega[m, i] = p_m(a_i) / q(a_i), where q is the mean of all M: the balance heuristic, between 0 and M.

    With the sample's own distribution as divisor instead of the mixture the weights would have no bound.
    """
    logs = torch.stack([log_probability(table, samples) for table in tables])
    return len(tables) / (logs[None] - logs[:, None]).exp().sum(1)


# --- Utilities: what a sample is worth by its place among the others; small losses are good


def places(losses: Tensor) -> Tensor:
    """Place of each loss among the distinct ones, int64 [N]; one that is no finite number is as bad as can be."""
    losses = losses.double().nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf)
    values, order = losses.sort(stable=True)
    gaps = values[1:] - values[:-1] > TIE * values[:-1].abs()  # false between two that are not finite
    return torch.empty_like(order).scatter_(0, order, torch.cat([torch.zeros(1), gaps.cumsum(0)]).long())


def plain_utilities(place: Tensor) -> Tensor:
    """1 / mu to the best mu = ceil(N / 4), -1 / mu to the worst mu; tied samples share the mean of their places."""
    best = math.ceil(SHARE * len(place))
    by_place = torch.zeros(len(place), dtype=torch.float64)
    by_place[:best] += 1 / best
    by_place[-best:] -= 1 / best
    same = (place.sort().values == place[:, None]).double()
    return same @ by_place / same.sum(1)


def quantile_utilities(place: Tensor, weights: Tensor) -> Tensor:
    """Plain utilities for weighted samples: a sample's stretch of the weighted order, cut with both outer quarters.

    The weighted mean is 0; of weight 1 each, and with whole quarters, they are the plain ones.
    """
    shares = weights / weights.sum()
    low = (place[None] < place[:, None]).double() @ shares
    high = low + (place[None] == place[:, None]).double() @ shares
    best = (high.clamp_max(SHARE) - low).clamp_min(0)
    worst = (high - low.clamp_min(1 - SHARE)).clamp_min(0)
    return (best - worst) / (SHARE * (high - low).clamp_min(FLOOR) * len(place))


# --- The natural gradient of the expected loss, and of the expected complexity


def loss_direction(table: Tensor, samples: Tensor, weights: Tensor, utilities: Tensor, factor: float) -> Tensor:
    """factor * sum over i of omega_i (u_i - b) (h(a_i) - theta), where b is the weighted mean of u."""
    baseline = (weights * utilities).sum() / weights.sum().clamp_min(FLOOR)
    pull = factor * weights * (utilities - baseline)
    return torch.einsum("n,ndk->dk", pull, indicators(samples, table.shape[1]) - table)


def penalty(table: Tensor, costs: Tensor) -> Tensor:
    """theta (c - <c>): the natural gradient of the expected sum of costs, exactly."""
    return table * (costs - (table * costs).sum(1, keepdim=True))


def complexities(samples: Tensor, costs: Tensor) -> Tensor:
    """R(a), the sum of the costs of a sample's categories, [N]."""
    return costs.expand(len(samples), *costs.shape).gather(2, samples[:, :, None]).sum((1, 2))


@dataclass(frozen=True)
class Estimator:
    """How a direction is estimated. The names are those of the parameters (docs/methods/is_nas.md)."""

    utility: Literal["plain", "quantile"] = "plain"
    scale: Literal["code", "invariant"] = "code"
    complexity: Literal["exact", "rank"] = "exact"
    r_ref: float | None = None  # None: the largest cost (exact), the largest complexity (rank)

    def reference(self, costs: Tensor) -> float:
        if self.r_ref is not None:
            return self.r_ref
        largest = costs.max() if self.complexity == "exact" else costs.max(1).values.sum()
        return largest.item() or 1.0  # where nothing costs anything there is nothing to penalise

    def direction(
        self, table: Tensor, samples: Tensor, losses: Tensor, weights: Tensor, costs: Tensor, eps: float
    ) -> "Direction | None":
        """Where one distribution should go by this pool; None where all losses tie. Ask all before one moves."""
        reference = self.reference(costs)
        if self.complexity == "rank":
            losses = losses + eps * complexities(samples, costs) / reference
        place = places(losses)
        if not place.any():
            return None
        utilities = plain_utilities(place) if self.utility == "plain" else quantile_utilities(place, weights)
        factor = 1 / len(samples) if self.scale == "code" else 1 / 2
        by_loss = loss_direction(table, samples, weights, utilities, factor)
        by_cost = penalty(table, costs) / reference
        total = by_loss - eps * by_cost if self.complexity == "exact" else by_loss
        return Direction(by_loss, by_cost, total)


@dataclass(frozen=True)
class Direction:
    """[D, K] each, rows sum to 0: by the ranking, of the complexity (growing), and where to go."""

    by_loss: Tensor
    by_cost: Tensor
    total: Tensor

    @property
    def cosine(self) -> float:
        """Of the angle between ranking and complexity: above 0 the ranking alone asks for more of it."""
        sizes = self.by_loss.norm() * self.by_cost.norm()
        return ((self.by_loss * self.by_cost).sum() / sizes).item() if sizes > 0 else 0.0


# --- One distribution with its steps


@dataclass(frozen=True)
class StepRule:
    """`asng`: the step length follows the signal-to-noise ratio, whose threshold is alpha. `fixed`: delta0 times the
    direction. `margin: auto` keeps every probability above 1 / (D (K_d - 1)) where that can be, `none` above 0.
    """

    step: Literal["asng", "fixed"] = "asng"
    delta0: float | None = None  # None: 1 (asng), 1 / (number of all categories) (fixed)
    alpha: float = 1.5
    delta_max: float | None = None
    margin: Literal["auto", "none"] = "auto"


class Categorical:
    """D independent categorical variables; `table` is what `step` moves."""

    def __init__(self, counts: Sequence[int], rule: StepRule, table: Tensor | None = None) -> None:
        self.counts, self.rule = tuple(counts), rule
        self.table = uniform(counts) if table is None else table.double()
        self.signal = torch.zeros_like(self.table)  # s: the mean of the normalised directions so far
        self.gamma = 0.0  # what |s|^2 would be of pure noise
        self.used = used(counts)
        self.dimensions = sum(count - 1 for count in counts)  # n
        self.lowest = lowest(counts) if rule.margin == "auto" else torch.zeros(len(counts), dtype=torch.float64)
        self.delta0 = rule.delta0 or (1.0 if rule.step == "asng" else 1 / sum(counts))
        # ours: beta stays at most 1, beyond which the mean of directions is none; the code has no such bound
        self.least = self.delta0 / math.sqrt(max(self.dimensions, 1))
        self.Delta = max(1.0, self.least)  # the step length is delta0 / Delta

    def step(self, direction: Tensor) -> bool:
        """One step along a natural gradient; False, and nothing changes, where there is none."""
        if not (direction.abs() >= STILL).any():
            return False
        if self.rule.step == "fixed":
            self.table = self.table + self.delta0 * direction
        else:
            self.adaptive_step(direction)
        self.table = correct(self.table, self.lowest, self.used)
        return True

    def adaptive_step(self, direction: Tensor) -> None:
        """ASNG: a step of length delta in the Fisher metric; longer when directions agree, shorter when they do not."""
        delta = self.delta0 / self.Delta
        beta = delta / math.sqrt(self.dimensions)
        root = whitened(self.table, direction, self.counts)
        norm = root.norm()
        self.table = self.table + delta * direction / norm
        self.signal = (1 - beta) * self.signal + math.sqrt(beta * (2 - beta)) * root / norm
        self.gamma = (1 - beta) ** 2 * self.gamma + beta * (2 - beta)
        self.Delta *= math.exp(beta * (self.gamma - self.signal_power / self.rule.alpha))
        if self.rule.delta_max is not None:
            self.Delta = min(self.Delta, self.rule.delta_max)
        self.Delta = max(self.Delta, self.least)

    @property
    def signal_power(self) -> float:
        """|s|^2; above alpha gamma the step grows."""
        return self.signal.square().sum().item()

    @property
    def entropy(self) -> float:
        """Mean over the variables, nats."""
        return torch.special.entr(self.table).sum(1).mean().item()

    def state_dict(self) -> dict[str, Any]:
        return {"table": self.table, "signal": self.signal, "gamma": self.gamma, "Delta": self.Delta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.table, self.signal = state["table"].cpu(), state["signal"].cpu()
        self.gamma, self.Delta = state["gamma"], state["Delta"]


def whitened(table: Tensor, direction: Tensor, counts: Sequence[int]) -> Tensor:
    """F^(1/2) G, whose plain square is G'FG = sum of G^2 / theta; the coordinate of the last category is 0."""
    last = torch.tensor(counts)[:, None] - 1
    safe = table.clamp_min(FLOOR)
    rest = direction.sum(1, keepdim=True) - direction.gather(1, last)
    end = safe.gather(1, last)
    found = direction / safe.sqrt() + safe.sqrt() * rest / (end + end.sqrt())
    return found.masked_fill(torch.arange(table.shape[1]) >= last, 0.0)


def lowest(counts: Sequence[int]) -> Tensor:
    """Lowest probability of a category of each variable, 1 / (D_valid (K_d - 1)); 0 where K_d of these exceed 1.

    D_valid counts the variables that have a choice. Two variables of two categories leave no room, for instance.
    """
    valid = sum(count > 1 for count in counts)
    found = [1 / (valid * (count - 1)) if count > 1 and valid * (count - 1) > count else 0.0 for count in counts]
    tight = [d for d, count in enumerate(counts) if count > 1 and not found[d]]
    if tight:
        print(f"warning: too few variables for a margin, so variables {tight} have none: they may settle for good")
    return torch.tensor(found, dtype=torch.float64)


def correct(table: Tensor, least: Tensor, entries: Tensor) -> Tensor:
    """Lift every entry to its least value, take what that costs from the excess of the others; rows sum to 1."""
    least = least[:, None] * entries
    table = table.maximum(least)
    excess = table.sum(1, keepdim=True) - 1
    table = table - excess * (table - least) / (table - least).sum(1, keepdim=True)
    return table / table.sum(1, keepdim=True)


def effective(weights: Tensor) -> float:
    """Effective sample size, (sum of omega)^2 / sum of omega^2."""
    return (weights.sum() ** 2 / weights.square().sum()).item()
