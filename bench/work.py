"""What is timed: steps of a first-order DARTS search and of a retraining, by the reference and by the engine.

The reference is the usual code: one module per operation and edge, eager, contiguous NCHW, an architecture step that
computes every gradient. The engine is what the stages run: place, WeightTrainer, frozen, RetrainJob's order of things.
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

KINDS = ("normal", "reduce")
COMMON: dict[str, Any] = {  # the weights' optimiser of DARTS, cnn/train_search.py
    "epochs": 50,
    "lr": 0.025,
    "lr_min": 0.001,
    "lr_warmup_epochs": 0,
    "momentum": 0.9,
    "weight_decay": 0.0003,
    "clip": 5.0,
    "augment": {"crop_padding": 4, "resized_crop": None, "flip": True, "color_jitter": None, "cutout": 0},
}
Step = Callable[[], Tensor]  # gives the loss that it descends from


@dataclass(frozen=True)
class Work:
    """One measurement's shape. `ops`: the operations that run on each edge; all when empty."""

    device: str
    batch: int
    channels: int
    cells: int
    side: int = 32
    ops: tuple[str, ...] = ()

    @property
    def form(self) -> ImageForm:
        return ImageForm(3, self.side, self.side, 10)

    @property
    def size(self) -> Size:
        return Size(cells=self.cells, channels=self.channels, stem="cifar")

    def batches(self, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch, *self.form.shape, generator=generator).contiguous(memory_format=layout)
        return images.to(self.device), torch.randint(10, (self.batch,), generator=generator).to(self.device)


def arithmetic(engine: str, device: str) -> AbstractContextManager[None]:
    """Autocast for the reference under bf16; the engine has its own."""
    bf16 = engine == "reference-bf16"
    return torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()


def arithmetic_of(engine: str) -> tuple[str, bool]:
    """The precision of an engine, and whether its passes are replayed from graphs: bf16-graphs, for instance."""
    precision, _, started = engine.partition("-")
    return precision, started == "graphs"


def search_step(engine: str, work: Work) -> Step:
    """One architecture and one weight update. `engine`: reference, reference-bf16, or float32 or bf16 of the engine, on
    a GPU also float32-graphs or bf16-graphs."""
    alpha_step, weight_step = search_halves(engine, work)

    def step() -> Tensor:
        alpha_step()
        return weight_step(None)

    return step


def search_halves(engine: str, work: Work) -> tuple[Step, Callable[[HardMix | None], Tensor]]:
    """The architecture step, and the weight step, of the soft mix or of a hard one."""
    torch.manual_seed(0)
    space, reference = get_space("darts"), engine.startswith("reference")
    supernet = space.supernet(work.form, work.size, reference)
    device = torch.device(work.device)
    network = supernet.to(device) if reference else place(supernet, device, *arithmetic_of(engine))
    images, labels = work.batches(torch.contiguous_format if reference else torch.channels_last)
    alphas = [(1e-3 * torch.randn(len(DARTS_EDGES), len(PRIMITIVES))).to(device).requires_grad_() for _ in KINDS]
    alpha_optimiser = torch.optim.Adam(alphas, 3e-4, (0.5, 0.999), weight_decay=1e-3)
    runs = [PRIMITIVES.index(name) for name in work.ops]
    alive = {kind: [runs] * len(DARTS_EDGES) for kind in KINDS} if runs else None

    def soft() -> SoftMix:
        return SoftMix({kind: alpha.softmax(-1) for kind, alpha in zip(KINDS, alphas, strict=True)}, alive)

    def loss(mix: Mix) -> Tensor:
        with arithmetic(engine, work.device):
            return cross_entropy(network(images, mix), labels)

    if reference:
        weights = list(network.parameters())
        optimiser = torch.optim.SGD(weights, COMMON["lr"], COMMON["momentum"], weight_decay=COMMON["weight_decay"])

        def alpha_step() -> Tensor:
            alpha_optimiser.zero_grad()
            found = loss(soft())
            found.backward()  # of the weights too, as quark0/darts does
            alpha_optimiser.step()
            return found.detach()

        def weight_step(hard: HardMix | None) -> Tensor:
            optimiser.zero_grad()
            found = loss(hard or soft())
            found.backward()
            nn.utils.clip_grad_norm_(weights, COMMON["clip"])
            optimiser.step()
            return found.detach()

        return alpha_step, weight_step

    common = SearchCommon.model_validate({**COMMON, "batch": work.batch, **work.size.model_dump()})
    trainer = WeightTrainer(network, common, common.epochs)

    def quick_alpha_step() -> Tensor:
        with frozen(trainer.parameters):
            found = loss(soft())
            gradients = torch.autograd.grad(found, alphas)
        for alpha, gradient in zip(alphas, gradients, strict=True):
            alpha.grad = gradient
        alpha_optimiser.step()
        return found.detach()

    def quick_weight_step(hard: HardMix | None) -> Tensor:
        with torch.no_grad():
            mix = hard or soft()
        found = loss(mix)
        trainer.descend(found)
        return found.detach()

    return quick_alpha_step, quick_weight_step


def retrain_step(engine: str, work: Work) -> Step:
    """One step of retraining DARTS_V2, auxiliary head and drop path included."""
    torch.manual_seed(0)
    reference, device = engine.startswith("reference"), torch.device(work.device)
    network = get_space("darts").network(GENOTYPES["DARTS_V2"], work.form, work.size, auxiliary=True)
    network = network.to(device) if reference else place(network, device, *arithmetic_of(engine))
    images, labels = work.batches(torch.contiguous_format if reference else torch.channels_last)
    return retraining(network, images, labels, lambda: arithmetic(engine, work.device), not reference or None)


def retraining(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    foreach: bool | None = True,
) -> Step:
    """A step of retraining, with auxiliary head and drop path; it gives the loss. `around` the forward pass."""
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
    """One operation per edge, drawn uniformly."""
    draw = torch.randint(len(PRIMITIVES), (len(KINDS), len(DARTS_EDGES)), generator=generator).tolist()
    return HardMix(dict(zip(KINDS, draw, strict=True)))
