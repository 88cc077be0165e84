"""A retrained network to use elsewhere: one file of weights -> a module that takes pixels and gives logits.

The file says itself which architecture, size and data its weights belong to, so it can be carried off alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.config.params import Size
from nas.data.spec import DataSpec
from nas.records import RecordError, replacing
from nas.spaces.registry import get_space
from nas.training.retrain import DESCRIPTION, load_weights
from nas.training.search import image_form

EXPECTED = "runs/<key>/weights/<architecture>-<seed>.safetensors"


class Classifier(nn.Module):
    """A found network behind the normalisation that it was trained with, in evaluation mode.

    forward(images) -> logits [B, classes]; images are float32 [B, C, H, W] from 0 to 1, of `spec.shape`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, spec: DataSpec) -> None:
        super().__init__()
        self.network, self.spec = network, spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(-1, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Raises ValueError for images of another shape, or of whole numbers."""
        if images.shape[1:] != self.spec.shape or not images.is_floating_point():
            raise ValueError(
                f"images are {images.dtype} {list(images.shape)}, expected floats from 0 to 1, [B, "
                f"{', '.join(map(str, self.spec.shape))}]"
            )
        logits: Tensor = self.network((images - self.mean) / self.std)[0]
        return logits


def load_network(path: Path | str) -> Classifier:
    """The network of a file that `retrain` wrote, `runs/<key>/weights/<architecture>-<seed>.safetensors`.

    Raises:
        RecordError: there is no such file, or it is none of these.
    """
    path = Path(path)
    about = described(path)
    try:
        space, spec = get_space(about["architecture"]["space"]), DataSpec.from_dict(about["data"])
        size = Size.model_validate(about["size"])
        network = space.network(space.parse(about["architecture"]), image_form(spec), size, auxiliary=False)
        load_weights(network, path)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RecordError(f"{path}: not weights that this version can build a network for ({error})") from None
    return Classifier(network.to(memory_format=torch.channels_last), spec)


def described(path: Path) -> Mapping[str, Any]:
    """What the file says of its weights: `architecture`, `size` and `data`, as in the records of a run."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise RecordError(f"{path}: no such file; expected {EXPECTED}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise RecordError(f"{path}: not a readable file of weights ({error}); expected {EXPECTED}") from None
    if DESCRIPTION not in metadata:
        raise RecordError(f"{path}: does not say which network its weights are of; expected a file that retrain wrote")
    try:
        about: Mapping[str, Any] = json.loads(metadata[DESCRIPTION])
    except ValueError as error:
        raise RecordError(f"{path}: what it says of its network is no JSON ({error})") from None
    return about


def export(network: Classifier, path: Path) -> None:
    """As a program of torch.export (.pt2), for any batch: `torch.export.load(path).module()` needs torch alone."""
    channels, height, width = network.spec.shape
    example = torch.zeros(2, channels, height, width)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    with replacing(path) as beside, beside.open("wb") as file:  # by its name it would call itself after `beside`
        torch.export.save(program, file)
