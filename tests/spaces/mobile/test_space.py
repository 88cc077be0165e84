"""Spaces `mobile` and `mobile_cifar` against the numbers of their notes, and the networks against the supernet."""

import math
from collections import Counter
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.architectures.base import Architecture, ArchitectureError
from nas.architectures.mobile import IMAGENET, MOBILE_OPS, MobileArchitecture, Position
from nas.complexity import count, parameters
from nas.config.params import Size
from nas.contracts import HardMix, ImageForm
from nas.engine.placement import place
from nas.report.drawing import compose
from nas.spaces.mobile import blocks as mobile_blocks
from nas.spaces.mobile.blocks import MobileBlock, SharedBlock, scaled
from nas.spaces.registry import get_space

MOBILE: Any = get_space("mobile")
SMALL: Any = get_space("mobile_cifar")
EACH = pytest.mark.parametrize("space", [MOBILE, SMALL], ids=lambda space: space.name)
PHOTO, TINY = ImageForm(3, 224, 224, 1000), ImageForm(3, 32, 32, 10)
CHANGES = (0, 4, 8, 12, 16, 20)  # positions of `mobile` at which the width changes


def size(space, channels):
    stem = space.chain.stem
    return Size(cells=len(space.chain.positions), channels=channels, stem=stem)


def choices(space, seed):
    generator = torch.Generator().manual_seed(seed)
    return {"chain": [int(torch.randint(len(names), (), generator=generator)) for names in space.rows]}


def images(count=4, side=32):
    drawn = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return drawn.contiguous(memory_format=torch.channels_last)


# the chain


def test_the_numbers_of_variables_and_categories():
    for space, expected, digits in ((MOBILE, (21, 141, 120), 17.3), (SMALL, (16, 106, 90), 13.1)):
        counts = [len(names) for names in space.categories()["chain"]]
        assert (len(counts), sum(counts), sum(counts) - len(counts)) == expected
        assert math.log10(math.prod(counts)) == pytest.approx(digits, abs=0.05)
    assert tuple(at for at, names in enumerate(MOBILE.rows) if "zero" not in names) == CHANGES


def test_widths_and_strides_are_those_of_the_notes():
    places = IMAGENET.positions
    assert [p.width for p in places] == [24] * 4 + [40] * 4 + [80] * 4 + [96] * 4 + [192] * 4 + [320]
    assert [p.stride for p in places] == [2, 1, 1, 1] * 3 + [1, 1, 1, 1] + [2, 1, 1, 1] + [1]
    assert [p.before for p in places] == [16] + [p.width for p in places[:-1]]
    narrow = SMALL.chain.positions
    assert [p.width for p in narrow] == [24] * 2 + [32] * 3 + [64] * 4 + [96] * 3 + [160] * 3 + [320]
    assert [at for at, p in enumerate(narrow) if p.stride == 2] == [5]


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (32, [16, 24, 40, 80, 96, 192, 320, 1280]),
        (16, [8, 12, 20, 40, 48, 96, 160, 640]),
        (4, [2, 4, 6, 10, 12, 24, 40, 160]),
    ],
)
def test_widths_scale_to_the_nearest_even_number(channels, expected):
    assert [scaled(width, channels) for width in (16, 24, 40, 80, 96, 192, 320, 1280)] == expected
    assert scaled(16, 2) == 2  # 1 would be no even number


# parameters


def by_hand(kernel, before, hidden, after):
    """1x1 and batch norm, depthwise and batch norm, 1x1 and batch norm."""
    return before * hidden + 2 * hidden + kernel**2 * hidden + 2 * hidden + hidden * after + 2 * after


@pytest.mark.parametrize(
    ("at", "op", "expected"),
    [
        (0, "mbconv3_3x3", 2_592),  # 16 48 + 96 + 9 48 + 96 + 48 24 + 48
        (1, "mbconv6_5x5", 11_136),  # 24 144 + 288 + 25 144 + 288 + 144 24 + 48
        (20, "mbconv6_7x7", 651_520),  # 192 1152 + 2304 + 49 1152 + 2304 + 1152 320 + 640
    ],
)
def test_golden_parameters_of_a_block(at, op, expected):
    p, (kernel, expansion) = IMAGENET.positions[at], MOBILE_OPS[op]
    assert by_hand(kernel, p.before, expansion * p.before, p.width) == expected
    assert parameters(MobileBlock(op, p, 32)) == expected
    assert MOBILE.costs(PHOTO, size(MOBILE, 32), True)["chain"][at][list(MOBILE_OPS).index(op)] == expected


def fixed_by_hand(channels, classes):
    """Convolution, depthwise-separable block, features and classifier, of the full form."""
    assert channels == 3
    stem = 27 * 32 + 2 * 32 + 9 * 32 + 2 * 32 + 32 * 16 + 2 * 16
    return stem + 320 * 1280 + 2 * 1280 + 1280 * classes + classes


def test_golden_parameters_of_a_network():
    blocks = sum(by_hand(3, p.before, 6 * p.before, p.width) for p in IMAGENET.positions)
    largest = MOBILE.choose({"chain": [1] * 21})
    assert set(largest.blocks) == {"mbconv6_3x3"}
    assert MOBILE.count(largest, PHOTO, size(MOBILE, 32)).params == fixed_by_hand(3, 1000) + blocks == 4_684_776
    shallow = MOBILE.choose({"chain": [1 if at in CHANGES else 6 for at in range(21)]})
    wider = sum(by_hand(3, p.before, 6 * p.before, p.width) for p in IMAGENET.positions if not p.residual)
    assert MOBILE.count(shallow, PHOTO, size(MOBILE, 32)).params == fixed_by_hand(3, 1000) + wider


@EACH
@given(seed=st.integers(0, 2**40))
@settings(max_examples=4)
def test_costs_add_up_to_the_parameters_exactly(space, seed):
    chosen, form = choices(space, seed), ImageForm(3, 64, 48, 7)
    for channels in (32, 6):
        at = size(space, channels)
        costs = space.costs(form, at, affine=True)["chain"]
        total = sum(row[k] for row, k in zip(costs, chosen["chain"], strict=True))
        first = {"chain": [0] * len(costs)}
        fixed = space.count(space.choose(first), form, at).params - sum(row[0] for row in costs)
        assert space.count(space.choose(chosen), form, at).params == fixed + total
        if channels == 32:
            assert fixed == fixed_by_hand(3, 7)


@EACH
def test_costs_at_search_are_the_parameters_of_the_path(space):
    network, chosen = space.supernet(TINY, size(space, 4)), choices(space, 1)
    network(images(2), space.path(chosen)).sum().backward()
    ran = sum(
        p.numel() for name, p in network.named_parameters() if name.startswith("positions") and p.grad is not None
    )
    costs = space.costs(TINY, size(space, 4), affine=False)["chain"]
    assert sum(row[k] for row, k in zip(costs, chosen["chain"], strict=True)) == ran
    assert all(row[-1] == 0 for row, names in zip(costs, space.rows, strict=True) if "zero" in names)


@EACH
@pytest.mark.parametrize("form", [TINY, ImageForm(1, 64, 49, 3), ImageForm(1, 8, 8, 3)], ids=str)
def test_multiply_adds_of_a_path_are_those_that_run(space, form):
    chosen, at = choices(space, 2), size(space, 6)
    counted = count(lambda: space.supernet(form, at), form.shape, HardMix(chosen)).macs
    assert space.path_macs(form, at, chosen) == counted == space.count(space.choose(chosen), form, at).macs
    assert counted < space.supernet_macs(form, at)


# the supernet


def copied(shared, expansion, found):
    """The weights of a shared block in a found one; scales stay 1, shifts 0."""
    halves = shared.halves[: expansion // 3]
    with torch.no_grad():
        for name, parts, dim in (("expand", "expand", 0), ("depthwise", "depthwise", 0), ("project", "project", 1)):
            weight = torch.cat([getattr(half, parts).weight for half in halves], dim)
            getattr(found, name)[0].weight.copy_(weight)


@pytest.mark.parametrize("op", MOBILE_OPS)
@pytest.mark.parametrize("place", [Position(0, 4, 4, 1), Position(0, 4, 6, 2)], ids=["residual", "stride 2"])
def test_a_shared_block_equals_a_plain_one_with_the_first_channels_of_its_weights(op, place):
    torch.manual_seed(0)
    kernel, expansion = MOBILE_OPS[op]
    shared, found = SharedBlock(kernel, place, 32).double(), MobileBlock(op, place, 32).double()
    copied(shared, expansion, found)
    x = torch.randn(3, 4, 9, 7, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    y = shared(x, expansion)
    torch.testing.assert_close(x + y if place.residual else y, found(x), rtol=1e-10, atol=1e-10)


@EACH
def test_a_network_with_the_weights_of_a_path_computes_what_the_path_does(space, monkeypatch):
    torch.manual_seed(0)
    chosen, at = choices(space, 3), size(space, 4)
    shared, found = space.supernet(TINY, at).double(), space.network(space.choose(chosen), TINY, at, False).double()
    found.stem.load_state_dict(shared.stem.state_dict())
    found.classifier.load_state_dict(shared.classifier.state_dict())
    with torch.no_grad():
        found.features[0].weight.copy_(shared.features[0].weight)
    blocks = iter(found.blocks)
    for position, name in zip(shared.positions, space.choose(chosen).blocks, strict=True):
        if name != "zero":
            kernel, expansion = MOBILE_OPS[name]
            copied(position.blocks[str(kernel)], expansion, next(blocks))
    pixels = images(6).double()
    expected = shared(pixels, space.path(chosen))
    dropped, _ = found(pixels)
    assert not torch.allclose(dropped, expected)  # the network has dropout
    monkeypatch.setattr(mobile_blocks, "DROPOUT", 0.0)
    torch.testing.assert_close(found(pixels)[0], expected, rtol=1e-8, atol=1e-8)


def test_only_the_path_has_gradients_and_expansion_three_only_the_first_half():
    network = MOBILE.supernet(TINY, size(MOBILE, 2))
    chain = [0] * 21  # 3x3, expansion 3
    chain[0], chain[1], chain[2] = 5, 6, 3  # 7x7 of 6, skipped, 5x5 of 6
    network(images(), MOBILE.path({"chain": chain})).square().sum().backward()
    held = {name for name, p in network.named_parameters() if name.startswith("positions") and p.grad is not None}
    ran = {".".join(name.split(".")[1:6]) for name in held}
    whole = {f"{at}.blocks.{kernel}.halves.{half}" for at, kernel in ((0, 7), (2, 5)) for half in (0, 1)}
    assert ran == whole | {f"{at}.blocks.3.halves.0" for at in range(3, 21)}
    assert all(p.grad is not None for name, p in network.named_parameters() if not name.startswith("positions"))


def test_a_skipped_block_leaves_the_map_as_it_is():
    position = MOBILE.supernet(TINY, size(MOBILE, 2)).positions[1]
    x = torch.randn(2, 2, 4, 4)
    assert position(x, 6) is x
    assert len(MOBILE.network(MOBILE.choose({"chain": [0 if k in CHANGES else 6 for k in range(21)]}), TINY,
                              size(MOBILE, 2), False).blocks) == 6  # fmt: skip


@pytest.mark.parametrize("side", [8, 32, 64])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_small_images_run_in_both_precisions(side, precision):
    form, at = ImageForm(3, side, side, 5), size(MOBILE, 2)
    torch.manual_seed(0)
    network = place(MOBILE.supernet(form, at), torch.device("cpu"), precision)
    logits = network(images(side=side), MOBILE.path(choices(MOBILE, 0)))
    logits.sum().backward()
    assert logits.shape == (4, 5)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


# the network


def test_the_network_has_no_auxiliary_head_and_drops_before_the_classifier_in_training_alone():
    torch.manual_seed(0)
    network = MOBILE.network(MOBILE.choose(choices(MOBILE, 0)), TINY, size(MOBILE, 4), auxiliary=True)
    assert parameters(network) == MOBILE.count(MOBILE.choose(choices(MOBILE, 0)), TINY, size(MOBILE, 4)).params
    shares = []
    network.classifier.register_forward_pre_hook(lambda _, args: shares.append(args[0]))
    first, auxiliary = network(images(64))
    assert auxiliary is None
    network.eval()
    torch.testing.assert_close(network(images(64))[0], network(images(64))[0])
    features, kept = (x.count_nonzero().item() for x in (shares[1], shares[0]))
    assert kept < 0.9 * features
    assert first.shape == (64, 10)


def test_drop_path_drops_whole_residual_blocks():
    torch.manual_seed(0)
    place, x = IMAGENET.positions[1], torch.randn(64, 24, 4, 4)
    block = MobileBlock("mbconv3_3x3", place, 32)
    y = block(x, 0.5)
    same = (y == x).flatten(1).all(1)
    assert 10 < same.sum() < 54
    torch.testing.assert_close(y[~same] - x[~same], 2 * (block(x) - x)[~same], rtol=1e-4, atol=1e-4)
    assert torch.equal(block.eval()(x, 0.5), block(x))


# records


@EACH
@given(seed=st.integers(0, 2**62))
def test_a_random_architecture_is_valid_and_depends_only_on_the_generator(space, seed):
    first, again = (space.random(torch.Generator().manual_seed(seed)) for _ in range(2))
    assert first == again == space.parse(first.to_dict()) == Architecture.from_dict(first.to_dict())


def test_random_blocks_are_uniform():
    generator, total = torch.Generator().manual_seed(0), 1400
    drawn = [MOBILE.random(generator).blocks for _ in range(total)]
    for at in (0, 1):
        names = MOBILE.rows[at]
        found, p = Counter(blocks[at] for blocks in drawn), 1 / len(names)
        assert all(abs(found[name] - total * p) < 4 * (total * p * (1 - p)) ** 0.5 for name in names)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (["mbconv3_3x3"] * 20, "there are 20 blocks, expected 21"),
        (["zero"] * 21, "blocks.0: 'zero' is not one of mbconv3_3x3, mbconv6_3x3, .*, mbconv6_7x7 "),
        (["mbconv3_3x3"] * 20 + ["sep_conv_3x3"], "blocks.20: 'sep_conv_3x3' is not one of"),
    ],
)
def test_a_faulty_record_is_refused_by_name(blocks, message):
    with pytest.raises(ArchitectureError, match=message):
        MobileArchitecture.parse({"space": "mobile", "blocks": blocks})


@pytest.mark.parametrize(
    ("space", "wrong", "message"),
    [
        (MOBILE, Size(cells=5, channels=4, stem="imagenet"), "cells is 5, but mobile is one chain of 21 .* cells: 21$"),
        (MOBILE, Size(cells=21, channels=4, stem="cifar"), "stem is 'cifar', but mobile .*: set stem: imagenet$"),
        (MOBILE, Size(cells=5, channels=4, stem="cifar"), "cells is 5 and stem is 'cifar', .*: set cells: 21, stem: "),
        (
            SMALL,
            Size(cells=21, channels=4, stem="imagenet"),
            "but mobile_cifar is one chain of 16 .* cells: 16, stem: cif",
        ),
    ],
)
def test_another_depth_or_stem_is_refused_by_key(space, wrong, message):
    for use in (
        lambda: space.supernet(TINY, wrong),
        lambda: space.network(space.choose(choices(space, 0)), TINY, wrong, False),
        lambda: space.costs(TINY, wrong, True),
        lambda: space.supernet_macs(TINY, wrong),
    ):
        with pytest.raises(ArchitectureError, match=message):
            use()


@EACH
def test_the_drawing_has_a_row_per_stage_and_leaves_skipped_blocks_out(space):
    skipped = [len(names) - 1 if "zero" in names and at % 2 else 0 for at, names in enumerate(space.rows)]
    found = space.choose({"chain": skipped})
    ((name, graphs),) = found.sheets().items()
    assert (name, [graph.row for graph in graphs]) == ("chain", list(range(6)))
    edges = [edge for graph in graphs for edge in graph.edges]
    assert [label for _, _, label in edges] == [block for block in found.blocks if block != "zero"]
    assert edges[0][0] == "stem"
    assert [end for _, end, _ in edges] == [str(at + 1) for at, block in enumerate(found.blocks) if block != "zero"]
    assert all(a[1] == b[0] for a, b in pairwise(edges))
    canvas = compose(graphs, "chain")
    extents = [text.box for text in canvas.texts]
    assert not [pair for pair in combinations(extents, 2) if pair[0].overlaps(pair[1])]
    assert all(canvas.box.holds(extent) for extent in extents)
