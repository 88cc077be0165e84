"""Space `enas` against the figures of its notes, and its networks against its supernet."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.architectures.base import ArchitectureError
from nas.architectures.enas import ENAS_OPS, EnasArchitecture, loose_ends
from nas.complexity import count, parameters
from nas.config.params import Size
from nas.contracts import HardMix, ImageForm
from nas.spaces.enas.cells import DiscreteEnasCell, EnasNetwork, EnasSupernet, SampledCell, cell_of, enas_op
from nas.spaces.enas.space import EnasSpace

SPACE = EnasSpace()
CIFAR10, LARGE, SEARCHED = (
    ImageForm(3, 32, 32, 10),
    Size(cells=20, channels=36, stem="cifar"),
    Size(cells=8, channels=16, stem="cifar"),
)
CELL_TYPES = ("normal", "reduce")
NODES = {  # every node of both cells: input 1, input 2, operation 1, operation 2
    "wide": lambda node: [0, 1, 3, 3],
    "chain": lambda node: [1 + node, 0, 4, 0],
    "dup": lambda node: [0, 0, 3, 3],
    "pool": lambda node: [0, 1, 1, 2],
    "ident": lambda node: [0, 1, 0, 0],
}
GOLDEN = {  # parameters: 20 cells of 36 channels with scales, 8 of 16 without; separable complexity of the latter
    "wide": (5_472_838, 482_042, 375_040),
    "chain": (3_041_974, 307_834, 238_720),
    "dup": (3_390_598, 294_522, 375_040),
    "pool": (1_308_358, 107_002, 0),
    "ident": (1_571_878, 158_202, 0),
}


def choices(name):
    return {cell_type: [choice for node in range(5) for choice in NODES[name](node)] for cell_type in CELL_TYPES}


@st.composite
def any_choices(draw):
    return {
        cell_type: [draw(st.integers(0, len(names) - 1)) for names in rows]
        for cell_type, rows in SPACE.categories().items()
    }


def test_forty_variables_with_180_categories():
    counts = [len(names) for cell_type in CELL_TYPES for names in SPACE.categories()[cell_type]]
    assert counts == [k for node in range(5) for k in (2 + node, 2 + node, 5, 5)] * 2
    assert (len(counts), sum(counts), sum(counts) - len(counts)) == (40, 180, 140)
    assert math.log10(math.prod(counts)) == pytest.approx(25.4, abs=0.05)
    assert SPACE.categories() == SPACE.categories()


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_parameters(name):
    assert SPACE.count(SPACE.choose(choices(name)), CIFAR10, LARGE).params == GOLDEN[name][0]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_path_through_the_supernet_has_the_golden_parameters_without_scales(name):
    network, cell = SPACE.supernet(CIFAR10, SEARCHED), cell_of(choices(name)["normal"])
    ops = {f"ops.{2 + index // 2}-{pred}-{op}." for index, (op, pred) in enumerate(cell)}
    used = (*ops, *(f"outputs.{node - 2}." for node in loose_ends(cell)), "input_")
    outside = sum(p.numel() for n, p in network.named_parameters() if not n.startswith("cells."))
    inside = [(n.split(".", 2)[2], p) for n, p in network.named_parameters() if n.startswith("cells.")]
    assert outside + sum(p.numel() for n, p in inside if n.startswith(used)) == GOLDEN[name][1]


def costs(size, affine):
    found = SPACE.costs(CIFAR10, size, affine)
    return {cell_type: found[cell_type][2] for cell_type in CELL_TYPES}, found


def separable(found, chosen):
    return sum(row[k] for cell_type in CELL_TYPES for row, k in zip(found[cell_type], chosen[cell_type], strict=True))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_separable_complexity(name):
    assert separable(costs(SEARCHED, False)[1], choices(name)) == GOLDEN[name][2]


@pytest.mark.parametrize(
    ("size", "affine", "normal", "reduce", "largest", "mean"),
    [
        (SEARCHED, False, (25_536, 32_704), (11_968, 15_040), 477_440, 170_496),
        (LARGE, True, (359_856, 408_240), (56_592, 63_504), 4_717_440, 1_776_384),
        (Size(cells=5, channels=4, stem="cifar"), False, (1_176, 2_072), (1_072, 1_840), 39_120, 12_320),
    ],
)
def test_golden_costs(size, affine, normal, reduce, largest, mean):
    ops, found = costs(size, affine)
    assert ops == {"normal": (0, 0, 0, *normal), "reduce": (0, 0, 0, *reduce)}
    assert not any(
        value for cell_type in CELL_TYPES for at, row in enumerate(found[cell_type]) if at % 4 < 2 for value in row
    )
    assert sum(max(row) for cell_type in CELL_TYPES for row in found[cell_type]) == largest
    assert sum(sum(row) / len(row) for cell_type in CELL_TYPES for row in found[cell_type]) == pytest.approx(mean)


@pytest.mark.parametrize("size", [SEARCHED, Size(cells=3, channels=2, stem="cifar")])
@pytest.mark.parametrize("form", [CIFAR10, ImageForm(1, 7, 9, 3)])
def test_multiply_adds_of_a_path_are_those_that_run(size, form):
    for name in ("chain", "dup", "ident"):
        counted = count(lambda: EnasSupernet(form, size), form.shape, HardMix(choices(name))).macs
        assert SPACE.path_macs(form, size, choices(name)) == counted
        assert counted < SPACE.supernet_macs(form, size)


@pytest.mark.parametrize("reduce", [False, True])
@given(chosen=any_choices())
def test_a_discrete_cell_with_the_weights_of_a_path_computes_the_same(chosen, reduce):
    torch.manual_seed(0)
    cell = cell_of(chosen["normal"])
    shared, found = SampledCell(6, 2, 2, False, reduce), DiscreteEnasCell(cell, 6, 2, 2, False, reduce)
    weights = dict(shared.named_parameters())
    outputs: list[torch.Tensor] = [weights[f"outputs.{node - 2}.weight"] for node in loose_ends(cell)]
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if name == "output.1.weight":
                parameter.copy_(torch.cat(outputs, 1))
            elif name in weights:  # scales stay 1, shifts 0
                parameter.copy_(weights[name])
    before, last = torch.randn(3, 6, 8, 8), torch.randn(3, 2, 8, 8)
    expected = shared(before, last, cell)
    assert expected.shape == (3, 2, 4, 4) if reduce else (3, 2, 8, 8)
    torch.testing.assert_close(found(before, last, 0.0), expected)


def test_what_is_not_sampled_does_not_run_and_both_slots_share_a_module():
    network = SPACE.supernet(ImageForm(1, 8, 8, 3), Size(cells=3, channels=2, stem="cifar"))
    network(torch.randn(2, 1, 8, 8), SPACE.path(choices("dup"))).sum().backward()
    ran = {n.split(".")[3] for n, p in network.named_parameters() if ".ops." in n and p.grad is not None}
    assert ran == {f"{node}-0-sep_conv_3x3" for node in range(2, 7)}
    swapped = (
        {cell_type: [0, 1, 3, 4] * 5 for cell_type in CELL_TYPES},
        {cell_type: [1, 0, 4, 3] * 5 for cell_type in CELL_TYPES},
    )
    images = torch.randn(2, 1, 8, 8)
    first, second = (network(images, SPACE.path(chosen)) for chosen in swapped)
    torch.testing.assert_close(first, second)
    assert SPACE.choose(swapped[0]).id == SPACE.choose(swapped[1]).id


def test_pools_count_the_padding_and_an_identity_of_stride_two_has_weights():
    ones = torch.ones(1, 2, 4, 4)
    assert enas_op("avg_pool_3x3", 2, 1, False)(ones)[0, 0, 0, 0].item() == pytest.approx(4 / 9)
    assert enas_op("identity", 2, 1, False)(ones) is ones
    assert parameters(enas_op("identity", 4, 2, False)) == 16
    for name in ENAS_OPS:
        for stride in (1, 2):
            assert enas_op(name, 2, stride, True)(ones).shape == (1, 2, 4 // stride, 4 // stride)


@given(st.integers(0, 2**62))
def test_a_random_architecture_is_valid_and_depends_only_on_the_generator(seed):
    first, again = (SPACE.random(torch.Generator().manual_seed(seed)) for _ in range(2))
    assert first == again == SPACE.parse(first.to_dict())


def test_random_operations_and_inputs_are_uniform():
    generator, total = torch.Generator().manual_seed(0), 1500
    cells = [SPACE.random(generator).normal for _ in range(total)]
    ops = Counter(op for cell in cells for op, _ in cell)
    assert all(abs(ops[op] - 2 * total) <= 4 * (10 * total * 0.16) ** 0.5 for op in ENAS_OPS)
    inputs = Counter(pred for cell in cells for _, pred in cell[8:])
    assert all(abs(inputs[pred] - 2 * total / 6) <= 4 * (2 * total * 5 / 36) ** 0.5 for pred in range(6))


def test_loose_ends_make_the_output_and_the_drawing():
    chain = SPACE.choose(choices("chain"))
    assert loose_ends(chain.normal) == (6,)
    assert loose_ends(SPACE.choose(choices("wide")).reduce) == (2, 3, 4, 5, 6)
    normal, reduce = chain.graphs()
    assert (normal.name, reduce.name, normal.nodes) == ("normal", "reduce", ("0", "1", "2", "3", "4"))
    assert [edge for edge in normal.edges if not edge[2]] == [("4", "c[k]", "")]
    assert ("c[k-1]", "0", "sep_conv_5x5") in normal.edges


def test_drop_path_does_not_drop_identities_and_the_head_is_for_training():
    torch.manual_seed(0)
    size, form = Size(cells=5, channels=2, stem="cifar"), ImageForm(3, 32, 32, 10)
    images = torch.randn(4, 3, 32, 32)
    for name, changes in (("ident", False), ("pool", True)):
        plain = SPACE.choose({"normal": choices(name)["normal"], "reduce": choices("ident")["reduce"]})
        network = SPACE.network(plain, form, size, auxiliary=True)
        assert isinstance(network, EnasNetwork)
        cell = network.cells[0]
        before, last = torch.randn(4, 6, 8, 8), torch.randn(4, 6, 8, 8)
        same = torch.equal(cell(before, last, 0.0), cell(before, last, 0.5))
        assert same != changes
        assert network(images)[1].shape == (4, 10)
        assert network.eval()(images)[1] is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"normal": [["identity", 0]] * 9}, "normal has 9 pairs, expected 10"),
        ({"normal": [["skip_connect", 0]] * 10}, "normal, node 2: operation 'skip_connect' is not one of identity, "),
        ({"normal": [["identity", 2]] * 10}, "normal, node 2: predecessor 2 is not below the node"),
    ],
)
def test_a_faulty_record_is_refused_by_name(value, message):
    good = SPACE.choose(choices("wide")).to_dict()
    assert EnasArchitecture.parse(good).normal == EnasArchitecture.parse(good).reduce
    with pytest.raises(ArchitectureError, match=message):
        EnasArchitecture.parse(good | value)


def test_the_stem_of_imagenet_is_refused():
    size = Size(cells=5, channels=4, stem="imagenet")
    with pytest.raises(ArchitectureError, match="stem is 'imagenet', but enas supports only 'cifar'"):
        SPACE.supernet(CIFAR10, size)
    with pytest.raises(ArchitectureError, match="set stem: cifar"):
        SPACE.costs(CIFAR10, size, affine=False)
