"""A search as a job: a method and its two halves of the training data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nas.collapse import collapsed, parameterless
from nas.config.params import Config
from nas.contracts import ImageForm
from nas.data.dataset import Batch, Stream, load_split
from nas.data.spec import DataSpec
from nas.engine.tasks import Tally
from nas.methods import method_module
from nas.methods.shared.base import SearchMethod, Setting
from nas.registry import seed_name
from nas.spaces.registry import get_space
from nas.training.determinism import derived_seed, seed_everything
from nas.training.loop import Job, Row


def image_form(spec: DataSpec) -> ImageForm:
    return ImageForm(*spec.shape, classes=spec.classes)


class SearchJob(Job):
    """The method's epochs over the weight half; the architecture half runs beside it, restarted when exhausted."""

    def __init__(self, config: Config, method: str, seed: int, prepared: Path, device: torch.device) -> None:
        common, params = config.common, config.search[method]
        train = load_split(prepared, "search_train", device)
        valid = load_split(prepared, "search_valid", device)
        self.train = Stream(train, common.batch, common.augment, derived_seed("search", seed, "train"))
        self.valid = Stream(valid, common.batch, common.augment, derived_seed("search", seed, "valid"))
        self.plain = Stream(valid, 4 * common.batch, None, 0)
        self.name, self.device = f"search {method}-{seed}", device
        self.steps, self.images = self.train.steps, len(train)
        seed_everything("search", seed_name(method), seed)
        runtime = config.runtime
        self.space = get_space(params.space)
        form, precision = image_form(train.spec), runtime.precision
        setting = Setting(self.space, form, common, device, precision, self.steps, runtime.graphs)
        self.method: SearchMethod[Any] = method_module(method).Method.build(params, setting)
        self.epochs = self.method.epochs
        self.collapsed: dict[str, str] = {}  # as it was after the last epoch

    def start_epoch(self, epoch: int) -> None:
        self.method.start_epoch(epoch)

    def step(self, epoch: int, step: int) -> Tally:
        beside = divmod(epoch * self.steps + step, self.valid.steps)
        return self.method.step(self.train.batch(epoch, step), self.valid.batch(*beside))

    def end_epoch(self, epoch: int) -> Row:
        row = self.method.end_epoch(self._valid_pass)
        self.epochs = self.method.epochs  # which may stop early
        if (share := parameterless(row)) is not None:
            row["parameterless"] = share
        self.warn(epoch, collapsed(row))
        return row | self._incumbent()

    def warn(self, epoch: int, found: dict[str, str]) -> None:
        """Of a collapse, when it begins."""
        for kind in found.keys() - self.collapsed.keys():
            print(f"warning: collapse in epoch {epoch + 1}: {found[kind]}", flush=True)
        self.collapsed = found

    def _incumbent(self) -> Row:
        """`incumbent`, or `incumbent.<name>`: the cell that would be derived now, in a space with a benchmark table."""
        texts = {name: self.space.text(found) for name, found in self.method.incumbent().items()}
        return {"incumbent" + f".{name}" * (name != "main"): text for name, text in texts.items() if text is not None}

    def _valid_pass(self) -> Iterator[Batch]:
        return self.plain.epoch(0)

    def state_dict(self) -> dict[str, Any]:
        return self.method.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.method.load_state_dict(state)
        self.epochs = self.method.epochs
