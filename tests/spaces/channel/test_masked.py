"""The masked network of a retraining: the same function and the same training as the compact one."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn.functional import cross_entropy

from nas.architectures.channel_masks import Gates, Masks, every, uniform
from nas.spaces.channel.compact import CompactNetwork
from nas.spaces.channel.masked import MaskedNetwork
from tests.spaces.channel.test_gated import DIGITS, FORM, shaken, size_of
from tests.spaces.channel_samples import legal

SEP, LABELS = "sep_conv_3x3", torch.arange(12) % 10


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def masked_of(masks, stem="cifar", auxiliary=False) -> Any:
    torch.manual_seed(0)
    return shaken(MaskedNetwork(masks, FORM, size_of(masks, stem), auxiliary))


def with_the_weights_of(masked) -> Any:
    """A compact network in training with an auxiliary head and the weights of the masked one."""
    compact = CompactNetwork(masked.masks, FORM, masked.size, auxiliary=True)
    head = {name: value for name, value in masked.state_dict().items() if name.startswith("auxiliary.")}
    compact.load_state_dict({**masked.compact().state_dict(), **head})
    return compact


def descend(network, steps, images=DIGITS, weight_decay=3e-4):
    """SGD steps of a retraining, with drop path and auxiliary loss; the losses."""
    network.train().drop_path = 0.3
    optimiser = torch.optim.SGD(network.parameters(), 0.05, 0.9, weight_decay=weight_decay, foreach=True)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)  # drop path draws
        logits, auxiliary = network(images.to(network.auxiliary.classifier.weight.dtype))
        loss = cross_entropy(logits, LABELS) + 0.4 * cross_entropy(auxiliary, LABELS)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


@settings(max_examples=8, deadline=None)
@given(legal())
def test_the_masked_network_is_the_compact_one_that_it_becomes(masks):
    masked = masked_of(masks).eval()
    compact = masked.compact().eval()
    expected, auxiliary = masked(DIGITS)
    assert auxiliary is None
    scale = expected.abs().max().item()
    assert scale > 0.1
    torch.testing.assert_close(compact(DIGITS)[0], expected, atol=1e-5 * scale, rtol=0)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("op", [SEP, "conv_3x3"])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_masked_and_compact_networks_train_alike_from_equal_weights(op, stem):
    """With clipping, decay, momentum, drop path and the auxiliary head, in float64."""
    thirds = Gates(0b0101, 0b0011 if op == SEP else 0b1111, 0b0110)
    cells = list(uniform(op, 4, 4, lambda w: thirds if w == 4 else Gates(every(w // 2), every(w), every(w))).cells)
    cells[2] = (Gates(0, 0, 1), *cells[2][1:])  # a deleted edge
    masked = masked_of(Masks(op, 4, tuple(cells)), stem, auxiliary=True)
    compact = with_the_weights_of(masked)
    images = nn.functional.interpolate(DIGITS, scale_factor=1 if stem == "cifar" else 4)
    before = compact.classifier.weight.detach().clone()
    assert descend(masked, 4, images) == pytest.approx(descend(compact, 4, images), rel=1e-9)
    assert not torch.allclose(compact.classifier.weight, before)
    wanted = compact.state_dict()
    for name, value in masked.compact().state_dict().items():
        torch.testing.assert_close(value, wanted[name], atol=1e-9, rtol=1e-7)


def test_drop_path_does_not_drop_skips():
    wired = uniform(SEP, 3, 2, lambda w: Gates(0, 0, every(w)))
    for masks, moved in ((wired, False), (uniform(SEP, 3, 2), True)):
        network = masked_of(masks).train()
        plain = network(DIGITS)[0]
        network.drop_path = 0.5
        assert torch.equal(network(DIGITS)[0], plain) != moved


@settings(max_examples=5, deadline=None)
@given(legal())
def test_masked_weights_have_no_gradient_and_do_not_affect_the_output(masks):
    """Whatever values the masked weights have."""
    network = masked_of(masks)
    network(DIGITS)[0].square().sum().backward()
    network.eval()
    expected = network(DIGITS)[0]
    parts = list(network.gated.parts([network.get_buffer(f"gates_{k}").bool() for k in range(3)]))
    for weight, part in parts:
        if weight.grad is not None:  # else its edge is deleted
            assert (weight.grad[~part.expand_as(weight)] == 0).all()
    with torch.no_grad():
        for weight, part in parts:
            weight += 100 * torch.randn(weight.shape) * ~part
    assert torch.equal(network(DIGITS)[0], expected)


def test_only_weight_decay_changes_masked_weights():
    network = masked_of(uniform(SEP, 3, 2, lambda w: Gates(1, 1, every(w))), auxiliary=True)
    weight = network.gated.cells[0].edges[3].second.convolution.weight
    before = weight.detach().clone()
    descend(network, 1, weight_decay=0.1)
    torch.testing.assert_close(weight[1], before[1] * (1 - 0.05 * 0.1))
    assert not torch.allclose(weight[0, 0], before[0, 0] * (1 - 0.05 * 0.1))


def test_a_deleted_edge_is_neither_computed_nor_trained():
    cell = (Gates(0, 0, 3), *((Gates(3, 3, 3),) * 13))
    masks = Masks(SEP, 2, (cell, *uniform(SEP, 3, 2).cells[1:]))
    network = masked_of(masks, auxiliary=True)
    edge = network.gated.cells[0].edges[0]
    before = [p.detach().clone() for p in edge.parameters()]
    edge.register_forward_hook(lambda *_: pytest.fail("computed"))
    descend(network, 2)
    assert all(map(torch.equal, edge.parameters(), before))


def test_gates_are_constants_outside_of_checkpoints():
    network = masked_of(uniform(SEP, 3, 2))
    assert not any("gates" in name for name in network.state_dict())
    assert not any(gates.requires_grad for gates in network.buffers() if gates.dim() == 3)
