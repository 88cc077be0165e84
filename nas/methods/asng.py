"""ASNG-NAS: one categorical distribution over all architectures moves by the natural gradient of its samples' ranks,
with a step as long as the directions agree; the weights learn along sampled paths meanwhile.

Source: Akimoto, Shirakawa, Yoshinari, Uchida, Saito, Nishida, "Adaptive Stochastic Natural Gradient Method for One-Shot
Neural Architecture Search", ICML 2019, arXiv 1905.08537; shirakawas/ASNG-NAS. `eps` above 0 pays for complexity, by the
penalty of Saito and Shirakawa (arXiv 1907.06341): then it is one of the independent searches that IS-NAS replaces.
The mathematics is in nas/distributions.py, the search around it in nas/methods/sampled.py.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from nas.contracts import Space
from nas.methods import sampled
from nas.methods.base import Derived
from nas.methods.sampled import Pool, SampledDeriveParams, SampledParams, SampledSearch


class Params(SampledParams):
    eps: float = Field(ge=0)  # 0: ASNG-NAS
    lam: int = Field(ge=2, alias="lambda")  # one sample alone has no rank


class DeriveParams(SampledDeriveParams):
    pass


class Method(SampledSearch[Params]):
    def setup(self) -> None:
        self.labels, self.eps = ["main"], [self.params.eps]
        super().setup()

    def pools(self, samples: Tensor, losses: Tensor) -> list[Pool]:
        return [Pool(samples, losses, torch.ones_like(losses))]

    def next_distribution(self) -> int:
        return 0


def derive(state: dict[str, Any], params: DeriveParams, space: Space) -> list[Derived]:
    return sampled.derive(state, params, space)
