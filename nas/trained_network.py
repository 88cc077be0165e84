"""Using a retrained network elsewhere: from a weights file to a module that maps pixels to logits.

The file describes the architecture, size and data of its network, so nothing else is needed to load it.
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

EXPECTED = "runs/<key>/weights/<architecture>-<seed>.safetensors"


class Classifier(nn.Module):
    """A network, preceded by the normalisation that it was trained with, in evaluation mode.

    forward(images) -> logits [B, classes]. Images are float32 [B, C, H, W] from 0 to 1; [C, H, W] is `spec.shape`.
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
        """Raises ValueError for images of another shape or of an integer type."""
        if images.shape[1:] != self.spec.shape or not images.is_floating_point():
            raise ValueError(
                f"images are {images.dtype} {list(images.shape)}, expected floats from 0 to 1, [B, "
                f"{', '.join(map(str, self.spec.shape))}]"
            )
        logits: Tensor = self.network((images - self.mean) / self.std)[0]
        return logits


def load_network(path: Path | str) -> Classifier:
    """Load a network from the file that `retrain` wrote, `runs/<key>/weights/<architecture>-<seed>.safetensors`.

    Raises:
        RecordError: the file does not exist, or was not written by `retrain`.
    """
    path = Path(path)
    about = described(path)
    try:
        space, spec = get_space(about["architecture"]["space"]), DataSpec.from_dict(about["data"])
        size = Size.model_validate(about["size"])
        network = space.network(space.parse(about["architecture"]), spec.form, size, auxiliary=False)
        load_weights(network, path)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RecordError(f"{path}: this version cannot build the network of these weights ({error})") from None
    return Classifier(network.to(memory_format=torch.channels_last), spec)


def described(path: Path) -> Mapping[str, Any]:
    """The description in a weights file: `architecture`, `size` and `data`, as in the records of a run."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise RecordError(f"{path}: no such file; expected {EXPECTED}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise RecordError(f"{path}: not a readable file of weights ({error}); expected {EXPECTED}") from None
    if DESCRIPTION not in metadata:
        raise RecordError(f"{path}: no description of a network in its metadata; expected a file that retrain wrote")
    try:
        about: Mapping[str, Any] = json.loads(metadata[DESCRIPTION])
    except ValueError as error:
        raise RecordError(f"{path}: the description of its network is not JSON ({error})") from None
    return about


def export(network: Classifier, path: Path) -> None:
    """Write a torch.export program (.pt2) for any batch size; `torch.export.load(path).module()` needs only torch."""
    channels, height, width = network.spec.shape
    example = torch.zeros(2, channels, height, width)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    with replacing(path) as new, new.open("wb") as file:  # given a path, torch.export would record its temporary name
        torch.export.save(program, file)
