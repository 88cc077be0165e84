"""IS-NAS: several distributions, one per weight of the complexity, in one search; each learns from the samples of all
by importance sampling, so that one supernet gives one architecture per distribution, from large to small.

Source: Noda, Saito, Shirakawa, "Efficient Search of Multiple Neural Architectures with Different Complexities via
Importance Sampling", ICANN 2022, arXiv 2207.10334, of which only the abstract is public. The estimator, the place of
the complexity term, the step rule, the coefficients and the ImageNet space are our reading; the base update follows
ASNG-NAS. nas/methods/shared/ holds the mathematics (distributions.py) and the search around it (sampled.py).

Distribution m minimises E[L] + eps_m E[R] / r_ref over its own table. A step draws `lambda` samples of each, judges all
N = M lambda on one batch, and gives sample i the weight omega_i = p_m(a_i) / q(a_i) for m, q the mixture of all.
"""

from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from nas.contracts import Space
from nas.methods.shared import distributions as ds
from nas.methods.shared import sampled_derive
from nas.methods.shared.base import Derived
from nas.methods.shared.sampled import Coefficients, Pool, SampledParams, SampledSearch
from nas.methods.shared.sampled_derive import SampledDeriveParams


class Params(SampledParams):
    eps: Coefficients
    share: Literal["is", "none"]
    weight_sampling: Literal["stratified", "iid"]
    ablation: bool  # allows lambda = 1

    @model_validator(mode="after")
    def ranks_exist(self) -> Self:
        if self.lam == 1 and (self.share == "none" or len(self.eps) == 1):
            raise ValueError("lambda is 1: one sample alone has no rank, expected at least 2")
        if self.lam == 1 and not self.ablation:
            raise ValueError(
                "lambda is 1: once the distributions differ, each has one sample that counts, whose rank says nothing; "
                "expected at least 2, or ablation: true"
            )
        return self


class DeriveParams(SampledDeriveParams):
    pass


class Method(SampledSearch[Params]):
    def setup(self) -> None:
        self.eps = list(self.params.eps)
        self.labels = [f"eps={eps:g}" for eps in self.eps]
        self.cycle: list[int] = []  # distributions left in this round of weight steps
        super().setup()

    def pools(self, samples: Tensor, losses: Tensor) -> list[Pool]:
        """All samples, weighted by importance. With `share: none`, each distribution has its own samples only."""
        if self.params.share == "is":
            weights = ds.importance([d.table for d in self.distributions], samples)
            return [Pool(samples, losses, row) for row in weights]
        own = zip(samples.split(self.params.lam), losses.split(self.params.lam), strict=True)
        return [Pool(part, values, torch.ones_like(values)) for part, values in own]

    def next_distribution(self) -> int:
        """`stratified`: shuffled rounds over all distributions, so that each trains the weights equally often."""
        number = len(self.distributions)
        if number == 1:
            return 0
        if self.params.weight_sampling == "iid":
            return int(torch.randint(number, ()))
        if not self.cycle:
            self.cycle = torch.randperm(number).tolist()
        return self.cycle.pop()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "cycle": self.cycle}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.cycle = list(state["cycle"])


def derive(state: dict[str, Any], params: DeriveParams, space: Space) -> list[Derived]:
    """One architecture per eps, named by it."""
    return sampled_derive.derive([state], params, space)
