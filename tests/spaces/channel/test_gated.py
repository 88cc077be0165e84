"""Gated and compact cells: gate gradients, equality on real digits, sizes by the formulas."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy

from nas.architectures.cell_shape import DARTS_EDGES
from nas.architectures.channel_masks import Gates, every, live, uniform
from nas.architectures.channel_sizes import OPERATIONS, effective, nominal
from nas.complexity import count, parameters
from nas.config.params import Size
from nas.contracts import ImageForm
from nas.contracts.gates import GateMix
from nas.spaces.channel import grouped
from nas.spaces.channel.compact import CompactNetwork, compacted
from nas.spaces.channel.gated import Edge, GatedCell, GatedNetwork, gated_norm, wires
from nas.spaces.channel.space import ChannelSpace
from nas.spaces.channel.tables import to_gates, to_masks
from tests.spaces.channel_samples import legal

OPS = sorted(OPERATIONS)
FORM = ImageForm(1, 8, 8, 10)
DIGITS = torch.tensor(load_digits().images[:12, None] / 16 - 0.3, dtype=torch.float32)


def mix_of(masks, dtype=torch.float32, sparse=False):
    """The masks as gates; `sparse`: edges without an open channel do not run."""
    running = [[(g.op > 0, g.skip > 0) for g in cell] for cell in masks.cells] if sparse else None
    return GateMix([table.to(dtype) for table in to_gates(masks)], running)


def size_of(masks, stem="cifar"):
    return Size(cells=len(masks.cells), channels=masks.channels, stem=stem)


def masked_network(masks, form=FORM, stem="cifar"):
    """With affine batch norms of random scales and statistics, in evaluation mode."""
    torch.manual_seed(0)
    return shaken(GatedNetwork(form, size_of(masks, stem), masks.op, affine=True)).eval()


def shaken(network):
    """With random scales, shifts and statistics of its batch norms."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network


def assert_compact_is_masked(masks, form, images, stem="cifar"):
    network = masked_network(masks, form, stem)
    compact = compacted(network, masks, form, size_of(masks, stem))
    assert parameters(compact) == effective(masks, form, stem).params
    for training in (False, True):  # also with the statistics of the batch, which are separate for every channel
        expected = network.train(training)(images, mix_of(masks))
        assert expected.abs().max() > 0.1
        tolerance = {"atol": 1e-5 * expected.abs().max().item(), "rtol": 0}
        torch.testing.assert_close(compact.train(training)(images)[0], expected, **tolerance)
        torch.testing.assert_close(network(images, mix_of(masks, sparse=True)), expected, **tolerance)


@settings(max_examples=12, deadline=None)
@given(legal(), st.sampled_from([(8, 8), (7, 5)]))
def test_the_compact_network_is_the_masked_one_on_real_digits(masks, shape):
    height, width = shape  # odd maps too
    assert_compact_is_masked(masks, ImageForm(1, height, width, 10), DIGITS[..., :height, :width])


@settings(max_examples=4, deadline=None)
@given(legal(cells=6, channels=6))
def test_the_compact_network_is_the_masked_one_with_more_cells_and_channels(masks):
    assert_compact_is_masked(masks, FORM, DIGITS)


@settings(max_examples=4, deadline=None)
@given(legal(skip_mode="fallback"))
def test_the_compact_network_is_the_masked_one_with_fallback(masks):
    assert_compact_is_masked(masks, FORM, DIGITS)


@settings(max_examples=6, deadline=None)
@given(legal(), st.sampled_from([(32, 32), (37, 29)]))
def test_the_compact_network_is_the_masked_one_with_the_stem_of_imagenet(masks, shape):
    form = ImageForm(1, shape[0], shape[1], 10)
    assert_compact_is_masked(masks, form, F.interpolate(DIGITS, shape, mode="bilinear"), "imagenet")


@settings(max_examples=8, deadline=None)
@given(legal(cells=5, channels=4), st.sampled_from([(8, 8), (9, 6)]))
def test_the_formulas_count_the_compact_network(masks, shape):
    form = ImageForm(3, shape[0], shape[1], 10)
    found = count(lambda: CompactNetwork(masks, form, size_of(masks), auxiliary=False), form.shape)
    assert (found.params, found.macs) == effective(masks, form)


@settings(max_examples=5, deadline=None)
@given(legal(cells=5, channels=4))
def test_the_formulas_count_the_masked_network_without_deleted_edges(masks):
    size = Size(cells=5, channels=4, stem="cifar")
    mix = mix_of(masks, sparse=True)
    found = count(lambda: GatedNetwork(FORM, size, masks.op, affine=True), FORM.shape, mix)
    deleted = nominal(uniform(masks.op, 5, 4), FORM).params - nominal(masks, FORM).params
    without = {k: sum(not runs for runs, _ in cell) for k, cell in enumerate(mix.running or [])}
    edges = sum(
        n * sum(OPERATIONS[masks.op].sizes(w, w, w)) for n, w in zip(without.values(), masks.widths, strict=True)
    )
    read = [[bool(u) for u in live(cell, width)[:2]] for cell, width in masks.each()]
    if all(map(all, read)):  # else an input that nothing reads is not counted
        assert deleted == edges
        assert found.macs == nominal(masks, FORM).macs


# --- Gradients of gates


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("reduce", [False, True])
def test_the_gradient_of_a_gate_is_the_sum_of_gradient_times_map(op, reduce):
    torch.manual_seed(0)
    cell: Any = GatedCell(OPERATIONS[op], 6, 6, 4, halve=False, reduce=reduce, affine=False).double()
    before, last = torch.randn(2, 3, 6, 8, 8, dtype=torch.float64)
    gates = torch.rand(14, 3, 4, dtype=torch.float64).requires_grad_()
    weights = torch.randn(3, 16, 8 // (1 + reduce), 8 // (1 + reduce), dtype=torch.float64)
    (cell(before, last, gates, None) * weights).sum().backward()

    seen: dict[tuple[int, int], tuple[Any, Any]] = {}  # (edge, kind) -> the map before its gate, and behind it

    def gate(place, z):
        gated = z * gates.detach()[place][:, None, None]
        gated.retain_grad()
        seen[place] = z.detach(), gated
        return gated

    states = [cell.input_0(before), cell.input_1(last)]
    skips = wires(states, reduce)
    for node in range(2, 6):
        parts = []
        for e, pred in [(e, pred) for e, (j, pred) in enumerate(DARTS_EDGES) if j == node]:
            y = cell.edges[e].first(states[pred])
            if OPERATIONS[op].double:
                y = cell.edges[e].second(gate((e, 1), y))
            parts += [gate((e, 0), y), gate((e, 2), skips[pred])]
        states.append(sum(parts))
        skips.append(states[-1])
    (torch.cat(states[2:], 1) * weights).sum().backward()
    expected = torch.zeros_like(gates)
    for place, (z, gated) in seen.items():
        expected[place] = (gated.grad * z).sum((0, 2, 3))
    assert len(seen) == 14 * (2 + OPERATIONS[op].double)
    assert expected[:, [0, 2]].abs().min() > 0
    torch.testing.assert_close(gates.grad, expected, atol=1e-6, rtol=0)


def test_a_gate_per_image_gives_the_gradients_of_each_image():
    torch.manual_seed(0)
    network = GatedNetwork(FORM, Size(cells=3, channels=2, stem="cifar"), "sep_conv_3x3", affine=False)
    labels, count_ = torch.arange(12) % 10, len(DIGITS)
    shared = [torch.ones(14, 3, w).requires_grad_() for w in (2, 4, 8)]
    cross_entropy(network(DIGITS, GateMix(shared)), labels).backward()
    each: list[Any] = [torch.ones(count_, 14, 3, w).requires_grad_() for w in (2, 4, 8)]
    cross_entropy(network(DIGITS, GateMix(each)), labels).backward()
    for one, many in zip(shared, each, strict=True):
        torch.testing.assert_close(many.grad.sum(0), one.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_gated_norm_is_the_norm_times_the_gate(affine, training):
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(3, affine=affine, track_running_stats=affine).train(training)
    if affine:
        nn.init.normal_(bn.weight)
        nn.init.normal_(bn.bias)
    x, gate = torch.randn(4, 3, 5, 5), torch.tensor([1.0, 0.0, 0.7])
    found = gated_norm(bn, x, gate)
    moved = None if bn.running_mean is None else bn.running_mean.clone()
    if bn.running_mean is not None and bn.running_var is not None:
        bn.running_mean.zero_()
        bn.running_var.fill_(1)
    torch.testing.assert_close(found, bn(x) * gate[:, None, None], atol=1e-6, rtol=1e-5)
    if moved is not None:
        torch.testing.assert_close(moved, bn.running_mean)


# --- What a closed gate leaves without a reader


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("affine", [False, True])
def test_the_parts_of_weights_are_those_that_a_gradient_reaches(op, affine):
    torch.manual_seed(0)
    masks = uniform(op, 3, 4, lambda w: Gates(0b0110, 0b0011 if OPERATIONS[op].double else every(w), every(w)))
    network = GatedNetwork(FORM, Size(cells=3, channels=4, stem="cifar"), op, affine)
    network(DIGITS, mix_of(masks)).square().sum().backward()
    found = list(network.parts(to_gates(masks)))
    assert len({id(weight) for weight, _ in found}) == len(found)
    for weight, part in found:
        part = part.expand_as(weight)
        assert weight.grad is not None
        assert (weight.grad[~part] == 0).all()
        assert weight.grad[part].abs().max() > 0
    gated = {id(weight) for weight, _ in found}
    others = {name for name, p in network.named_parameters() if id(p) not in gated}
    # shared by all channels behind them: the first depthwise kernels, and what is not gated at all
    assert all(".first.depthwise." in n or "input_" in n or n.startswith(("stem", "classifier")) for n in others)


def test_an_edge_that_does_not_run_gets_no_gradient():
    network = GatedNetwork(FORM, Size(cells=3, channels=2, stem="cifar"), "sep_conv_3x3", affine=False)
    masks = uniform("sep_conv_3x3", 3, 2, lambda w: Gates(0, 0, every(w)))
    network(DIGITS, mix_of(masks, sparse=True)).sum().backward()
    assert all(p.grad is None for n, p in network.named_parameters() if ".edges." in n)
    assert all(p.grad is not None for n, p in network.named_parameters() if ".edges." not in n)


# --- The compact network in training


@settings(max_examples=5, deadline=None)
@given(legal(cells=5, channels=4), st.booleans())
def test_maps_stay_in_channels_last(masks, training):
    """In another layout all following kernels would be slow."""
    network: Any = CompactNetwork(masks, FORM, size_of(masks), auxiliary=False).to(memory_format=torch.channels_last)
    seen: list[Any] = []
    for cell in network.cells:
        cell.register_forward_hook(lambda _, given, found: seen.extend([*given[:2], found]))
        for part in [*cell.edges.values(), *cell.places.values(), *cell.skips.values()]:
            part.register_forward_hook(lambda _, given, found: seen.append(found))
    watched = {name: getattr(grouped, name) for name in ("of_one_input", "of_own_inputs", "batch_norm")}

    def watching(name):
        def run(x, *rest):
            seen.append(x)
            return watched[name](x, *rest)

        return run

    with patch.multiple(grouped, **{name: watching(name) for name in watched}):
        network.train(training)(DIGITS.contiguous(memory_format=torch.channels_last))
    assert len(seen) >= 5 * 3
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


def test_drop_path_acts_only_on_operations():
    torch.manual_seed(0)
    wired = uniform("sep_conv_3x3", 3, 2, lambda w: Gates(0, 0, every(w)))
    for masks, moved in ((wired, False), (uniform("sep_conv_3x3", 3, 2), True)):
        network = CompactNetwork(masks, FORM, size_of(masks), auxiliary=False).train()
        plain = network(DIGITS)[0]
        network.drop_path = 0.5
        assert torch.equal(network(DIGITS)[0], plain) != moved
        network.eval()
        assert torch.equal(network(DIGITS)[0], network(DIGITS)[0])


@settings(max_examples=5, deadline=None)
@given(legal(cells=5, channels=4))
def test_the_auxiliary_head_reads_dead_channels_as_zeros(masks):
    network: Any = CompactNetwork(masks, FORM, size_of(masks), auxiliary=True).train()
    seen: list[Any] = []
    network.auxiliary.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits, auxiliary = network(DIGITS)
    assert logits.shape == auxiliary.shape == (12, 10)
    alive = live(masks.cells[3], 16)[2:]
    assert seen[0].shape[1] == 64
    dead = torch.tensor([not alive[node] >> c & 1 for node in range(4) for c in range(16)])
    assert (seen[0][:, dead] == 0).all()
    assert (seen[0][:, ~dead].abs().amax((0, 2, 3)) > 0).any()
    assert network.eval()(DIGITS)[1] is None
    assert not any(name.startswith("concatenated") for name in network.state_dict())


def test_the_edges_of_the_notes_have_their_parameters():
    def size(op, u, m, s):
        return parameters(Edge(OPERATIONS[op], u, m, s, stride=1, affine=True))

    sep = "sep_conv_3x3"
    assert (size("dil_conv_3x3", 3, 0, 2), size(sep, 3, 4, 2), size(sep, 3, 2, 2), size(sep, 36, 36, 36)) == (
        37, 95, 63, 3384,
    )  # fmt: skip


# --- Sets and tables


@given(legal(cells=4, channels=10))
def test_masks_go_to_tables_and_back(masks):
    tables = to_gates(masks)
    assert [tuple(table.shape) for table in tables] == [(14, 3, width) for width in masks.widths]
    assert tables[1][4, 2].tolist() == [bool(masks.cells[1][4].skip >> c & 1) for c in range(masks.widths[1])]
    assert to_masks(tables, masks.op) == masks


def test_the_supernet_has_the_size_of_all_gates_open():
    space, form, size = ChannelSpace(), ImageForm(3, 32, 32, 10), Size(cells=5, channels=4, stem="cifar")
    whole = effective(uniform("sep_conv_3x3", 5, 4), form)
    with torch.device("meta"):
        assert parameters(space.supernet(form, size, affine=True)) == whole.params == 38_854
    mix = GateMix([torch.ones(14, 3, w) for w in (4, 8, 8, 16, 16)])
    assert count(lambda: space.supernet(form, size, reference=True), form.shape, mix).macs == whole.macs
    assert space.supernet_macs(form, size) == whole.macs
