"""Supernets and networks. The batched supernet must give the same sums as the reference."""

import re
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from nas.architectures.cell_shape import DARTS_EDGES, reductions
from nas.architectures.darts import PRIMITIVES, DartsArchitecture
from nas.architectures.genotypes import GENOTYPES
from nas.config.params import Size
from nas.contracts import HardMix, ImageForm, SoftMix
from nas.spaces.blocks import kernels
from nas.spaces.blocks.stems import AuxiliaryHead
from nas.spaces.darts import batched
from nas.spaces.darts.cells import DiscreteCell
from nas.spaces.registry import get_space
from tests.spaces.dropout import dropout_of_shape

SPACE = get_space("darts")
CELL_TYPES = ("normal", "reduce")
E, O = len(DARTS_EDGES), len(PRIMITIVES)  # noqa: E741 (the letters of the papers)
SIZE = Size(cells=3, channels=2, stem="cifar")
ODD = ImageForm(3, 9, 11, 4)
EVEN = ImageForm(1, 8, 8, 4)


@cache
def built(form, size):
    """The plain supernet, the batched one, and the weights that both begin with."""
    torch.manual_seed(0)
    plain, quick = (SPACE.supernet(form, size, reference).double() for reference in (True, False))
    return plain, quick, {name: value.clone() for name, value in plain.state_dict().items()}


def supernets(form, size=SIZE):
    """The plain supernet and the batched one, with the same weights, in double precision."""
    plain, quick, start = built(form, size)
    for network in (plain, quick):
        network.load_state_dict(start)
        network.train().zero_grad(set_to_none=True)
    return plain, quick


def alphas():
    generator = torch.Generator().manual_seed(1)
    return {
        cell_type: torch.randn(E, O, generator=generator, dtype=torch.float64, requires_grad=True)
        for cell_type in CELL_TYPES
    }


def soft(tables, alive=None):
    return SoftMix({cell_type: table.softmax(-1) for cell_type, table in tables.items()}, alive)


def outcome(network, form, mix_of, training=True):
    """Logits, loss and every gradient, by name; None without a gradient."""
    network.train(training).zero_grad(set_to_none=True)
    generator, tables = torch.Generator().manual_seed(2), alphas()
    images = torch.randn(3, form.channels, form.height, form.width, generator=generator, dtype=torch.float64)
    logits = network(images, mix_of(tables))
    loss = cross_entropy(logits, torch.tensor([0, 3, 1]))
    loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    gradients |= {cell_type: table.grad for cell_type, table in tables.items()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    return {"logits": logits.detach(), "loss": loss.detach(), **gradients, **buffers}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            close = (found[name] - value).abs().max() <= 1e-9 * value.abs().max()
            assert close, f"{name}: {(found[name] - value).abs().max()} of {value.abs().max()}"


CONVOLUTIONS = ("merged", "factored")


def assert_engines_agree(form, mix_of, training=True, size=SIZE):
    """Runs with each form of the convolutions, which otherwise depends on the map and the device."""
    expected = outcome(supernets(form, size)[0], form, mix_of, training)
    for chosen in CONVOLUTIONS:
        _, quick = supernets(form, size)
        with patch.object(batched, "prefers_merged", lambda _, chosen=chosen: chosen == "merged"):
            assert_same(outcome(quick, form, mix_of, training), expected)
    return expected


FEW = settings(max_examples=5, phases=[Phase.explicit, Phase.generate])  # shrinking a failure would take minutes


def assert_gradients_where_it_ran(found, alive):
    """`alive`: cell type -> the operations that ran on each edge."""
    for name, gradient in found.items():
        match = re.fullmatch(r"cells\.(\d)\.edges\.(\d+)\.ops\.(\d)\..*", name)
        if match:
            cell, e, op = map(int, match.groups())
            ran = op in alive["reduce" if cell in (1, 2) else "normal"][e]
            assert (gradient is not None) == ran, f"{name}: ran {ran}"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", [ODD, EVEN], ids=["3 channels, 9x11", "1 channel, 8x8"])
def test_the_batched_supernet_is_the_plain_one_when_everything_runs(form, training):
    found = assert_engines_agree(form, soft, training)
    for cell_type in CELL_TYPES:
        assert (found[cell_type] != 0).all(), "every operation takes part, none through the share of the others"


def test_the_batched_supernet_is_the_plain_one_with_dropped_skips():
    draws: list[float] = []

    def mix(tables):
        return SoftMix({cell_type: table.softmax(-1) for cell_type, table in tables.items()}, skip_dropout=0.3)

    with patch.object(nn.functional, "dropout", dropout_of_shape(draws)):
        assert_engines_agree(ODD, mix)
        assert set(draws) == {0.3}
        draws.clear()
        assert_engines_agree(ODD, mix, training=False)
        assert not draws


def test_the_batched_supernet_is_the_plain_one_with_more_cells_between_the_reductions():
    assert_engines_agree(EVEN, soft, size=Size(cells=6, channels=2, stem="cifar"))


MASK = st.lists(st.lists(st.integers(0, O - 1), unique=True), min_size=E, max_size=E)
CHOICES = st.lists(st.integers(0, O - 1), min_size=E, max_size=E)


@FEW
@given(normal=MASK, reduce=MASK, training=st.booleans(), form=st.sampled_from([ODD, EVEN]))
def test_the_batched_supernet_is_the_plain_one_when_each_edge_runs_some_operations(normal, reduce, training, form):
    alive = {"normal": normal, "reduce": reduce}
    found = assert_engines_agree(form, lambda tables: soft(tables, alive), training)
    assert_gradients_where_it_ran(found, alive)


@FEW
@given(normal=CHOICES, reduce=CHOICES, training=st.booleans(), form=st.sampled_from([ODD, EVEN]))
def test_the_batched_supernet_is_the_plain_one_with_one_operation_per_edge(normal, reduce, training, form):
    choices = {"normal": normal, "reduce": reduce}
    found = assert_engines_agree(form, lambda _: HardMix(choices), training)
    assert_gradients_where_it_ran(found, {cell_type: [[op] for op in ops] for cell_type, ops in choices.items()})


@pytest.mark.parametrize("reference", [True, False])
def test_an_operation_that_runs_alone_gets_a_gradient(reference):
    network = supernets(EVEN)[0 if reference else 1]
    op = PRIMITIVES.index("dil_conv_3x3")
    found = outcome(network, EVEN, lambda _: HardMix(dict.fromkeys(CELL_TYPES, [op] * E)))
    ran = {name: g for name, g in found.items() if f".ops.{op}." in name}
    assert len(ran) == 3 * E * 2
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in ran.values())


@pytest.mark.parametrize("reference", [True, False])
def test_a_hard_mix_is_a_soft_one_with_all_weight_on_the_choice(reference):
    network = supernets(ODD)[0 if reference else 1]
    choices = {cell_type: [e % O for e in range(E)] for cell_type in CELL_TYPES}
    onehot = {
        cell_type: nn.functional.one_hot(torch.tensor(choices[cell_type]), O).double() for cell_type in CELL_TYPES
    }
    images = torch.randn(2, 3, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hard, weighted = network(images, HardMix(choices)), network(images, SoftMix(onehot))
    torch.testing.assert_close(hard, weighted, rtol=1e-9, atol=1e-12)


def test_operations_that_are_not_alive_do_not_run_whatever_their_weight():
    _, network = supernets(EVEN)
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tables = {cell_type: torch.rand(E, O, dtype=torch.float64) for cell_type in CELL_TYPES}
    alive = {cell_type: [[3, 4]] * E for cell_type in CELL_TYPES}
    first = network(images, SoftMix(tables, alive))
    for table in tables.values():
        table[:, 5:] = float("nan")
    assert torch.equal(network(images, SoftMix(tables, alive)), first)
    assert network(images, SoftMix(tables)).isnan().all()


@pytest.mark.parametrize("reference", [True, False])
def test_dropout_after_skips_acts_only_in_training_and_only_on_skips(reference):
    network = supernets(EVEN)[0 if reference else 1]
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = {cell_type: torch.ones(E, O, dtype=torch.float64) for cell_type in CELL_TYPES}

    def logits(op, dropout, training):
        mix = SoftMix(weights, {cell_type: [[op]] * E for cell_type in CELL_TYPES}, skip_dropout=dropout)
        torch.manual_seed(0)
        return network.train(training)(images, mix)

    skip, pool = PRIMITIVES.index("skip_connect"), PRIMITIVES.index("avg_pool_3x3")
    assert not torch.allclose(logits(skip, 0.5, True), logits(skip, 0.0, True))
    assert torch.equal(logits(skip, 0.5, False), logits(skip, 0.0, False))
    assert torch.equal(logits(pool, 0.5, True), logits(pool, 0.0, True))


def test_state_dicts_of_the_two_engines_interchange():
    torch.manual_seed(3)
    plain = SPACE.supernet(EVEN, SIZE, reference=True)
    torch.manual_seed(3)
    quick = SPACE.supernet(EVEN, SIZE)
    assert list(plain.state_dict()) == list(quick.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), quick.state_dict().values(), strict=True))
    plain.load_state_dict(quick.state_dict())


@pytest.mark.parametrize(("cells", "expected"), [(3, (1, 2)), (5, (1, 3)), (8, (2, 5)), (14, (4, 9)), (20, (6, 13))])
def test_reductions_stand_at_one_and_two_thirds(cells, expected):
    assert reductions(cells) == expected


def cell_of(op):
    return tuple((op, pred) for node in range(2, 6) for pred in (0, node - 1))


def run_cell(op, reduce, probability, training=True):
    torch.manual_seed(0)
    cell = DiscreteCell(cell_of(op), 3, 3, 4, halve_before=False, reduce=reduce).train(training)
    images = torch.randn(8, 3, 8, 8)
    torch.manual_seed(1)
    with torch.no_grad():
        return cell(images, images, probability)


def test_drop_path_never_drops_an_identity():
    assert torch.equal(run_cell("skip_connect", False, 0.9), run_cell("skip_connect", False, 0.0))


@pytest.mark.parametrize(("op", "reduce"), [("max_pool_3x3", False), ("dil_conv_3x3", False), ("skip_connect", True)])
def test_drop_path_drops_every_other_operation_only_in_training(op, reduce):
    assert not torch.allclose(run_cell(op, reduce, 0.9), run_cell(op, reduce, 0.0))
    assert torch.equal(run_cell(op, reduce, 0.9, training=False), run_cell(op, reduce, 0.0, training=False))


def test_drop_path_draws_separately_for_each_edge_and_sample():
    pools = run_cell("avg_pool_3x3", False, 0.5)  # [8, 16, 8, 8]; node 2 is channels 0 to 3, the sum of two edges
    plain = run_cell("avg_pool_3x3", False, 0.0)
    ratios = (pools / plain)[:, 0].flatten(1)
    both, neither = (ratios - 2).abs().amax(1) < 1e-3, ratios.abs().amax(1) == 0
    assert 0 < int((~both & ~neither).sum()) < 8, "some samples keep one of two edges, some both or none"


def test_the_sum_of_the_edges_of_a_node_is_the_sum_of_its_operations():
    torch.manual_seed(0)
    cell = DiscreteCell(GENOTYPES["PDARTS"].normal, 3, 5, 4, halve_before=False, reduce=False).eval()
    before, last = torch.randn(2, 3, 6, 6), torch.randn(2, 5, 6, 6)
    states = [cell.input_0(before), cell.input_1(last)]
    for node in range(4):
        (_, a), (_, b) = GENOTYPES["PDARTS"].normal[2 * node : 2 * node + 2]
        states.append(cell.ops[2 * node](states[a]) + cell.ops[2 * node + 1](states[b]))
    torch.testing.assert_close(cell(before, last, 0.0), torch.cat(states[2:], 1))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 11), (28, 28), (32, 32)])
@pytest.mark.parametrize("auxiliary", [True, False])
def test_a_network_gives_logits_and_in_training_those_of_its_head(height, width, auxiliary):
    network = SPACE.network(GENOTYPES["DARTS_V2"], ImageForm(1, height, width, 7), SIZE, auxiliary)
    images = torch.randn(2, 1, height, width)
    logits, second = network(images)
    assert logits.shape == (2, 7)
    assert second.shape == (2, 7) if auxiliary else second is None
    logits, second = network.eval()(images)
    assert second is None


def test_the_head_pools_an_8x8_map_by_5x5_windows_of_stride_three():
    head = AuxiliaryHead(2, 3).eval()
    seen = []
    head.features[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 2, 8, 8)
    head(x)
    corners = [x.relu()[:, :, i : i + 5, j : j + 5].mean((2, 3)) for i in (0, 3) for j in (0, 3)]
    torch.testing.assert_close(seen[0].flatten(2), torch.stack(corners, -1))


def test_a_network_sets_its_widths_at_the_reductions():
    network: Any = SPACE.network(GENOTYPES["DARTS_V1"], EVEN, Size(cells=6, channels=4, stem="cifar"), auxiliary=True)
    shapes = []
    for cell in network.cells:
        cell.register_forward_hook(lambda _, __, y: shapes.append(tuple(y.shape[1:])))
    network(torch.randn(2, 1, 8, 8))
    assert shapes == [(16, 8, 8)] * 2 + [(32, 4, 4)] * 2 + [(64, 2, 2)] * 2
    assert network.auxiliary_after == 4


def test_drop_path_of_a_network_is_settable():
    torch.manual_seed(0)
    cells = DartsArchitecture(normal=cell_of("max_pool_3x3"), reduce=cell_of("max_pool_3x3"))
    network: Any = SPACE.network(cells, EVEN, SIZE, False)
    images = torch.randn(4, 1, 8, 8)
    plain = network(images)[0]
    network.drop_path = 0.9
    assert not torch.allclose(network(images)[0], plain)


@pytest.mark.parametrize("form", [ODD, ImageForm(3, 16, 16, 4)], ids=["9x11", "16x16"])
def test_a_network_in_channels_last_is_the_one_in_nchw(form):
    """The convolutions use other forms there (nas.spaces.blocks.kernels), with the same values and gradients."""
    operations = PRIMITIVES[1:] + PRIMITIVES[1:2]
    cells = DartsArchitecture(
        normal=tuple((op, i % 2) for i, op in enumerate(operations)), reduce=cell_of("sep_conv_5x5")
    )
    torch.manual_seed(0)
    plain = SPACE.network(cells, form, Size(cells=4, channels=4, stem="cifar"), auxiliary=True).double()
    quick = SPACE.network(cells, form, Size(cells=4, channels=4, stem="cifar"), auxiliary=True).double()
    quick.load_state_dict(plain.state_dict())
    quick.to(memory_format=torch.channels_last)
    images = torch.randn(3, form.channels, form.height, form.width, dtype=torch.float64)

    def outcome_of(network, x):
        logits, second = network(x)
        loss = cross_entropy(logits, torch.tensor([0, 3, 1])) + cross_entropy(second, torch.tensor([0, 3, 1]))
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        return {"logits": logits.detach(), **gradients, **dict(network.named_buffers())}

    with patch.object(kernels, "depthwise", wraps=kernels.depthwise) as used:
        expected = outcome_of(plain, images)
        assert used.call_count == 0
        found = outcome_of(quick, images.to(memory_format=torch.channels_last))
        assert used.call_count > 0
    assert_same(found, expected)
