"""A search that takes milliseconds a step, for every method: presets/digits.yaml with a tiny supernet."""

from functools import cache
from pathlib import Path
from typing import Any

import torch

from nas.complexity import Count
from nas.config import SearchCommon, Size, read_yaml
from nas.contracts import ImageForm
from nas.data.dataset import Batch
from nas.methods import METHODS, method_module, sections
from nas.methods.base import Setting
from nas.spaces.architecture import DartsArchitecture
from nas.spaces.darts import DartsSpace
from nas.spaces.registry import get_space

TREE = read_yaml(Path(__file__).parents[2] / "presets" / "digits.yaml")
PRESET, PRESET_DERIVE = TREE["search"], TREE["derive"]
FORM = ImageForm(1, 8, 8, 3)
STEPS = 2
# What shortens a method's search: its further ways are tested beside its first.
SHORT: dict[str, list[dict[str, Any]]] = {
    "random": [{"samples": 2}],
    "darts": [{"warmup_epochs": 1}, {"order": "second", "warmup_epochs": 0}],
    "eoinas": [{"inherit": False}, {"pruning": "one_shot", "order": "a_then_w"}, {}],
    "asng": [{"space": "darts", "step": "fixed", "eps": 0.1}, {}],
    "is-nas": [
        {"share": "none", "weight_sampling": "iid", "complexity": "rank", "utility": "quantile", "margin": "none"},
        {},
    ],
}
CASES = [(name, changes) for name in METHODS for changes in SHORT.get(name, [{}])]


SPACE = get_space("darts")


@cache
def supernet_macs(form: ImageForm, size: Size) -> int:
    return SPACE.supernet_macs(form, size)


@cache
def counted(architecture: DartsArchitecture, form: ImageForm, size: Size) -> Count:
    return SPACE.count(architecture, form, size)


class Remembering(DartsSpace):
    """The space, which counts a network once: counting takes longer than training it for a step.

    A supernet with some operations is taken to cost their share of all, unless `counts` says to count it.
    """

    counts = False

    def supernet_macs(self, form: ImageForm, size: Size, alive: Any = None) -> int:
        if alive is not None and self.counts:
            return super().supernet_macs(form, size, alive)
        full = supernet_macs(form, Size(cells=size.cells, channels=size.channels))
        return full if alive is None else full * sum(len(ops) for kind in alive for ops in alive[kind]) // (28 * 8)

    def count(self, architecture: Any, form: ImageForm, size: Size) -> Count:
        return counted(architecture, form, Size(cells=size.cells, channels=size.channels))


def common(**changes: Any) -> SearchCommon:
    small = {"epochs": 2, "batch": 4, "cells": 3, "channels": 2}
    return SearchCommon.model_validate({**PRESET["common"], **small, **changes})


def setting(space: str = "darts", **changes: Any) -> Setting:
    here = Remembering() if space == "darts" else get_space(space)
    return Setting(here, FORM, common(**changes), torch.device("cpu"), "float32", steps=STEPS)


def build(name: str, seed: int = 0, method: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A method at the start of its search, as SearchJob builds it."""
    params: Any = sections()[0][name].model_validate({**PRESET[name], **(method or {})})
    torch.manual_seed(seed)
    return method_module(name).Method(params, setting(params.space, **changes))


def batch(seed: int, count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, FORM.channels, FORM.height, FORM.width, generator=generator)
    return Batch(images.contiguous(memory_format=torch.channels_last), torch.arange(count) % FORM.classes)


def valid_pass() -> Any:
    return iter([batch(1000), batch(1001, count=3)])


def advance(method: Any, first: int, last: int) -> list[dict[str, Any]]:
    """Steps `first` to `last` (excluded), counted over all epochs, with the epochs' ends; the rows."""
    rows = []
    for count in range(first, last):
        epoch, step = divmod(count, STEPS)
        if step == 0:
            method.start_epoch(epoch)
        method.step(batch(2 * count), batch(2 * count + 1))
        if step == STEPS - 1:
            rows.append(method.end_epoch(valid_pass))
    return rows
