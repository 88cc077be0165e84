"""The CPU's forms of a cell's pieces against torch's own, in double precision, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from nas.spaces.blocks import kernels

SIDES = st.integers(1, 9)


def double(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def last(*shape, seed=0):
    return double(*shape, seed=seed).to(memory_format=torch.channels_last)


def with_gradients(run, *tensors):
    """The result and the gradient of a fixed weighted sum of it by each tensor."""
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    y = run(*leaves)
    loss = (y * double(*y.shape, seed=99)).sum()
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return y.detach(), *gradients


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, kernel=st.sampled_from([3, 5, 7]), form=st.sampled_from([(1, 1), (2, 1), (1, 2)]))
def test_a_depthwise_convolution_is_torchs(height, width, kernel, form):
    stride, dilation = form
    padding = dilation * (kernel // 2)
    x, weight = last(2, 3, height, width), double(3, 1, kernel, kernel, seed=1)
    expected = with_gradients(lambda x, w: F.conv2d(x, w, None, stride, padding, dilation, groups=3), x, weight)
    assert_close(with_gradients(lambda x, w: kernels.depthwise(x, w, stride, dilation), x, weight), expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 1), (3, 1, 2), (5, 1, 2)]
)
def test_a_depthwise_convolution_can_be_differentiated_twice(kernel, stride, dilation):
    x, weight = last(1, 2, 5, 4).requires_grad_(), double(2, 1, kernel, kernel, seed=1).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, w: kernels.depthwise(x, w, stride, dilation), (x, weight))


@pytest.mark.parametrize("wanted", [(True, False), (False, True)], ids=["of the input", "of the kernel"])
def test_a_depthwise_convolution_computes_only_the_requested_gradients(wanted, monkeypatch):
    asked, gradients = [], kernels._gradients

    def watched(*arguments):
        asked.append(arguments[-1])
        return gradients(*arguments)

    monkeypatch.setattr(kernels, "_gradients", watched)
    x, weight = last(2, 3, 6, 6).requires_grad_(wanted[0]), double(3, 1, 5, 5).requires_grad_(wanted[1])
    kernels.depthwise(x, weight, 1, 1).sum().backward()
    assert set(asked) == {wanted}


def test_a_1x1_convolution_is_torchs():
    x, weight = last(2, 3, 5, 4), double(6, 3, 1, 1)
    found = with_gradients(kernels.pointwise, x, weight)
    assert_close(found, with_gradients(F.conv2d, x, weight))
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [4, kernels.NARROW + 4])
def test_copies_are_concatenated_by_channel(channels):
    x = last(2, channels, 3, 5)
    found = with_gradients(lambda x: kernels.repeat_channels(x, 3), x)
    assert_close(found, with_gradients(lambda x: x.repeat(1, 3, 1, 1), x))
    assert found[0].is_contiguous(memory_format=torch.channels_last)


def normed(x, kernel):
    """Batch norm of a 1x1 convolution of one edge: x [B, C, H, W], kernel [C, D]."""
    y = F.conv2d(x, kernel.t()[:, :, None, None])
    return F.batch_norm(y, None, None, None, None, True, 0.0, kernels.BATCH_NORM_EPS)


def test_normed_relu_is_convolution_norm_and_relu_of_each_edge():
    x, kernel = last(3, 2 * 4, 3, 5), double(2, 4, 6)

    def plain(x, kernel):
        return torch.cat([normed(part, k) for part, k in zip(x.chunk(2, 1), kernel, strict=True)], 1).relu()

    found = with_gradients(kernels.normed_relu, x, kernel)
    assert_close(found, with_gradients(plain, x, kernel))
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("weighted", [True, False])
def test_normed_sum_is_the_weighted_sum_of_norms_of_convolutions(weighted):
    maps, kernel = [last(3, 2 * 4, 3, 5, seed=k) for k in range(3)], double(3, 2, 4, 6)
    weights = double(3, 2, seed=7) if weighted else torch.ones(3, 2, dtype=torch.float64)

    def plain(kernel, weights, *maps):
        parts = [
            [weights[k, e] * normed(part, kernel[k, e]) for e, part in enumerate(x.chunk(2, 1))]
            for k, x in enumerate(maps)
        ]
        return torch.stack([sum(edge) for edge in zip(*parts, strict=True)])

    def quick(kernel, weights, *maps):
        return torch.stack(kernels.normed_sum(maps, kernel, weights if weighted else None))

    value, of_kernel, of_weights, *of_maps = with_gradients(quick, kernel, weights, *maps)
    expected = with_gradients(plain, kernel, weights, *maps)
    assert_close([value, of_kernel, *of_maps], [expected[0], expected[1], *expected[3:]])
    assert_close([of_weights], [expected[2] if weighted else torch.zeros(3, 2, dtype=torch.float64)])


def test_a_channel_that_never_changes_is_normed_to_zero():
    x, kernel = torch.full((2, 4, 3, 3), 1e3), torch.ones(1, 4, 2)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    (y,) = kernels.normed_sum([x], kernel[None], None)
    assert y.isfinite().all()
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all(), "a variance that rounding makes negative is taken as zero"


@pytest.mark.parametrize(
    ("side", "dilation", "left"), [(1, 1, 1), (2, 1, 3), (3, 1, 5), (2, 2, 1), (4, 2, 3), (5, 2, 5), (32, 2, 5)]
)
def test_a_kernel_is_cut_to_what_can_meet_a_pixel(side, dilation, left):
    assert kernels.reached(torch.empty(1, 1, 5, 5), side, dilation).shape[-2:] == (left, left)
