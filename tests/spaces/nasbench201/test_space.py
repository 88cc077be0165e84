"""NAS-Bench-201: its record, its sizes against the benchmark's table, and the two engines of its supernet."""

import csv
import gzip
import re
from functools import cache
from itertools import product
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from nas.architectures.base import Architecture, ArchitectureError
from nas.architectures.nasbench201 import CELLS, NASBENCH201_EDGES, OPERATIONS, NasBench201Architecture
from nas.complexity import count
from nas.config.params import Size
from nas.contracts import CategoricalSpace, Growth, HardMix, ImageForm, SoftMix
from nas.spaces.blocks.stems import AuxiliaryHead
from nas.spaces.nasbench201 import cells as nasbench201_cells
from nas.spaces.nasbench201.cells import DiscreteCell, MixedCell, Residual, live, stage_cells
from nas.spaces.registry import get_space
from tests.shared import TABLE, needs_table
from tests.spaces.dropout import dropout_of_shape

SPACE: Any = get_space("nasbench201")
NONE, SKIP, ONE, THREE, POOL = range(len(OPERATIONS))
SIZE = Size(cells=5, channels=2, stem="cifar")
OFFICIAL = Size(cells=17, channels=16, stem="cifar")
EVEN, ODD = ImageForm(1, 8, 8, 3), ImageForm(3, 9, 11, 3)
RESNET = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"
cells = st.lists(st.sampled_from(OPERATIONS), min_size=6, max_size=6).map(tuple)


def cell(*operations):
    return NasBench201Architecture(operations=operations)


# --- The record


@given(cells)
def test_a_cell_survives_its_string_and_its_record(operations):
    found = NasBench201Architecture.read(cell(*operations).text)
    assert found == cell(*operations) == Architecture.from_dict(found.to_dict())
    assert SPACE.text(found) == found.text


def test_the_string_is_the_benchmarks():
    text = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|none~2|"
    found = NasBench201Architecture.read(text)
    assert found.operations == ("avg_pool_3x3", "nor_conv_1x1", "skip_connect", "nor_conv_1x1", "skip_connect", "none")
    assert found.to_dict() == {"schema_version": 1, "space": "nasbench201", "operations": list(found.operations)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"'' is not a cell of NAS-Bench-201: expected \|op~0\|\+\|op~0\|op~1\|\+\|op~0\|op~1\|op~2\|"),
        (RESNET + "+", "is not a cell of NAS-Bench-201"),
        (RESNET.replace("~2", "~1"), "is not a cell of NAS-Bench-201"),
        (RESNET.replace("none~1", "max_pool_3x3~1"), "edge 1 -> 3: operation 'max_pool_3x3' is not one of none, skip"),
    ],
)
def test_a_faulty_string_is_refused(text, message):
    with pytest.raises(ArchitectureError, match=message):
        NasBench201Architecture.read(text)


def test_a_faulty_record_is_refused_by_name():
    with pytest.raises(ArchitectureError, match="a cell has 5 operations, expected 6, one per edge"):
        Architecture.from_dict({"space": "nasbench201", "operations": ["none"] * 5})


def test_the_cells_fall_into_as_many_topologies_as_the_benchmark_says():
    every = [cell(*operations) for operations in product(OPERATIONS, repeat=6)]
    assert len(every) == CELLS == 15_625
    assert len({found.topology for found in every}) == 6_466


def test_a_skip_is_the_identity_and_the_order_of_a_sum_does_not_matter():
    one, three, skip, none = "nor_conv_1x1", "nor_conv_3x3", "skip_connect", "none"
    assert cell(skip, three, none, none, none, one).topology == cell(skip, none, three, none, none, one).topology
    assert cell(skip, none, none, one, three, none).topology == cell(skip, none, none, three, one, none).topology
    assert cell(three, none, none, skip, skip, none).topology != cell(three, none, none, skip, one, none).topology
    through_two = cell(none, three, none, skip, none, skip)  # an equal network, which the rule tells apart by its zeros
    assert cell(three, none, none, skip, skip, none).topology != through_two.topology


def test_the_drawing_omits_edges_without_operation():
    (graph,) = NasBench201Architecture.read(RESNET).graphs()
    assert (graph.inputs, graph.nodes, graph.output) == (("in",), ("1", "2"), "out")
    three, skip = "nor_conv_3x3", "skip_connect"
    assert graph.edges == (("in", "1", three), ("1", "2", three), ("in", "out", skip), ("2", "out", skip))


# --- Sizes


@cache
def table():
    with gzip.open(TABLE, "rt", newline="") as file:
        return list(csv.DictReader(file))


@needs_table
@pytest.mark.parametrize(
    ("suffix", "form"),
    [
        ("", ImageForm(3, 32, 32, 10)),
        ("_cifar100", ImageForm(3, 32, 32, 100)),
        ("_imagenet16", ImageForm(3, 16, 16, 120)),
    ],
)
def test_sizes_of_all_cells_are_those_of_the_benchmark(suffix, form):
    """Multiply-adds there count the additions of the classifier's bias, one a class; here no bias is counted."""
    assert len(table()) == CELLS
    for row in table():
        found = SPACE.count(NasBench201Architecture.read(row["arch_str"]), form, OFFICIAL)
        assert found.params == round(1e6 * float(row[f"params_MB{suffix}"])), row["arch_str"]
        assert found.macs + form.classes == round(1e6 * float(row[f"flops_M{suffix}"])), row["arch_str"]


@needs_table
def test_every_topology_of_the_table_is_there():
    assert len({NasBench201Architecture.read(row["arch_str"]).topology for row in table()}) == 6_466


def test_the_resnet_like_cell_has_the_published_size():
    found = SPACE.count(NasBench201Architecture.read(RESNET), ImageForm(3, 32, 32, 10), OFFICIAL)
    assert (found.params, found.macs) == (559_386, 78_561_920)  # 0.559 MB, 78.56 M in the authors' code


@settings(max_examples=10)
@given(operations=cells, size=st.sampled_from([SIZE, Size(cells=8, channels=6, stem="cifar")]), even=st.booleans())
def test_the_sum_over_edges_is_the_count_of_the_network(operations, size, even):
    form, found = EVEN if even else ODD, cell(*operations)
    built = count(lambda: SPACE.network(found, form, size, auxiliary=False), form.shape)
    assert SPACE.count(found, form, size) == built


@settings(max_examples=10)
@given(choices=st.lists(st.integers(0, 4), min_size=6, max_size=6))
def test_a_path_costs_what_the_supernet_runs(choices):
    found = SPACE.path_macs(ODD, SIZE, {"cell": choices})
    assert found == CategoricalSpace.path_macs(SPACE, ODD, SIZE, {"cell": choices})


def test_costs_are_parameters_of_cells_with_scales_and_without():
    (bare, *others), (scaled, *_) = (SPACE.costs(EVEN, SIZE, affine)["cell"] for affine in (False, True))
    squares, widths = 4 + 16 + 64, 2 + 4 + 8  # of the three stages
    assert bare == (0, 0, squares, 9 * squares, 0)
    assert scaled == (0, 0, squares + 2 * widths, 9 * squares + 2 * widths, 0)
    assert others == [bare] * 5


@pytest.mark.parametrize("cells", [3, 4, 6, 7, 9, 16, 18])
def test_a_depth_that_has_no_three_equal_stages_is_refused(cells):
    with pytest.raises(ArchitectureError, match=rf"cells is {cells}, but NAS-Bench-201's .* expected 3 N \+ 2"):
        SPACE.supernet(EVEN, Size(cells=cells, channels=2, stem="cifar"))


def test_a_stem_of_imagenet_is_refused():
    with pytest.raises(ArchitectureError, match=r"stem is 'imagenet', but .* skeleton supports only 'cifar'"):
        SPACE.network(cell(*["none"] * 6), EVEN, Size(cells=5, channels=2, stem="imagenet"), False)


def test_a_growing_supernet_is_refused():
    with pytest.raises(AssertionError, match="the same in every stage"):
        SPACE.supernet(EVEN, SIZE, growth=Growth(("normal",)))


# --- The network


def test_a_network_has_the_layout_of_the_benchmark():
    network = SPACE.network(NasBench201Architecture.read(RESNET), ImageForm(3, 32, 32, 10), OFFICIAL, auxiliary=False)
    assert stage_cells(OFFICIAL) == 5
    kinds = "".join("c" if isinstance(block, DiscreteCell) else "r" for block in network.cells)
    assert kinds == "ccccc" + "r" + "ccccc" + "r" + "ccccc"
    assert all(isinstance(block, DiscreteCell | Residual) for block in network.cells)
    assert network.classifier.in_features == 64
    assert not [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]


def test_a_cell_is_the_sum_that_its_string_says():
    torch.manual_seed(0)
    found = DiscreteCell(["nor_conv_3x3", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "none", "skip_connect"], 4)
    x = torch.randn(3, 4, 5, 5)
    first = found.ops[0](x)
    second = x + nn.AvgPool2d(3, 1, 1, count_include_pad=False)(first)
    torch.testing.assert_close(found(x, 0.0), found.ops[3](x) + second)


def test_a_residual_block_halves_the_map_and_doubles_the_width():
    block = Residual(4, searching=False).eval()
    x = torch.randn(2, 4, 8, 8)
    pooled = nn.functional.avg_pool2d(x, 2)
    inner = block.conv_b(block.conv_a(x))
    torch.testing.assert_close(block(x), inner + block.shortcut[1](pooled))
    assert Residual(4, searching=True)(torch.randn(2, 4, 9, 11)).shape == (2, 8, 5, 6)


def test_drop_path_does_not_drop_identities_and_the_auxiliary_head_is_that_of_the_recipe():
    network = SPACE.network(cell(*["skip_connect"] * 6), EVEN, SIZE, auxiliary=True).train()
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network.drop_path = 0.9
    with patch.object(nasbench201_cells, "drop_path", side_effect=AssertionError("dropped an identity")):
        logits, auxiliary = network(images)
    assert isinstance(network.auxiliary, AuxiliaryHead)
    assert logits.shape == auxiliary.shape == (4, 3)
    assert network.eval()(images)[1] is None

    network = SPACE.network(cell(*["nor_conv_1x1"] * 6), EVEN, SIZE, auxiliary=False).train()
    network.drop_path = 0.5
    with patch.object(nasbench201_cells, "drop_path", side_effect=lambda y, p: y * p) as dropped:
        network(images)
    assert dropped.call_count == 6 * 3


# --- The supernet


@cache
def built(form, size):
    torch.manual_seed(0)
    plain, quick = (SPACE.supernet(form, size, reference).double() for reference in (True, False))
    return plain, quick, {name: value.clone() for name, value in plain.state_dict().items()}


def outcome(network, form, mix_of, training):
    """Logits, loss and every gradient, by name; None without a gradient."""
    network.train(training).zero_grad(set_to_none=True)
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(3, form.channels, form.height, form.width, generator=generator, dtype=torch.float64)
    images = images.contiguous(memory_format=torch.channels_last)
    alpha = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    logits = network(images, mix_of(alpha))
    loss = cross_entropy(logits, torch.tensor([0, 2, 1]))
    loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    return {"logits": logits.detach(), "loss": loss.detach(), "alpha": alpha.grad, **gradients, **buffers}


def assert_engines_agree(form, mix_of, training=True, size=SIZE):
    plain, quick, start = built(form, size)
    found = []
    for network in (plain, quick):
        network.load_state_dict(start)
        found.append(outcome(network, form, mix_of, training))
    expected, batched = found
    assert batched.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert batched[name] is None, name
        else:
            close = (batched[name] - value).abs().max() <= 1e-9 * value.abs().max()
            assert close, f"{name}: {(batched[name] - value).abs().max()} of {value.abs().max()}"
    return expected


def ran(found):
    """The (edge, operation) of the first cell that got a gradient."""
    names = [re.fullmatch(r"cells\.0\.edges\.(\d)\.ops\.(\d)\..*", name) for name in found]
    return {
        tuple(map(int, m.groups())) for m, value in zip(names, found.values(), strict=True) if m and value is not None
    }


def soft(alpha):
    return SoftMix({"cell": alpha.softmax(-1)})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", [ODD, EVEN], ids=["3 channels, 9x11", "1 channel, 8x8"])
def test_the_batched_supernet_is_the_plain_one_when_everything_runs(form, training):
    found = assert_engines_agree(form, soft, training)
    assert (found["alpha"] != 0).all(), "every operation takes part, none through the share of the others"
    assert ran(found) == {(e, op) for e in range(6) for op in (ONE, THREE)}


def test_the_batched_supernet_is_the_plain_one_in_a_deeper_one():
    assert_engines_agree(EVEN, soft, size=Size(cells=8, channels=4, stem="cifar"))


def test_the_batched_supernet_is_the_plain_one_with_dropped_skips():
    draws: list[float] = []
    with patch.object(nn.functional, "dropout", dropout_of_shape(draws)):
        assert_engines_agree(ODD, lambda alpha: SoftMix({"cell": alpha.softmax(-1)}, skip_dropout=0.3))
        assert draws == [0.3] * (2 * 3 * 6)
        assert_engines_agree(ODD, lambda alpha: SoftMix({"cell": alpha.softmax(-1)}, skip_dropout=0.3), training=False)
        assert len(draws) == 2 * 3 * 6


@given(alive=st.lists(st.lists(st.integers(0, 4), unique=True), min_size=6, max_size=6))
def test_the_batched_supernet_is_the_plain_one_with_operations_switched_off(alive):
    found = assert_engines_agree(EVEN, lambda alpha: SoftMix({"cell": alpha.softmax(-1)}, {"cell": alive}))
    assert ran(found) <= {(e, op) for e, ops in enumerate(alive) for op in ops}


@given(choices=st.lists(st.integers(0, 4), min_size=6, max_size=6), training=st.booleans())
def test_the_batched_supernet_is_the_plain_one_along_a_path_and_runs_nothing_else(choices, training):
    found = assert_engines_agree(EVEN, lambda _: HardMix({"cell": choices}), training)
    on_the_way = live([[op] for op in choices])
    assert ran(found) == {(e, op) for e, ops in enumerate(on_the_way) for op in ops if op in (ONE, THREE)}


def test_a_node_that_no_node_reads_is_not_computed():
    paths = {
        (THREE, NONE, NONE, SKIP, NONE, NONE): {(3, SKIP)},
        (THREE, NONE, ONE, SKIP, NONE, NONE): {(3, SKIP)},
        (THREE, NONE, ONE, NONE, NONE, POOL): {(0, THREE), (2, ONE), (5, POOL)},
        (THREE, NONE, NONE, NONE, NONE, NONE): set(),
    }
    for choices, expected in paths.items():
        edges = live([[op] for op in choices])
        assert {(e, op) for e, ops in enumerate(edges) for op in ops} == expected


def test_a_hard_path_is_the_network_of_its_cell():
    """Except for the scales of batch norms, which are 1 at the start, and the running statistics."""
    choices = [THREE, ONE, SKIP, POOL, NONE, THREE]
    supernet, network = SPACE.supernet(EVEN, SIZE), SPACE.network(SPACE.choose({"cell": choices}), EVEN, SIZE, False)
    taken = dict(supernet.named_parameters())
    with torch.no_grad():
        for name, value in network.named_parameters():
            m = re.fullmatch(r"cells\.(\d+)\.ops\.(\d)\.(.*)", name)
            source = f"cells.{m[1]}.edges.{m[2]}.ops.{choices[int(m[2])]}.{m[3]}" if m else name
            if source in taken:
                value.copy_(taken[source])
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(network.train()(images)[0], supernet.train()(images, SPACE.path({"cell": choices})))


def test_a_supernet_keeps_running_statistics_only_in_its_stem():
    supernet = SPACE.supernet(EVEN, SIZE)
    assert {name.partition(".")[0] for name, _ in supernet.named_buffers()} == {"stem"}
    assert sum(isinstance(block, MixedCell) for block in supernet.cells) == 3


# --- As a space of edges and of categories


def test_every_edge_stays_and_none_may_be_chosen():
    edges = [(op, 0.0) for op in (THREE, NONE, ONE, POOL, SKIP, NONE)]
    found = SPACE.assemble({"cell": edges})
    assert found.operations == tuple(OPERATIONS[op] for op, _ in edges)
    assert SPACE.none_stays


def test_random_cells_are_uniform_over_edges_and_operations():
    generator = torch.Generator().manual_seed(0)
    draws = [SPACE.random(generator).operations for _ in range(2000)]
    for e in range(len(NASBENCH201_EDGES)):
        for op in OPERATIONS:
            assert abs(sum(found[e] == op for found in draws) - 400) < 4 * (2000 * 0.2 * 0.8) ** 0.5
