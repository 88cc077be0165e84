"""Training networks from scratch, by one recipe for every method (DARTS, cnn/train.py)."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from nas.config.params import Retrain, Runtime, Size
from nas.contracts import ImageForm, Space
from nas.data.dataset import Batch, ImageSet, Stream
from nas.data.spec import DataSpec
from nas.engine.placement import place
from nas.engine.schedules import cosine, drop_path, exponential, linear, one_cycle, warmed
from nas.engine.tasks import Classification, Tally, judge
from nas.records import canonical, replacing
from nas.training.checkpoint import Checkpoint
from nas.training.determinism import derived_seed, seed_everything
from nas.training.loop import Job, Row, run
from nas.training.sized import SizedArchitecture

Weights = dict[str, Tensor]
FIGURES = ("train_loss", "train_acc")  # of the last epoch, in retrain.json
DESCRIPTION = "network"  # the metadata entry of a weights file that describes its network


@dataclass(frozen=True)
class Retrained:
    """One network after its training.

    `weights`: file name -> weights, those of kept epochs first. `about` describes the network, see `description`.
    """

    sized: SizedArchitecture
    seed: int
    history: Sequence[Row]
    weights: Mapping[str, Weights]
    about: Mapping[str, Any]
    seconds: float
    resumed: int

    @property
    def result(self) -> dict[str, Any]:
        """The row of the network in retrain.json."""
        last = {key: self.history[-1][key] for key in FIGURES}
        return {**self.sized.label, "seed": self.seed, **last}

    @property
    def rows(self) -> list[Row]:
        """The rows of the network in retrain.history.json."""
        return [{"architecture": self.sized.name, "seed": self.seed, **row} for row in self.history]


def retrain(
    architectures: Sequence[SizedArchitecture],
    recipe: Retrain,
    runtime: Runtime,
    data: ImageSet,
    trial: str,
    checkpoint: Callable[[str], Checkpoint],
    on_row: Callable[[str, Row], None],
) -> Iterator[Retrained]:
    """Train every architecture with every retrain seed, one after the other; yields each network when it is done.

    Args:
        trial: names the trial; part of every network's seed.
        checkpoint: network, for instance "main-0" -> its checkpoint. A network resumes where it stopped.
        on_row: called with the network and the row of each epoch.
    """
    for sized in architectures:
        size = recipe.at(sized.channels)
        about = description(sized.architecture.to_dict(), size, data.spec)
        for seed in recipe.seeds:
            name = f"{sized.name}-{seed}"
            job = RetrainJob(
                size,
                sized.space,
                sized.architecture,
                f"{trial} {sized.name}",
                seed,
                data,
                data.spec.form,
                runtime.precision,
                runtime.graphs,
            )
            outcome = run(job, checkpoint(name), partial(on_row, name))
            weights = {weights_file(sized.name, seed, epoch): kept for epoch, kept in job.earlier.items()}
            weights[weights_file(sized.name, seed)] = weights_of(job.result())
            yield Retrained(sized, seed, outcome.history, weights, about, outcome.seconds, outcome.resumed)


def summary(results: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Architecture -> its results averaged over the retrain seeds."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        rows.setdefault(result["name"], []).append(result)
    return {name: {key: fmean(row[key] for row in own) for key in FIGURES} for name, own in rows.items()}


class RetrainJob(Job):
    """One architecture with one retrain seed. `identity` names trial and architecture; the seeds derive from it."""

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
        self.earlier: dict[int, Weights] = {}  # epoch -> weights; the epochs of `kept_epochs`
        self.optimiser = torch.optim.SGD(
            self.parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, foreach=True
        )

    def result(self) -> nn.Module:
        """The network to measure: the trained one, or the moving average of its weights if `ema` is set."""
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
    """The epochs before the last whose weights are kept, so that evaluation measures them too (`best_of_last`)."""
    return range(recipe.epochs - recipe.best_of_last, recipe.epochs - 1)


class Average:
    """The exponential moving average of a network's weights and batch norm statistics; the first step is copied.

    torch's AveragedModel synchronises with the GPU at every step, and averages integers (counters, indices).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.steps = copy.deepcopy(network), decay, 0
        # nas.engine.placement sets `forward` on the instance, and the copied one would run the trained network.
        vars(self.network).pop("forward", None)

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
    """The learning rate of an epoch, from 0. A warm-up replaces the schedule's first values and delays none."""
    match recipe.schedule:
        case "cosine":
            planned = cosine(epoch, recipe.epochs, recipe.lr, recipe.lr_min)
        case "linear":
            planned = linear(epoch, recipe.epochs, recipe.lr)
        case "exponential":
            planned = exponential(epoch, recipe.lr)
        case "one_cycle":
            planned = one_cycle(epoch, recipe.epochs, recipe.warmup_epochs, recipe.lr, recipe.lr_min)
    return warmed(epoch, recipe.warmup_epochs, recipe.lr, planned)


def measure(network: nn.Module, batches: Iterable[Batch]) -> tuple[float, float]:
    """(loss in nats, accuracy in percent) of a network in evaluation mode."""
    network.eval()
    return judge(lambda images: network(images)[0], batches, Classification()).means()


def weights_of(network: nn.Module) -> Weights:
    """A copy on the CPU of the weights that evaluation needs: all but the auxiliary head's."""
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith("auxiliary.")}
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in kept.items()}


def description(architecture: Mapping[str, Any], size: Size, spec: DataSpec) -> dict[str, Any]:
    """What is needed, in addition to its weights, to build a network again. `architecture`: as in its record."""
    return {
        "architecture": architecture,
        "size": {key: getattr(size, key) for key in Size.model_fields},
        "data": spec.to_dict(),
    }


def save_weights(weights: Weights, path: Path, about: Mapping[str, Any]) -> None:
    """Write safetensors with their description. Equal weights give equal bytes: the metadata has only one entry."""
    from safetensors.torch import save_file

    with replacing(path) as new:
        save_file(weights, new, {DESCRIPTION: canonical(about)})


def weights_file(name: str, seed: int, epoch: int | None = None) -> str:
    """The file name of the weights after `epoch`; without `epoch`, after the last one."""
    return f"{name}-{seed}.safetensors" if epoch is None else f"{name}-{seed}.epoch-{epoch}.safetensors"


def load_weights(network: nn.Module, path: Path) -> None:
    from safetensors.torch import load_file

    weights: Weights = load_file(path)
    network.load_state_dict(weights)
