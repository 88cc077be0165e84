import pytest
import torch
from torch import nn

from nas.architectures.darts import PRIMITIVES
from nas.complexity import parameters
from nas.spaces.blocks.ops import OPS, FactorizedReduce, batch_norm, drop_path, register_op, relu_conv_bn, supernet_op

C = 4
FORMULAS = {  # parameters with affine batch norm, per stride
    "none": (0, 0),
    "max_pool_3x3": (0, 0),
    "avg_pool_3x3": (0, 0),
    "skip_connect": (0, C * C + 2 * C),
    "sep_conv_3x3": (2 * (9 * C + C * C) + 4 * C,) * 2,
    "sep_conv_5x5": (2 * (25 * C + C * C) + 4 * C,) * 2,
    "dil_conv_3x3": (9 * C + C * C + 2 * C,) * 2,
    "dil_conv_5x5": (25 * C + C * C + 2 * C,) * 2,
}


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 8), (7, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op_keeps_channels_and_divides_the_size_rounded_up(name, stride, height, width):
    expected = (2, C, -(-height // stride), -(-width // stride))
    x = torch.randn(2, C, height, width, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    assert OPS[name](C, stride, True)(x).shape == expected
    assert supernet_op(name, C, stride)(x).shape == expected
    assert torch.equal(x, before), "an operation wrote into its input"


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_parameter_of_an_op_learns(name):
    op = OPS[name](C, 2, True)
    x = torch.randn(2, C, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (op(x) * torch.randn(2, C, 4, 4) + 0 * x.sum()).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in op.parameters())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", FORMULAS)
def test_every_op_has_the_parameters_of_its_formula(name, stride):
    affine, plain = OPS[name](C, stride, True), OPS[name](C, stride, False)
    assert parameters(affine) == FORMULAS[name][stride - 1]
    scales = sum(2 * m.num_features for m in affine.modules() if isinstance(m, nn.BatchNorm2d))
    assert parameters(plain) == parameters(supernet_op(name, C, stride)) == FORMULAS[name][stride - 1] - scales


def test_the_ops_are_the_primitives():
    assert set(FORMULAS) == set(PRIMITIVES)
    assert set(OPS) >= set(PRIMITIVES)


@pytest.mark.parametrize("build", [relu_conv_bn, FactorizedReduce])
def test_the_blocks_before_a_cell_have_the_parameters_of_their_formula(build):
    assert parameters(build(3, 8, True)) == 3 * 8 + 2 * 8
    assert parameters(build(3, 8, False)) == 3 * 8


def test_a_name_can_be_taken_only_once():
    with pytest.raises(ValueError, match="'sep_conv_3x3' is already registered"):
        register_op("sep_conv_3x3")(OPS["sep_conv_3x3"])


@pytest.mark.parametrize(("height", "width"), [(6, 4), (5, 3), (5, 4)])
def test_the_second_half_of_a_factorized_reduce_sees_the_map_shifted_by_one_pixel(height, width):
    reduce = FactorizedReduce(1, 2, affine=True).eval()
    for conv in (reduce.conv_1, reduce.conv_2):
        nn.init.ones_(conv.weight)
    x = torch.arange(1.0, 1 + height * width).view(1, 1, height, width)
    first, second = reduce(x)[0] * (1 + 1e-5) ** 0.5  # undo the fresh batch norm
    shifted = torch.zeros_like(first)  # past the border of an odd map lie zeros
    inside = x[0, 0, 1::2, 1::2]
    shifted[: inside.shape[0], : inside.shape[1]] = inside
    torch.testing.assert_close(first, x[0, 0, ::2, ::2])
    torch.testing.assert_close(second, shifted)


def test_a_factorized_reduce_rectifies_first():
    assert torch.equal(FactorizedReduce(2, 2, affine=False)(-torch.rand(2, 2, 4, 4)), torch.zeros(2, 2, 2, 2))


def test_an_average_pool_counts_no_padding():
    assert torch.allclose(OPS["avg_pool_3x3"](1, 1, False)(torch.ones(1, 1, 4, 4)), torch.ones(4, 4))


def test_none_is_zero_and_skip_is_the_identity():
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(OPS["none"](3, 1, False)(x), torch.zeros_like(x))
    assert torch.equal(OPS["none"](3, 2, False)(x), torch.zeros(2, 3, 3, 3))
    assert torch.equal(OPS["skip_connect"](3, 1, False)(x), x)


@pytest.mark.parametrize(
    ("name", "kernel", "dilation", "layers"),
    [("sep_conv_3x3", 3, 1, 2), ("sep_conv_5x5", 5, 1, 2), ("dil_conv_3x3", 3, 2, 1), ("dil_conv_5x5", 5, 2, 1)],
)
def test_convolutions_are_depthwise_then_1x1_and_have_their_kernel_and_dilation(name, kernel, dilation, layers):
    convs = [m for m in OPS[name](C, 2, True).modules() if isinstance(m, nn.Conv2d)]
    found = [(m.kernel_size[0], m.dilation[0], m.groups, m.stride[0]) for m in convs]
    first = [(kernel, dilation, C, 2), (1, 1, 1, 1)]
    assert found == first + [(kernel, dilation, C, 1), (1, 1, 1, 1)] * (layers - 1)


def test_a_supernet_has_neither_scales_nor_running_statistics_and_normalises_its_pools():
    for name in PRIMITIVES:
        norms = [m for m in supernet_op(name, C, 1).modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(not m.affine and m.running_mean is None for m in norms)
        assert bool(norms) == (name not in ("none", "skip_connect"))
    network = batch_norm(C, True)
    assert network.affine
    assert network.running_mean is not None
    assert not [m for m in OPS["max_pool_3x3"](C, 1, True).modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_drop_path_zeroes_whole_samples_and_keeps_the_expectation(probability):
    torch.manual_seed(0)
    count, keep = 20_000, 1 - probability
    y = drop_path(torch.ones(count, 2, 1, 3), probability)
    samples = y.flatten(1)
    assert torch.equal(samples, samples[:, :1].expand_as(samples))
    kept = samples[:, 0] != 0
    torch.testing.assert_close(samples[kept, 0], torch.full((int(kept.sum()),), 1 / keep))
    assert abs(kept.sum().item() - keep * count) < 4 * (count * keep * probability) ** 0.5


def test_drop_path_of_zero_drops_nothing():
    x = torch.randn(3, 2, 4, 4)
    assert torch.equal(drop_path(x, 0.0), x)
