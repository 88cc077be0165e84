"""ASNG-NAS: one categorical distribution over all architectures follows the natural gradient of its samples' ranks;
steps grow while their directions agree. Meanwhile the weights learn along sampled paths.

Source: Akimoto, Shirakawa, Yoshinari, Uchida, Saito, Nishida, "Adaptive Stochastic Natural Gradient Method for One-Shot
Neural Architecture Search", ICML 2019, arXiv 1905.08537; shirakawas/ASNG-NAS. An `eps` above 0 penalises complexity
(Saito and Shirakawa, arXiv 1907.06341). Each of several values is a search with a supernet of its own: the independent
searches that IS-NAS replaces by one.
The mathematics is in nas/methods/shared/distributions.py, the search around it in nas/methods/shared/sampled.py.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from nas.contracts import Space
from nas.methods.shared import sampled_derive
from nas.methods.shared.base import Derived, SearchMethod, Setting
from nas.methods.shared.repeated import InTurn
from nas.methods.shared.sampled import Coefficients, Pool, SampledParams, SampledSearch
from nas.methods.shared.sampled_derive import SampledDeriveParams


class Params(SampledParams):
    eps: Coefficients  # 0 is ASNG-NAS as published
    lam: int = Field(ge=2, alias="lambda")  # one sample alone has no rank


class DeriveParams(SampledDeriveParams):
    pass


class Method(SampledSearch[Params]):
    """One search, of one `eps`."""

    def __init__(self, params: Params, setting: Setting, label: str = "main", eps: float | None = None) -> None:
        self.labels, self.eps = [label], [params.eps[0] if eps is None else eps]
        super().__init__(params, setting)

    @classmethod
    def build(cls, params: Params, setting: Setting) -> SearchMethod[Any]:
        """One search, or one after the other for every `eps`."""
        if len(params.eps) == 1:
            return cls(params, setting)
        searches = [lambda eps=eps: cls(params, setting, f"eps={eps:g}", eps) for eps in params.eps]
        return InTurn(searches, params, setting)

    def pools(self, samples: Tensor, losses: Tensor) -> list[Pool]:
        return [Pool(samples, losses, torch.ones_like(losses))]

    def next_distribution(self) -> int:
        return 0


def derive(state: dict[str, Any], params: DeriveParams, space: Space) -> list[Derived]:
    """One architecture per search."""
    return sampled_derive.derive(state.get("searches", [state]), params, space)
