"""RelaxedSearch: the search of DARTS. A relaxed method overrides the parts that its paper changes.

Source: Liu, Simonyan, Yang 2019, arXiv 1806.09055, sections 2.2 and 2.3.
Shapes: alphas [edges, operations], one table per cell type; `alive` bool, the same shape.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from nas.config.params import MethodParams
from nas.contracts import EdgeSpace, Growth, HardMix, SoftMix
from nas.data.dataset import Batch
from nas.engine.tasks import Tally
from nas.methods.shared.base import ValidPass, entropy, frozen, op_counts
from nas.methods.shared.relaxed import AlphaTrainer, gradient, second_order
from nas.methods.shared.supernet_search import SupernetSearch


class RelaxedParams(MethodParams):
    alpha_lr: float = Field(gt=0)  # Adam, betas .5 and .999, constant over the search
    alpha_decay: float = Field(ge=0)

    needs: ClassVar[str] = "a space of operations on edges, with the same cell types at every depth"

    @classmethod
    def accepts(cls, space: Any) -> bool:
        return isinstance(space, EdgeSpace) and not space.stages


R = TypeVar("R", bound=RelaxedParams)


class RelaxedSearch(SupernetSearch[R]):
    """Alphas mix the operations of each edge; alphas and weights take turns, alphas on the valid batch.

    As it stands this is first-order DARTS: `mix` is the softmax (equation 2), an alpha step precedes each weight step.
    """

    alpha_clip: float | None = None  # largest norm of the gradient of the alphas
    alphas_first: bool = True  # within a step, whether the alpha step precedes the weight step
    second_order: bool = False  # whether an alpha step differentiates through the next weight step
    skip_dropout: float = 0.0  # probability behind stride-1 skips
    growth: Growth | None = None  # of the supernet, in a search that changes it

    def setup(self) -> None:
        assert isinstance(self.setting.space, EdgeSpace)
        self.space = self.setting.space
        self.names = self.space.variables()
        self.shapes = {cell_type: (len(edges), len(edges[0])) for cell_type, edges in self.names.items()}
        self.begin()

    def begin(self) -> None:
        """Start the search, with all operations alive."""
        self.start_training(self.epochs, self.shapes)
        self.keep({cell_type: torch.ones(shape, dtype=torch.bool) for cell_type, shape in self.shapes.items()})

    def start_training(self, weight_epochs: int, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Build a fresh supernet, fresh alphas of these shapes, and both optimisers."""
        setting, params = self.setting, self.params
        self.use(self.space.supernet(setting.form, setting.common, growth=self.growth), weight_epochs)
        self.architect = AlphaTrainer(shapes, params.alpha_lr, params.alpha_decay, setting.device, self.alpha_clip)
        self.alphas: dict[str, Tensor] = dict(self.architect.alphas)

    def keep(self, alive: Mapping[str, Tensor]) -> None:
        """Remove the operations that are not alive. `alive` is on the CPU."""
        self.alive = dict(alive)
        self.mask = {cell_type: table.to(self.setting.device) for cell_type, table in alive.items()}
        self.run_only({cell_type: [row.nonzero().flatten().tolist() for row in t] for cell_type, t in alive.items()})

    def run_only(self, running: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """Set which operations run on each edge, and with them the cost of an image."""
        self.running = running
        self.image_macs = self.space.supernet_macs(self.setting.form, self.setting.common, running, self.growth)

    # --- One step

    @property
    def alphas_learn(self) -> bool:
        """Whether alphas learn in this epoch."""
        return True

    def step(self, train: Batch, valid: Batch) -> Tally:
        if self.alphas_learn and self.alphas_first:
            self.architect.descend(self.alpha_gradients(train, valid))
        with torch.no_grad():  # a weight step needs no gradient of the alphas
            mix = self.mix()
        tally = self.weight_step(train, mix)
        if self.alphas_learn and not self.alphas_first:
            self.architect.descend(self.alpha_gradients(train, valid))
        return tally

    def mix(self) -> SoftMix:
        """How the supernet mixes its operations in one pass, with the gradient of the alphas."""
        weights = {
            cell_type: alpha.masked_fill(~self.mask[cell_type], -math.inf).softmax(-1)
            for cell_type, alpha in self.alphas.items()
        }
        return SoftMix(weights, self.running, self.skip_dropout)

    def alpha_gradients(self, train: Batch, valid: Batch) -> list[Tensor]:
        """Of the loss on the valid batch, in the order of the alphas that learn."""
        alphas = list(self.architect.alphas.values())
        if self.second_order:
            gradients = second_order(lambda: self.loss(train), lambda: self.loss(valid), self.trainer, alphas)
            self.spend("train_images", 3 * len(train.labels))
        else:
            with frozen(self.trainer.parameters):
                gradients = gradient(self.loss(valid), alphas)
        self.spend("valid_images", len(valid.labels))
        return gradients

    def loss(self, batch: Batch) -> Tensor:
        return self.setting.task.loss(self.supernet(batch.images, self.mix()), batch.labels)

    # --- The end of an epoch

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        mix, tables = self.judged()
        row = {"lr": self.trainer.lr, **self.measured(mix, valid_pass), "entropy": entropy(tables.values())}
        return {**row, **self.figures(), **op_counts(tables, self.names)}

    def judged(self) -> tuple[SoftMix | HardMix, Mapping[str, Tensor]]:
        """What the end of an epoch measures: a mix without noise, and the probabilities that the row describes."""
        with torch.no_grad():
            mix = self.mix()
        return mix, mix.weights

    def figures(self) -> dict[str, Any]:
        """Further figures for the row of an epoch."""
        return {}

    # --- State

    def search_state(self) -> dict[str, Any]:
        return {"alphas": {cell_type: alpha.tolist() for cell_type, alpha in self.alphas.items()}}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "architect": self.architect.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.architect.load_state_dict(state["architect"])
