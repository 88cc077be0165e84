"""GDAS: every pass runs one operation per edge, a Gumbel sample of softmax(alpha) with a straight-through gradient.

Source: Dong, Yang, CVPR 2019, arXiv 1910.04465, section 3; the order of the two steps and the temperature schedule
are those of the code (D-X-Y/AutoDL-Projects, GDAS.py). As there, only the sampled operation runs, times 1 + p - stop(p)
with p its share in the sample, so the gradient reaches all alphas of the edge. Ours: the zeros that the code adds for
the other operations (they have a gradient) are left out; epochs are judged by the operation of largest alpha.
The sampled operations are read from the device, so every step waits for it.
"""

from typing import Any, Literal

from pydantic import Field
from torch.nn.functional import one_hot

from nas.config.sections import Section
from nas.contracts import ArchitectureLike, EdgeSpace, HardMix, SoftMix
from nas.methods.shared.base import Derived
from nas.methods.shared.relaxed import darts_cells, gumbel_softmax
from nas.methods.shared.relaxed_search import RelaxedParams, RelaxedSearch


class Params(RelaxedParams):
    tau_max: float = Field(gt=0)  # temperature of the first epoch; falls linearly
    tau_min: float = Field(gt=0)  # of the last epoch


class DeriveParams(Section):
    rule: Literal["top2"]


class Method(RelaxedSearch[Params]):
    alphas_first = False

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        first, last = self.params.tau_max, self.params.tau_min
        self.tau = first - (first - last) * epoch / max(self.epochs - 1, 1)

    def mix(self) -> SoftMix:
        soft = {t: gumbel_softmax(alpha, self.mask[t], self.tau) for t, alpha in self.alphas.items()}
        self.run_only({t: [[op] for op in table.argmax(-1).tolist()] for t, table in soft.items()})
        hard = {t: one_hot(table.argmax(-1), table.shape[1]) for t, table in soft.items()}
        return SoftMix({t: hard[t] + (soft[t] - soft[t].detach()) for t in soft}, self.running)

    def judged(self) -> tuple[HardMix, dict[str, Any]]:
        tables = {t: alpha.detach().softmax(-1) for t, alpha in self.alphas.items()}
        return HardMix({t: table.argmax(-1).tolist() for t, table in tables.items()}), tables

    def figures(self) -> dict[str, Any]:
        return {"temperature": self.tau}

    def incumbent(self) -> dict[str, ArchitectureLike]:
        return {"main": self.space.compose(darts_cells(self.search_state()["alphas"], self.space))}


def derive(state: dict[str, Any], params: DeriveParams, space: EdgeSpace) -> list[Derived]:
    return [Derived("main", space.compose(darts_cells(state["alphas"], space, params.rule)), {})]
