"""Categorical distributions that learn only from the ranks of their samples' losses: ASNG, and several at once.

Source of one distribution (BASE): Akimoto, Shirakawa et al., "Adaptive Stochastic Natural Gradient Method for One-Shot
Neural Architecture Search", ICML 2019, arXiv 1905.08537, and its code (shirakawas/ASNG-NAS): natural gradient,
utilities, adaptive step, margin. The penalty on complexity: Saito and Shirakawa, arXiv 1907.06341. Several that learn
from each other's samples by importance sampling: Noda, Saito, Shirakawa, arXiv 2207.10334 (IS-NAS), of which
only the abstract is public; mixture weights, weighted baseline and quantile utilities are our reading.

Shapes: D variables of K_d categories each, K the largest of these, n = sum of (K_d - 1); M distributions; N samples,
int64 [N, D]. A table is [D, K] in float64, its rows sum to 1, and entries after a variable's last category are 0.
Everything here is small and on the CPU, and independent of networks and spaces.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

FLOOR = 1e-12  # of a probability that is a divisor or the argument of a logarithm (ours)
TIE = 1e-14  # losses whose relative gap is smaller are equal
STILL = 1e-13  # a direction with no larger entry is rounding error and moves nothing (1e-18 in ASNG's code)
SHARE = 0.25  # rho: the best and the worst quarter of the samples count


# --- Tables and samples


def uniform(counts: Sequence[int]) -> Tensor:
    """The table in which all categories of a variable are equally likely."""
    return used(counts).double() / torch.tensor(counts)[:, None]


def used(counts: Sequence[int]) -> Tensor:
    """Which entries of a table belong to a category, bool [D, K]."""
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
    return top.int().argmax(1).tolist()  # argmax does not guarantee the first of several ties


def indicators(samples: Tensor, categories: int) -> Tensor:
    """h(a), float64 [N, D, K]."""
    return one_hot(samples, categories).double()


def importance(tables: Sequence[Tensor], samples: Tensor) -> Tensor:
    """omega[m, i] = p_m(a_i) / q(a_i), where q is the mean of all M: the balance heuristic, between 0 and M.

    With the sample's own distribution as divisor instead of the mixture, the weights would be unbounded.
    """
    logs = torch.stack([log_probability(table, samples) for table in tables])
    return len(tables) / (logs[None] - logs[:, None]).exp().sum(1)


# --- Utilities: the value of a sample by its rank; small losses are good


def places(losses: Tensor) -> Tensor:
    """Rank of each loss among the distinct ones, int64 [N]; losses that are not finite rank last."""
    losses = losses.double().nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf)
    values, order = losses.sort(stable=True)
    gaps = values[1:] - values[:-1] > TIE * values[:-1].abs()  # false between two that are not finite
    return torch.empty_like(order).scatter_(0, order, torch.cat([torch.zeros(1), gaps.cumsum(0)]).long())


def plain_utilities(place: Tensor) -> Tensor:
    """1 / mu to the best mu = ceil(N / 4), -1 / mu to the worst mu; tied samples share the mean of their ranks."""
    best = math.ceil(SHARE * len(place))
    by_place = torch.zeros(len(place), dtype=torch.float64)
    by_place[:best] += 1 / best
    by_place[-best:] -= 1 / best
    same = (place.sort().values == place[:, None]).double()
    return same @ by_place / same.sum(1)


def quantile_utilities(place: Tensor, weights: Tensor) -> Tensor:
    """Plain utilities for weighted samples: the overlap of a sample's interval of the weighted order with both outer
    quarters.

    Their weighted mean is 0. With weights of 1 and whole quarters they equal the plain ones.
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
    """How a direction is estimated. The fields are parameters of docs/methods/is_nas.md."""

    utility: Literal["plain", "quantile"] = "plain"
    scale: Literal["code", "invariant"] = "code"
    complexity: Literal["exact", "rank"] = "exact"
    r_ref: float | None = None  # None: the largest cost (exact), the largest complexity (rank)

    def reference(self, costs: Tensor) -> float:
        if self.r_ref is not None:
            return self.r_ref
        largest = costs.max() if self.complexity == "exact" else costs.max(1).values.sum()
        return largest.item() or 1.0  # if nothing has a cost, nothing is penalised

    def direction(
        self, table: Tensor, samples: Tensor, losses: Tensor, weights: Tensor, costs: Tensor, eps: float
    ) -> "Direction | None":
        """The direction of one distribution; None if all losses tie. Compute those of all before any of them moves."""
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
    """[D, K] each, rows sum to 0: of the ranking, of growing complexity, and their combination."""

    by_loss: Tensor
    by_cost: Tensor
    total: Tensor

    @property
    def cosine(self) -> float:
        """Cosine between ranking and complexity: above 0, the ranking alone favours more complexity."""
        sizes = self.by_loss.norm() * self.by_cost.norm()
        return ((self.by_loss * self.by_cost).sum() / sizes).item() if sizes > 0 else 0.0


# --- One distribution with its steps


@dataclass(frozen=True)
class StepRule:
    """`asng`: the step length follows the signal-to-noise ratio, whose threshold is alpha. `fixed`: delta0 times the
    direction. `margin: auto` keeps every probability above 1 / (D (K_d - 1)) where that is possible, `none` above 0.
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
        self.signal = torch.zeros_like(self.table)  # s: the decayed mean of the normalised directions
        self.gamma = 0.0  # |s|^2 of pure noise
        self.used = used(counts)
        self.dimensions = sum(count - 1 for count in counts)  # n
        self.lowest = lowest(counts) if rule.margin == "auto" else torch.zeros(len(counts), dtype=torch.float64)
        self.delta0 = rule.delta0 or (1.0 if rule.step == "asng" else 1 / sum(counts))
        # ours: beta is at most 1, beyond which s is not a mean of directions; ASNG's code has no such bound
        self.least = self.delta0 / math.sqrt(max(self.dimensions, 1))
        self.Delta = max(1.0, self.least)  # the step length is delta0 / Delta

    def step(self, direction: Tensor) -> bool:
        """One step along a natural gradient. Returns False, and changes nothing, if it is zero up to rounding."""
        if not (direction.abs() >= STILL).any():
            return False
        if self.rule.step == "fixed":
            self.table = self.table + self.delta0 * direction
        else:
            self.adaptive_step(direction)
        self.table = correct(self.table, self.lowest, self.used)
        return True

    def adaptive_step(self, direction: Tensor) -> None:
        """ASNG: a step of length delta in the Fisher metric, growing while directions agree, shrinking otherwise."""
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
        """|s|^2; above alpha gamma, the step grows."""
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
    root = direction / safe.sqrt() + safe.sqrt() * rest / (end + end.sqrt())
    return root.masked_fill(torch.arange(table.shape[1]) >= last, 0.0)


def lowest(counts: Sequence[int]) -> Tensor:
    """Lowest probability of a category of each variable, 1 / (D_valid (K_d - 1)); 0 where K_d of these reach 1.

    D_valid counts the variables that have a choice. Two variables of two categories leave no room, for instance.
    """
    valid = sum(count > 1 for count in counts)
    bounds = [1 / (valid * (count - 1)) if count > 1 and valid * (count - 1) > count else 0.0 for count in counts]
    tight = [d for d, count in enumerate(counts) if count > 1 and not bounds[d]]
    if tight:
        print(f"warning: too few variables for a margin: variables {tight} have none and may reach 0 for good")
    return torch.tensor(bounds, dtype=torch.float64)


def correct(table: Tensor, least: Tensor, entries: Tensor) -> Tensor:
    """Raise every entry to its lower bound and subtract the surplus from the others' excess, so that rows sum to 1."""
    least = least[:, None] * entries
    table = table.maximum(least)
    excess = table.sum(1, keepdim=True) - 1
    table = table - excess * (table - least) / (table - least).sum(1, keepdim=True)
    return table / table.sum(1, keepdim=True)


def effective(weights: Tensor) -> float:
    """Effective sample size, (sum of omega)^2 / sum of omega^2."""
    return (weights.sum() ** 2 / weights.square().sum()).item()
