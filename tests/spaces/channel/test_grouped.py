"""Edges computed in groups against the same edges one by one: equal up to rounding, in float64."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from nas.architectures.channel_masks import Gates, Masks, every, uniform
from nas.contracts import ImageForm
from nas.contracts.gates import GateMix
from nas.spaces.channel import grouped
from nas.spaces.channel.compact import CompactNetwork
from nas.spaces.channel.gated import GatedNetwork
from nas.spaces.channel.tables import to_gates
from tests.spaces.channel.test_gated import DIGITS, OPS, shaken, size_of
from tests.spaces.channel_samples import legal

FORMS = {"in groups": grouped.SMALL, "one by one": 0}


def each_form(run) -> tuple[list[Any], list[Any]]:
    """What `run` gives when all edges are computed in groups, and when all are computed one by one."""
    found = []
    for small in FORMS.values():
        with patch.object(grouped, "SMALL", small):
            torch.manual_seed(0)
            found.append(run())
    return found[0], found[1]


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        if a is None or b is None:
            assert a is b
        else:
            torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def retrained(masks, stem, images):
    """Logits, gradients and statistics of two passes with drop path in a new network, auxiliary head included."""
    form = ImageForm(1, images.shape[-2], images.shape[-1], 10)
    network: Any = shaken(CompactNetwork(masks, form, size_of(masks, stem), auxiliary=True)).double().train()
    network.to(memory_format=torch.channels_last).drop_path = 0.3
    for _ in range(2):
        logits, auxiliary = network(images)
    (logits.square().sum() + auxiliary.square().sum()).backward()
    return [logits, auxiliary, *(p.grad for p in network.parameters()), *network.state_dict().values()]


@settings(max_examples=15, deadline=None)
@given(legal(cells=4, channels=4), st.sampled_from([("cifar", (8, 8)), ("cifar", (7, 5)), ("imagenet", (37, 29))]))
def test_a_compact_network_trains_alike_in_groups_and_one_by_one(masks, place):
    stem, shape = place
    images = F.interpolate(DIGITS, shape, mode="bilinear").double().contiguous(memory_format=torch.channels_last)
    assert_equal(*each_form(lambda: retrained(masks, stem, images)))


@pytest.mark.parametrize("op", OPS)
def test_groups_draw_the_drop_path_of_single_edges_on_maps_of_one_pixel(op):
    masks = uniform(op, 4, 2, lambda w: Gates(1, 1 if "sep" in op else every(w), every(w)))
    assert_equal(*each_form(lambda: retrained(masks, "cifar", DIGITS[..., :4, :4].double())))


def searched(masks: Masks, sparse: bool, training: bool):
    """Logits and gradients of weights and gates; of gates between 0 and 1, zero where the masks are closed."""
    tables = [table * torch.rand(table.shape, dtype=torch.float64) for table in to_gates(masks)]
    gates = [table.requires_grad_() for table in tables]
    running = [[(g.op > 0, g.skip > 0) for g in cell] for cell in masks.cells] if sparse else None
    network = GatedNetwork(ImageForm(1, 8, 8, 10), size_of(masks), masks.op, affine=False).double().train(training)
    logits = network.to(memory_format=torch.channels_last)(DIGITS.double(), GateMix(gates, running))
    logits.square().sum().backward()
    return [logits, *(p.grad for p in network.parameters()), *(gate.grad for gate in gates)]


@settings(max_examples=12, deadline=None)
@given(legal(cells=4, channels=4), st.booleans(), st.booleans())
def test_a_search_passes_alike_in_groups_and_one_by_one(masks, sparse, training):
    assert_equal(*each_form(lambda: searched(masks, sparse, training)))


def test_large_maps_are_computed_one_by_one():
    masks = uniform("sep_conv_3x3", 3, 2)
    cell: Any = CompactNetwork(masks, ImageForm(1, 8, 8, 10), size_of(masks), auxiliary=False).cells[0]
    states = torch.randn(2, 12, 6, 8, 8)
    for limit, form in ((12 * 64 * 4, "in_groups"), (12 * 64 * 4 - 1, "one_by_one")):
        with patch.object(grouped, "SMALL", limit), patch.object(cell, form, lambda *_: "called"):
            assert cell(*states, 0.0) == "called"


def test_groups_leave_no_trace_in_what_is_saved():
    masks = uniform("sep_conv_3x3", 3, 2)
    network = CompactNetwork(masks, ImageForm(1, 8, 8, 10), size_of(masks), auxiliary=False)
    assert not any("groups" in name for name in network.state_dict())
    assert not any("groups" in name for name, _ in network.named_parameters())


def test_groups_run_under_autocast():
    masks = uniform("sep_conv_3x3", 3, 2)
    network: Any = CompactNetwork(masks, ImageForm(1, 8, 8, 10), size_of(masks), auxiliary=False)
    network.drop_path = 0.1
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(DIGITS)[0]
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
