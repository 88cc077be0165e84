"""What every method must do. A new method is tested by being in METHODS and in presets/digits.yaml."""

import io
import json
import math
from typing import get_args

import pytest
import torch

from nas.architectures.base import Architecture
from nas.config.sections import Section
from nas.methods import method_module, sections
from nas.methods.shared.base import Derived, SearchMethod
from nas.records import canonical
from nas.registry import METHODS
from nas.spaces.registry import get_space
from tests.methods.settings import CASES, PRESET_DERIVE, STEPS, advance, build

EVERY = pytest.mark.parametrize(("name", "changes"), CASES, ids=str)


def test_the_sections_of_every_method_are_frozen_and_whole():
    for models in sections():
        assert list(models) == list(METHODS)
        assert all(issubclass(model, Section) for model in models.values())
        assert all(field.is_required() for model in models.values() for field in model.model_fields.values())


def test_an_unknown_method_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match=f"method 'dart' is not built in; built in: {', '.join(METHODS)}"):
        method_module("dart")


def saved(state):
    """The state after its way through a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_equal(found, expected, where=""):
    """The same types, keys and bits."""
    assert type(found) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_equal(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_equal(found[index], value, f"{where}.{index}")
    else:
        assert found == expected, where


RESUMED = list({(name, changes.get("space")): (name, changes) for name, changes in CASES}.values())


@pytest.mark.parametrize(("name", "changes"), RESUMED, ids=str)
def test_a_search_that_goes_on_elsewhere_ends_with_the_same_bits(name, changes):
    undisturbed, rows, kept = build(name, method=changes), [], {}
    first = STEPS * (
        undisturbed.contest.epochs_each - 1 if name == "random" else 0
    )  # so that the second epoch begins anew
    for step in range(first, first + 2 * STEPS):
        rows += advance(undisturbed, step, step + 1)
        if step - first in (0, STEPS):
            kept[step - first] = saved(undisturbed.state_dict()), torch.get_rng_state()
    elsewhere = build(name, seed=99, method=changes)
    for step in (STEPS, 0):  # in the second epoch, in the first
        elsewhere.load_state_dict(kept[step][0])
        assert_equal(elsewhere.state_dict(), kept[step][0])
    torch.set_rng_state(kept[0][1])
    assert_equal(advance(elsewhere, first + 1, first + 2 * STEPS), rows)
    last = undisturbed.state_dict()
    assert_equal(elsewhere.state_dict(), last)
    with pytest.raises(AssertionError):
        assert_equal(last, kept[STEPS][0])


@EVERY
def test_a_whole_search_leaves_a_record_that_derive_reads(name, changes):
    method = build(name, method=changes, epochs=1 + changes.get("warmup_epochs", 0))
    assert isinstance(method, SearchMethod)
    rows = advance(method, 0, method.epochs * STEPS)
    assert len(rows) == method.epochs
    assert all(isinstance(v, int | float) and math.isfinite(v) for row in rows for v in row.values())
    assert {"lr", "valid_loss", "valid_acc"} <= set(rows[-1])
    state = method.search_state()
    text = canonical(state)  # refuses NaN
    assert json.loads(text) == state
    assert method.macs() > 0
    assert method.passes["train_images"] >= 4 * STEPS * method.epochs

    space, model = get_space(method.params.space), sections()[1][name]
    rules = get_args(model.model_fields["rule"].annotation)
    for rule in rules:
        others = PRESET_DERIVE[name] | {"rule": rule}
        found = method_module(name).derive(json.loads(text), model.model_validate(others), space)
        assert found
        assert len({d.name for d in found}) == len(found)
        for derived in found:
            assert isinstance(derived, Derived)
            assert Architecture.from_dict(derived.architecture.to_dict()).id == derived.architecture.id
            canonical(derived.notes)
