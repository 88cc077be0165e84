import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas.architectures.genotypes import GENOTYPES
from nas.complexity import Count, count, nearest_width, parameters
from nas.config.params import Size
from nas.contracts import CategoricalSpace, EdgeSpace, ImageForm, SoftMix
from nas.contracts.gates import GateMix, GateSpace
from nas.registry import SPACES
from nas.spaces.blocks.stems import AuxiliaryHead, stem
from nas.spaces.registry import get_space

CIFAR10, CIFAR100 = ImageForm(3, 32, 32, 10), ImageForm(3, 32, 32, 100)
DIGITS = ImageForm(1, 8, 8, 10)
LARGE = Size(cells=20, channels=36, stem="cifar")

# Two counters that share no code agreed on these: id -> (CIFAR-10 parameters, MACs, CIFAR-100 parameters, one-channel).
GOLDEN = {
    "DARTS_V1": (3_169_414, 500_987_520, 3_221_344, 3_167_470),
    "DARTS_V2": (3_349_342, 528_359_040, 3_401_272, 3_347_398),
    "PDARTS": (3_433_798, 532_174_464, 3_485_728, 3_431_854),
    "EOI_GNAS": (4_142_062, 639_172_224, 4_193_992, 4_140_118),
    "EOI_GNAS_2": (3_525_598, 541_768_320, 3_577_528, 3_523_654),
    "EOI_SEG_GNAS": (3_454_102, 533_031_552, 3_506_032, 3_452_158),
    "EOI_SEG": (3_566_422, 557_002_368, 3_618_352, 3_564_478),
}


# id -> (parameters, MACs) at L = 14, C = 48 for ImageNet.
MOBILE = {
    "DARTS_V1": (4_510_432, 505_864_704),
    "DARTS_V2": (4_718_752, 529_911_552),
    "PDARTS": (4_944_352, 542_819_328),
    "EOI_GNAS": (5_818_528, 639_759_360),
    "EOI_GNAS_2": (5_101_312, 555_322_560),
    "EOI_SEG_GNAS": (5_039_104, 547_890_240),
    "EOI_SEG": (5_111_968, 563_648_640),
}


def network_parameters(name, form, size, auxiliary=False):
    """Parameters of a published cell's network, which is built and never run."""
    with torch.device("meta"):
        return parameters(get_space("darts").network(GENOTYPES[name], form, size, auxiliary))


def test_every_published_cell_has_its_golden_sizes():
    assert set(GOLDEN) == set(GENOTYPES)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_parameters_and_macs_on_cifar10(name):
    found = get_space("darts").count(GENOTYPES[name], CIFAR10, LARGE)
    assert (found.params, found.macs) == GOLDEN[name][:2]


@pytest.mark.parametrize("name", MOBILE)
def test_golden_parameters_and_macs_on_imagenet(name):
    size = Size(cells=14, channels=48, stem="imagenet")
    found = get_space("darts").count(GENOTYPES[name], ImageForm(3, 224, 224, 1000), size)
    assert (found.params, found.macs) == MOBILE[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_parameters_with_a_hundred_classes(name):
    assert network_parameters(name, CIFAR100, LARGE) == GOLDEN[name][2]


def test_golden_parameters_with_one_channel():
    three, one = stem(3, 3 * 36), stem(1, 3 * 36)
    assert parameters(three) - parameters(one) == 9 * 2 * 3 * 36
    for cifar10, _, _, one_channel in GOLDEN.values():
        assert cifar10 - one_channel == 9 * 2 * 3 * 36


@pytest.mark.parametrize("name", ["DARTS_V2", "EOI_SEG"])
def test_golden_parameters_of_whole_networks_with_one_channel(name):
    assert network_parameters(name, ImageForm(1, 32, 32, 10), LARGE) == GOLDEN[name][3]


@pytest.mark.parametrize(("name", "expected"), [("DARTS_V2", 37_018), ("EOI_GNAS_2", 60_450)])
def test_golden_parameters_of_small_networks(name, expected):
    assert network_parameters(name, CIFAR10, Size(cells=5, channels=8, stem="cifar")) == expected


def test_the_auxiliary_head_has_476426_parameters_and_is_not_counted():
    assert parameters(AuxiliaryHead(16 * 36, 10)) == 476_426
    assert network_parameters("DARTS_V2", CIFAR10, LARGE, auxiliary=True) == GOLDEN["DARTS_V2"][0] + 476_426


@pytest.mark.parametrize(("cells", "channels", "expected"), [(8, 16, 1_930_618), (5, 16, 1_275_834), (5, 4, 136_182)])
@pytest.mark.parametrize("reference", [False, True])
def test_golden_parameters_of_supernets(cells, channels, expected, reference):
    with torch.device("meta"):
        network = get_space("darts").supernet(CIFAR10, Size(cells=cells, channels=channels, stem="cifar"), reference)
    assert parameters(network) == expected


class Tiny(nn.Module):
    """Everything that counts, and what does not: norm, activation, pooling, bias."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False)
        self.linear = nn.Linear(4, 7)

    def forward(self, x, times=1):
        x = self.norm(self.conv(x)).relu()
        for _ in range(times):
            x = self.depthwise(x)
        return self.linear(x.mean((2, 3)))


def test_a_small_module_has_the_macs_counted_by_hand():
    found = count(Tiny, (3, 9, 6))  # maps of 5 x 3 after the stride
    conv, depthwise, linear = 5 * 3 * 4 * 3 * 9, 5 * 3 * 4 * 25, 4 * 7
    assert found == Count(params=(3 * 9 + 1) * 4 + 2 * 4 + 4 * 25 + (4 + 1) * 7, macs=conv + depthwise + linear)


def test_a_module_counts_as_often_as_it_runs_and_gets_the_further_inputs():
    assert count(Tiny, (3, 8, 8), 3).macs - count(Tiny, (3, 8, 8)).macs == 2 * 16 * 4 * 25


def test_millions_are_millions():
    assert (Count(2_500_000, 125_000).params_m, Count(2_500_000, 125_000).macs_m) == (2.5, 0.125)


def edge_macs(c, h, w, stride):
    """All eight operations of an edge, from the table of operations; h x w is the map they give."""
    sep3, sep5 = 2 * (9 * c + c * c), 2 * (25 * c + c * c)
    dil3, dil5 = 9 * c + c * c, 25 * c + c * c
    return h * w * (sep3 + sep5 + dil3 + dil5 + (c * c if stride == 2 else 0))


def test_supernet_macs_count_every_operation_as_it_is_written_down():
    height, width = 9, 6
    form = ImageForm(1, height, width, 10)
    h2, w2 = -(-height // 2), -(-width // 2)
    h4, w4 = -(-h2 // 2), -(-w2 // 2)
    stem = height * width * 9 * 1 * 6
    # Three cells: normal (C = 2), reduction (4), reduction (8); the inputs of a cell are brought to its width.
    normal = height * width * (6 * 2 + 6 * 2) + 14 * edge_macs(2, height, width, 1)
    first = height * width * (6 * 4 + 8 * 4) + 8 * edge_macs(4, h2, w2, 2) + 6 * edge_macs(4, h2, w2, 1)
    # The older input still has the map of the cell before the reduction, and is halved.
    second = h2 * w2 * (8 * 8 + 16 * 8) + 8 * edge_macs(8, h4, w4, 2) + 6 * edge_macs(8, h4, w4, 1)
    expected = stem + normal + first + second + 32 * 10
    assert get_space("darts").supernet_macs(form, Size(cells=3, channels=2, stem="cifar")) == expected


@pytest.mark.parametrize(
    ("target", "expected"), [(1, 2), (40, 6), (100, 10), (120, 10), (121, 10), (123, 12), (400, 20)]
)
@pytest.mark.parametrize("start", [2, 10, 40])
def test_the_nearest_width_is_even_and_the_narrower_of_two(target, expected, start):
    assert nearest_width(lambda width: width * width, target, start) == expected


# --- The same counts as on torch's meta device, which computes shapes in another way


def counted_on_meta(build, shape, *inputs):
    """The reference for `count`: real convolutions on tensors without data."""
    macs = 0

    def add(module, _, output):
        nonlocal macs
        weights = module.weight[0].numel()  # of one output: all inputs of its group
        macs += output[0].numel() * weights

    with torch.device("meta"), torch.no_grad():
        network = build().eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(add)
            if isinstance(module, nn.BatchNorm2d):
                # it refuses maps of one pixel, and is slow
                setattr(module, "forward", lambda x: x)  # noqa: B010 (mypy)
        network(torch.zeros(1, *shape), *inputs)
    return Count(parameters(network), macs)


def on_meta(mix):
    """A mix whose tensors are on the meta device."""
    if isinstance(mix, SoftMix):
        return SoftMix({cell_type: table.to("meta") for cell_type, table in mix.weights.items()}, mix.alive)
    return GateMix([table.to("meta") for table in mix.gates]) if isinstance(mix, GateMix) else mix


def mixes(space, size):
    """One mix of each kind that the supernet of the space takes."""
    if isinstance(space, EdgeSpace):
        rows = space.variables()
        tables = {cell_type: torch.zeros(len(names), len(names[0])) for cell_type, names in rows.items()}
        yield SoftMix(tables)
        yield SoftMix(tables, {cell_type: [[e % 5, 3] for e in range(len(names))] for cell_type, names in rows.items()})
    if isinstance(space, CategoricalSpace):
        yield space.path({cell_type: [len(n) // 2 for n in names] for cell_type, names in space.categories().items()})
    if isinstance(space, GateSpace):
        yield GateMix([table.float() for table in space.every_gate(size)])


SIZES: dict[str, dict[str, Any]] = {  # of the spaces that have one depth
    "mobile": {"cells": 21, "stem": "imagenet"},
    "mobile_cifar": {"cells": 16},
    "channel": {"cells": 3},
}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 37, 29)])
@pytest.mark.parametrize("name", SPACES)
def test_networks_and_supernets_count_as_on_the_meta_device(name, shape):
    space: Any = get_space(name)
    channels, height, width = shape
    form, size = ImageForm(channels, height, width, 7), Size(cells=5, channels=2, stem="cifar")
    size = size.model_copy(update=SIZES.get(name, {}))
    for seed in range(2):
        drawn = space.random(torch.Generator().manual_seed(seed))

        def network():
            return space.network(drawn, form, size, auxiliary=False)  # noqa: B023 (called at once)

        expected = counted_on_meta(network, form.shape)
        assert count(network, form.shape) == space.count(drawn, form, size) == expected
    for mix in mixes(space, size):
        expected = counted_on_meta(lambda: space.supernet(form, size, reference=True), form.shape, on_meta(mix))
        assert count(lambda: space.supernet(form, size, reference=True), form.shape, mix) == expected


@pytest.mark.parametrize("module", [nn.Conv2d(3, 4, (3, 5), (2, 1), "valid"), nn.Conv2d(3, 6, 5, 1, "same", 2, 3)])
def test_kernels_of_any_shape_count_as_on_the_meta_device(module):
    options = module.stride, module.padding, module.dilation, module.groups
    build = lambda: nn.Conv2d(3, module.out_channels, module.kernel_size, *options)  # noqa: E731
    assert count(build, (3, 17, 11)) == counted_on_meta(build, (3, 17, 11))


def test_a_network_that_does_not_fit_its_input_is_refused():
    with pytest.raises(ValueError, match="a convolution expects 3 channels, not 2"):
        count(Tiny, (2, 8, 8))


def test_a_count_draws_no_random_numbers():
    state = torch.get_rng_state()
    count(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2), nn.Dropout()), (1, 4, 4))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_fresh_process_counts_without_importing_more_of_torch():
    code = """
import sys, torch
from nas.config.params import Size
from nas.contracts import ImageForm
from nas.spaces.registry import get_space
space, form, size = get_space("darts"), ImageForm(1, 8, 8, 10), Size(cells=5, channels=4, stem="cifar")
before = set(sys.modules)
space.count(space.random(torch.Generator().manual_seed(0)), form, size)
space.supernet_macs(form, size)
print(sorted(set(sys.modules) - before), "torch._dynamo" in sys.modules)
"""
    project = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout == "[] False\n"
