"""A search that takes milliseconds a step, for every method: presets/digits.yaml with a tiny supernet."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.config.params import SearchCommon
from nas.config.yaml_file import read_yaml
from nas.contracts import ImageForm, SoftMix
from nas.data.dataset import Batch
from nas.methods import method_module, sections
from nas.methods.shared.base import Setting
from nas.registry import METHODS
from nas.spaces.registry import get_space

TREE = read_yaml(Path(__file__).parents[2] / "presets" / "digits.yaml")
PRESET, PRESET_DERIVE = TREE["search"], TREE["derive"]
FORM = ImageForm(1, 8, 8, 3)
CPU = torch.device("cpu")
STEPS = 2
WINDOW = {
    "warmup": 0,
    "prune_epochs": 2,
    "settle": 0,
    "budget": {"kind": "params", "value": 2500},
}  # prunes in every epoch
TABLED = {"space": "nasbench201"}
STAGED = {"space": "nasbench201_layered"}
# Parameters that shorten a method's search, one search for each way that should be tested.
SHORT: dict[str, list[dict[str, Any]]] = {
    "random": [{"samples": 2, **TABLED}, {"samples": 2, **STAGED}, {"samples": 2}],
    "darts": [
        {"warmup_epochs": 1},
        {"order": "first", **TABLED},
        {"order": "second", **TABLED},
        {"order": "second", "early_stop": "eigenvalue"},
        {"early_stop": "skips", "stop_skips": 3, "skip_dropout": 0.2},
    ],
    "gdas": [TABLED, {}],
    "lfr_darts": [
        {"future": "trainable", "order": "unrolled", "n_grow": 1, "epochs_each": 2},
        {"joint_reduction": False, "future": "absent", "epochs_each": 1, "warmup": 0, "inherit": True},
        {"epochs_each": 4, "prune": "progressive", "max_skips": 1, "skip_dropout": 0.1, "inherit": True},
        {**STAGED, "epochs_each": 2},
    ],
    "eoinas": [
        {"inherit": False},
        {"pruning": "one_shot", "order": "a_then_w"},
        {"protocol": "best_of_k", "k": 2, "k_epochs": 1},
        TABLED,
        {},
    ],
    "tenas": [
        {**WINDOW, "skip_mode": "fallback", "score_split": "valid"},
        {
            **WINDOW,
            "score": "abs2017",
            "op": "conv_3x3",
            "budget": {"kind": "gates", "value": 0.5},
            "schedule": "constant_gates",
        },
        {**WINDOW, "score": "bn_gamma", "skip_mode": "none", "cost_weight": True},
        {**WINDOW, "score": "random"},
        {**WINDOW, "score_ema": 0.9},
    ],
    "asng": [
        {"space": "darts", "step": "fixed", "eps": [0.1]},
        {"space": "darts", "warmup_epochs": 1, "mixture_epochs": 1},
        TABLED,
        {"eps": [0.0, 0.3]},
        {},
    ],
    "is_nas": [
        {"share": "none", "weight_sampling": "iid", "complexity": "rank", "utility": "quantile", "margin": "none"},
        TABLED,
        {},
    ],
}
SEARCHED = [name for name in METHODS if name != "given"]  # `given` has no epochs
CASES = [(name, changes) for name in SEARCHED for changes in SHORT.get(name, [{}])]


def common(**changes: Any) -> SearchCommon:
    small = {"epochs": 2, "batch": 4, "cells": 3, "channels": 2}
    return SearchCommon.model_validate({**PRESET["common"], **small, **changes})


def setting(
    space: str = "darts", form: ImageForm = FORM, device: torch.device = CPU, graphs: bool = False, **changes: Any
) -> Setting:
    if space.startswith("nasbench201"):
        changes = {"cells": 5, **changes}  # its smallest
    return Setting(get_space(space), form, common(**changes), device, "float32", STEPS, graphs)


def build(name: str, seed: int = 0, method: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A method at the start of its search, as SearchJob builds it."""
    params: Any = sections()[0][name].model_validate({**PRESET[name], **(method or {})})
    torch.manual_seed(seed)
    return method_module(name).Method.build(params, setting(params.space, **changes))


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


def in_double_precision(supernet: Any) -> None:
    """Run the supernet in float64, whatever the dtype of images and weights."""
    forward = supernet.double().forward

    def run(images: Any, mix: Any) -> Any:
        weights = {kind: values.double() for kind, values in mix.weights.items()}
        return forward(images.double(), SoftMix(weights, mix.alive, mix.skip_dropout))

    supernet.forward = run


@contextmanager
def in_double(monkeypatch: pytest.MonkeyPatch, method: Any, reference: bool) -> Iterator[None]:
    """Within it, LFR-DARTS runs its supernets in float64, by the plain engine or by the batched one."""
    begin = method.begin

    def begin_in_double(self: Any, iteration: int = 0) -> None:
        begin(self, iteration)
        in_double_precision(self.supernet)
        for cell in self.supernet.cells:
            cell.reference = reference

    with monkeypatch.context() as patch:
        patch.setattr(method, "begin", begin_in_double)
        yield
