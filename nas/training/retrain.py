"""Training a found network from scratch, as a job. One recipe for every method (DARTS, cnn/train.py)."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.config.params import Retrain, Size
from nas.contracts import ImageForm, Space
from nas.data.dataset import Batch, ImageSet, Stream
from nas.data.spec import DataSpec
from nas.engine.placement import place
from nas.engine.schedules import cosine, drop_path, exponential, linear, one_cycle, warmup_from_zero
from nas.engine.tasks import Classification, Tally, judge
from nas.records import canonical, replacing
from nas.training.determinism import derived_seed, seed_everything
from nas.training.loop import Job, Row

Weights = dict[str, Tensor]
DESCRIPTION = "network"  # the entry of a file of weights that says whose they are


class RetrainJob(Job):
    """One architecture, one retrain seed. `identity` names the trial and the architecture: it enters the seed."""

    def __init__(
        self,
        recipe: Retrain,
        space: Space,
        architecture: Any,
        identity: str,
        seed: int,
        data: ImageSet,
        form: ImageForm,
        precision: str,
        graphs: bool = False,
    ) -> None:
        self.recipe, self.space = recipe, space
        self.name, self.device = f"retrain {identity}, seed {seed}", data.images.device
        self.task = Classification(recipe.label_smoothing)
        self.stream = Stream(data, recipe.batch, recipe.augment, derived_seed("retrain", identity, seed, "train"))
        self.epochs, self.steps, self.images = recipe.epochs, self.stream.steps, len(data)
        seed_everything("retrain", identity, seed)
        network = space.trainee(architecture, form, recipe, auxiliary=recipe.auxiliary_weight > 0)
        self.network = place(network, self.device, precision, graphs)
        self.parameters = list(self.network.parameters())
        self.average = Average(self.network, recipe.ema) if recipe.ema else None
        self.earlier: dict[int, Weights] = {}  # of the last epochs before the last, where these are measured, too
        self.optimiser = torch.optim.SGD(
            self.parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, foreach=True
        )

    def result(self) -> nn.Module:
        """The network that is measured: as it is trained by now, or the moving average of its weights."""
        return self.space.trained(self.network if self.average is None else self.average.network)

    def start_epoch(self, epoch: int) -> None:
        recipe = self.recipe
        self.optimiser.param_groups[0]["lr"] = learning_rate(epoch, recipe)
        self.set_drop_path(drop_path(epoch, recipe.epochs, recipe.drop_path))
        self.network.train()

    def set_drop_path(self, probability: float) -> None:
        self.drop_path = probability
        setattr(self.network, "drop_path", probability)  # noqa: B010 (a module's attribute has no type)

    def step(self, epoch: int, step: int) -> Tally:
        images, labels = self.stream.batch(epoch, step)
        logits, auxiliary = self.network(images)
        loss = self.task.loss(logits, labels)
        total = loss if auxiliary is None else loss + self.recipe.auxiliary_weight * self.task.loss(auxiliary, labels)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.network)
        return Tally.of(loss, self.task.correct(logits, labels), len(labels))

    def end_epoch(self, epoch: int) -> Row:
        if epoch in kept_epochs(self.recipe):
            self.earlier[epoch] = weights_of(self.result())
        return {"lr": self.optimiser.param_groups[0]["lr"], "drop_path": self.drop_path}

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "drop_path": self.drop_path,
            "average": None if self.average is None else self.average.state_dict(),
            "earlier": self.earlier,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.set_drop_path(state["drop_path"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.earlier = {epoch: {k: v.cpu() for k, v in weights.items()} for epoch, weights in state["earlier"].items()}
        self.network.train()


def kept_epochs(recipe: Retrain) -> range:
    """The epochs before the last one whose weights are kept, to be measured beside it."""
    return range(recipe.epochs - recipe.best_of_last, recipe.epochs - 1)


class Average:
    """The moving average of a network over its steps, batch norms' statistics too; the first one counts whole.

    torch's AveragedModel waits for a GPU at every step, and averages whole numbers (counters, indices) to others.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.steps = copy.deepcopy(network), decay, 0
        vars(self.network).pop(
            "forward", None
        )  # as nas.engine.placement placed it, it runs the network that is trained

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        pairs = list(zip(tensors(self.network), tensors(network), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        own, new = [a for a, _ in floats], [b for _, b in floats]
        torch._foreach_lerp_(own, new, 1 - self.decay if self.steps else 1.0)
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.steps = state["steps"]


def tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def learning_rate(epoch: int, recipe: Retrain) -> float:
    """That of an epoch, from 0. A warm-up takes the place of the schedule's first values and delays none of them."""
    match recipe.schedule:
        case "cosine":
            planned = cosine(epoch, recipe.epochs, recipe.lr, recipe.lr_min)
        case "linear":
            planned = linear(epoch, recipe.epochs, recipe.lr)
        case "exponential":
            planned = exponential(epoch, recipe.lr)
        case "one_cycle":
            planned = one_cycle(epoch, recipe.epochs, recipe.warmup_epochs, recipe.lr, recipe.lr_min)
    return warmup_from_zero(epoch, recipe.warmup_epochs, recipe.lr, planned)


def measure(network: nn.Module, batches: Iterable[Batch]) -> tuple[float, float]:
    """(loss in nats, accuracy in percent) of a network in evaluation mode."""
    network.eval()
    return judge(lambda images: network(images)[0], batches, Classification()).means()


def weights_of(network: nn.Module) -> Weights:
    """What evaluation needs, so no auxiliary head; a copy on the CPU."""
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith("auxiliary.")}
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in kept.items()}


def description(architecture: Mapping[str, Any], size: Size, spec: DataSpec) -> dict[str, Any]:
    """All that it takes to build a network again, beside its weights. `architecture`: as in its record."""
    return {
        "architecture": architecture,
        "size": {key: getattr(size, key) for key in Size.model_fields},
        "data": spec.to_dict(),
    }


def save_weights(weights: Weights, path: Path, about: Mapping[str, Any]) -> None:
    """As safetensors with their description: equal weights are equal bytes (the one entry has no order to lose)."""
    from safetensors.torch import save_file

    with replacing(path) as beside:
        save_file(weights, beside, {DESCRIPTION: canonical(about)})


def weights_file(name: str, seed: int, epoch: int | None = None) -> str:
    """Of an architecture and a retrain seed, at the end of an epoch or at the very end."""
    return f"{name}-{seed}.safetensors" if epoch is None else f"{name}-{seed}.epoch-{epoch}.safetensors"


def load_weights(network: nn.Module, path: Path) -> None:
    from safetensors.torch import load_file

    weights: Weights = load_file(path)
    network.load_state_dict(weights)
