"""The work that is timed: steps of a first-order DARTS search and of a retraining, by the reference and the engine.

The reference is conventional code: one module per operation and edge, eager execution, contiguous NCHW tensors, and an
architecture step that computes the gradients of the weights too. The engine is the code that the stages run: place,
WeightTrainer, frozen, and the steps of RetrainJob in their order.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nas.architectures.cell_shape import DARTS_EDGES
from nas.architectures.darts import PRIMITIVES
from nas.architectures.genotypes import GENOTYPES
from nas.config.params import SearchCommon, Size
from nas.contracts import HardMix, ImageForm, Mix, SoftMix
from nas.engine.placement import place
from nas.methods.shared.base import WeightTrainer, frozen
from nas.spaces.registry import get_space

CELL_TYPES = ("normal", "reduce")
COMMON: dict[str, Any] = {  # the optimiser of the weights in DARTS, cnn/train_search.py
    "epochs": 50,
    "lr": 0.025,
    "lr_min": 0.001,
    "lr_warmup_epochs": 0,
    "momentum": 0.9,
    "weight_decay": 0.0003,
    "clip": 5.0,
    "augment": {"crop_padding": 4, "resized_crop": None, "flip": True, "color_jitter": None, "cutout": 0},
}
Step = Callable[[], Tensor]  # returns the loss before the update


@dataclass(frozen=True)
class Work:
    """The sizes of one measurement."""

    device: str
    batch: int
    channels: int
    cells: int
    side: int = 32  # height and width of the images, in pixels
    ops: tuple[str, ...] = ()  # the operations that run on each edge; empty: all of them

    @property
    def form(self) -> ImageForm:
        return ImageForm(3, self.side, self.side, 10)

    @property
    def size(self) -> Size:
        return Size(cells=self.cells, channels=self.channels, stem="cifar")

    def batch_of(self, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
        """Random images and labels, the same on every call."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch, *self.form.shape, generator=generator).contiguous(memory_format=layout)
        return images.to(self.device), torch.randint(10, (self.batch,), generator=generator).to(self.device)


def arithmetic(engine: str, device: str) -> AbstractContextManager[None]:
    """Autocast for reference-bf16; otherwise nothing, because the engine sets autocast itself."""
    bf16 = engine == "reference-bf16"
    return torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()


def precision_and_graphs(engine: str) -> tuple[str, bool]:
    """The precision of an engine, and whether it replays CUDA graphs: bf16-graphs -> ("bf16", True)."""
    precision, _, suffix = engine.partition("-")
    return precision, suffix == "graphs"


def search_step(engine: str, work: Work) -> Step:
    """An architecture step followed by a weight step.

    Args:
        engine: reference or reference-bf16; or, for the engine, float32 or bf16, and on a GPU float32-graphs or
            bf16-graphs.
        work: The sizes.
    """
    alpha_step, weight_step = search_halves(engine, work)

    def step() -> Tensor:
        alpha_step()
        return weight_step(None)

    return step


def search_halves(engine: str, work: Work) -> tuple[Step, Callable[[HardMix | None], Tensor]]:
    """The architecture step and the weight step. The weight step takes a hard mix, or None for the soft one."""
    torch.manual_seed(0)
    space, reference = get_space("darts"), engine.startswith("reference")
    supernet = space.supernet(work.form, work.size, reference)
    device = torch.device(work.device)
    network = supernet.to(device) if reference else place(supernet, device, *precision_and_graphs(engine))
    images, labels = work.batch_of(torch.contiguous_format if reference else torch.channels_last)
    alphas = [(1e-3 * torch.randn(len(DARTS_EDGES), len(PRIMITIVES))).to(device).requires_grad_() for _ in CELL_TYPES]
    alpha_optimiser = torch.optim.Adam(alphas, 3e-4, (0.5, 0.999), weight_decay=1e-3)
    runs = [PRIMITIVES.index(name) for name in work.ops]
    alive = {cell_type: [runs] * len(DARTS_EDGES) for cell_type in CELL_TYPES} if runs else None

    def soft() -> SoftMix:
        weights = {cell_type: alpha.softmax(-1) for cell_type, alpha in zip(CELL_TYPES, alphas, strict=True)}
        return SoftMix(weights, alive)

    def loss(mix: Mix) -> Tensor:
        with arithmetic(engine, work.device):
            return cross_entropy(network(images, mix), labels)

    if reference:
        weights = list(network.parameters())
        optimiser = torch.optim.SGD(weights, COMMON["lr"], COMMON["momentum"], weight_decay=COMMON["weight_decay"])

        def alpha_step() -> Tensor:
            alpha_optimiser.zero_grad()
            before = loss(soft())
            before.backward()  # computes the gradients of the weights too, as quark0/darts does
            alpha_optimiser.step()
            return before.detach()

        def weight_step(hard: HardMix | None) -> Tensor:
            optimiser.zero_grad()
            before = loss(hard or soft())
            before.backward()
            nn.utils.clip_grad_norm_(weights, COMMON["clip"])
            optimiser.step()
            return before.detach()

        return alpha_step, weight_step

    common = SearchCommon.model_validate({**COMMON, "batch": work.batch, **work.size.model_dump()})
    trainer = WeightTrainer(network, common, common.epochs)

    def engine_alpha_step() -> Tensor:
        with frozen(trainer.parameters):
            before = loss(soft())
            gradients = torch.autograd.grad(before, alphas)
        for alpha, gradient in zip(alphas, gradients, strict=True):
            alpha.grad = gradient
        alpha_optimiser.step()
        return before.detach()

    def engine_weight_step(hard: HardMix | None) -> Tensor:
        with torch.no_grad():
            mix = hard or soft()
        before = loss(mix)
        trainer.descend(before)
        return before.detach()

    return engine_alpha_step, engine_weight_step


def retrain_step(engine: str, work: Work) -> Step:
    """A step of retraining DARTS_V2, with auxiliary head and drop path."""
    torch.manual_seed(0)
    reference, device = engine.startswith("reference"), torch.device(work.device)
    network = get_space("darts").network(GENOTYPES["DARTS_V2"], work.form, work.size, auxiliary=True)
    network = network.to(device) if reference else place(network, device, *precision_and_graphs(engine))
    images, labels = work.batch_of(torch.contiguous_format if reference else torch.channels_last)
    return retraining(network, images, labels, lambda: arithmetic(engine, work.device), not reference or None)


def retraining(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    foreach: bool | None = True,
) -> Step:
    """A step of retraining, with auxiliary head and drop path.

    Args:
        network: What is trained, on its device.
        images: A batch [B, C, H, W].
        labels: int64 [B].
        around: Makes the context of the forward pass, for instance autocast.
        foreach: As in torch.optim.SGD.
    """
    network.train()
    setattr(network, "drop_path", 0.1)  # noqa: B010 (a module's attribute has no type)
    weights = list(network.parameters())
    optimiser = torch.optim.SGD(
        weights, COMMON["lr"], COMMON["momentum"], weight_decay=COMMON["weight_decay"], foreach=foreach
    )

    def step() -> Tensor:
        with around():
            logits, auxiliary = network(images)
            loss = cross_entropy(logits, labels) + 0.4 * cross_entropy(auxiliary, labels)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, COMMON["clip"])
        optimiser.step()
        return loss.detach()

    return step


def random_choices(generator: torch.Generator) -> HardMix:
    """A hard mix: one operation per edge, drawn uniformly."""
    choices = torch.randint(len(PRIMITIVES), (len(CELL_TYPES), len(DARTS_EDGES)), generator=generator).tolist()
    return HardMix(dict(zip(CELL_TYPES, choices, strict=True)))
