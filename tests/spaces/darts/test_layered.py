"""The space of one cell per stage: sizes of its networks and supernets, layouts, records, inheritance of weights."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.architectures.base import Architecture, ArchitectureError
from nas.architectures.darts import LayeredArchitecture
from nas.architectures.genotypes import GENOTYPES
from nas.complexity import parameters
from nas.config.params import Size
from nas.contracts import Growth, ImageForm, SoftMix
from nas.spaces.darts.cells import DiscreteCell, MixedCell, MixedOp
from nas.spaces.darts.layered import CELL_TYPES, LayeredSpace, cell_types
from nas.spaces.darts.space import DartsSpace, random_cell
from tests.spaces.darts.test_cells import assert_same, outcome

SPACE = LayeredSpace()
V1, V2, PDARTS = (GENOTYPES[name] for name in ("DARTS_V1", "DARTS_V2", "PDARTS"))
FIVE = LayeredArchitecture(normal=(V2.normal, V1.normal, PDARTS.normal), reduce=(V2.reduce, PDARTS.reduce))
REVERSED = LayeredArchitecture(normal=FIVE.normal[::-1], reduce=FIVE.reduce[::-1])
CIFAR, IMAGENET = ImageForm(3, 32, 32, 10), ImageForm(3, 224, 224, 1000)
LARGE = Size(cells=20, channels=36, stem="cifar")
MOBILE = Size(cells=14, channels=48, stem="imagenet")
SEARCH = Size(cells=8, channels=16, stem="cifar")
SMALL = Size(cells=5, channels=2, stem="cifar")


def counted(architecture, form, size):
    found = SPACE.count(architecture, form, size)
    return found.params, found.macs


def test_the_sizes_of_the_notes_on_cifar10_guard_the_order_of_the_cells():
    assert counted(FIVE, CIFAR, LARGE) == (3_381_166, 523_695_744)
    assert counted(REVERSED, CIFAR, LARGE) == (3_359_206, 526_110_336)


def test_the_sizes_of_the_notes_on_imagenet():
    assert counted(FIVE, IMAGENET, MOBILE) == (4_858_144, 530_777_088)


def test_a_darts_cell_lifts_to_the_same_network():
    lifted = LayeredArchitecture.lift(V2)
    assert counted(lifted, CIFAR, LARGE) == (3_349_342, 528_359_040)
    assert counted(lifted, ImageForm(1, 32, 32, 10), LARGE)[0] == 3_347_398
    torch.manual_seed(0)
    pair = DartsSpace().network(V2, CIFAR, SMALL, auxiliary=True)
    torch.manual_seed(0)
    layered = SPACE.network(lifted, CIFAR, SMALL, auxiliary=True)
    images = torch.randn(2, 3, 32, 32)
    for one, other in zip(pair(images), layered(images), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("depths", "found", "expected"),
    [((1, 1, 1), 0, 1_275_834), ((4, 1, 1), 2, 1_115_578), ((4, 4, 1), 4, 634_170)],
)
def test_the_supernets_of_the_three_iterations_have_the_sizes_of_the_notes(depths, found, expected):
    n1, n2, n3 = depths
    row = ("normal_1",) * n1 + ("reduce_1",) + ("normal_2",) * n2 + ("reduce_2",) + ("normal_3",) * n3
    growth = Growth(row, {cell_type: FIVE.cells[cell_type] for cell_type in CELL_TYPES[:found]})
    with torch.device("meta"):
        network: Any = SPACE.supernet(CIFAR, SEARCH, growth=growth)
    assert parameters(network) == expected
    assert len(network.cells) == sum(depths) + 2
    for cell_type, cell in zip(row, network.cells, strict=True):
        assert isinstance(cell, DiscreteCell if cell_type in growth.discrete else MixedCell)
        assert not any(isinstance(module, MixedOp) for module in cell.modules()) or cell_type not in growth.discrete


@pytest.mark.parametrize(
    ("cells", "expected"),
    [(5, "1R2R3"), (6, "11R2R3"), (7, "11R2R33"), (8, "11R22R33"), (14, "1111R2222R3333")],
)
def test_a_stage_is_what_lies_between_two_reductions(cells, expected):
    assert (
        "".join("R" if cell_type.startswith("reduce") else cell_type[-1] for cell_type in cell_types(cells)) == expected
    )
    assert [cell_type for cell_type in cell_types(cells) if cell_type.startswith("reduce")] == ["reduce_1", "reduce_2"]


@pytest.mark.parametrize("cells", [3, 4])
def test_a_network_too_shallow_for_three_stages_is_refused(cells):
    message = f"a network of {cells} cells has no room for 3 stages and 2 reductions: expected at least 5 cells"
    with pytest.raises(ArchitectureError, match=message):
        SPACE.network(FIVE, CIFAR, Size(cells=cells, channels=2, stem="cifar"), auxiliary=False)


# --- Records


@given(st.integers(0, 2**62))
def test_an_architecture_comes_back_from_its_record_with_every_cell_in_its_stage(seed):
    drawn = SPACE.random(torch.Generator().manual_seed(seed))
    again = Architecture.from_dict(drawn.to_dict())
    assert again == drawn
    assert again.id == drawn.id
    assert again.cells == drawn.cells
    assert list(drawn.cells) == list(CELL_TYPES)
    assert drawn.to_dict()["stages"] == ["shallow", "middle", "deep"]
    assert len({*drawn.cells.values()}) == 5


def test_the_order_of_the_cells_is_part_of_the_content():
    assert FIVE.id != REVERSED.id
    assert FIVE.cells["normal_1"] == V2.normal
    assert FIVE.cells["reduce_2"] == PDARTS.reduce
    assert REVERSED.cells["normal_3"] == V2.normal


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ["deep", "middle", "shallow"]}, r"stages must be \['shallow', 'middle', 'deep'\], in this order"),
        ({"normal": [V1.normal, V2.normal]}, "normal"),
        ({"reduce": [V1.reduce[:-1], V2.reduce]}, "reduce_1 has 7 pairs, expected 8"),
        ({"normal_concat": [3, 4, 5]}, r"normal_concat must be \[2, 3, 4, 5\]"),
    ],
)
def test_a_faulty_layered_record_is_refused(changes, message):
    with pytest.raises(ArchitectureError, match=message):
        LayeredArchitecture.parse(FIVE.to_dict() | changes)


def test_the_stages_are_drawn_side_by_side():
    sheets = FIVE.sheets()
    assert [[graph.name for graph in sheet] for sheet in sheets.values()] == [
        ["normal_1", "normal_2", "normal_3"],
        ["reduce_1", "reduce_2"],
    ]
    assert [len(sheet) for sheet in V2.sheets().values()] == [1, 1]


# --- Supernets on the way

ROW = ("normal_1", "normal_1", "reduce_1", "normal_2", "reduce_2", "normal_3")


def supernet(growth, reference=False, seed=0):
    torch.manual_seed(seed)
    return SPACE.supernet(ImageForm(1, 8, 8, 4), SMALL, reference, growth).double()


def mix(tables):
    weights = {
        cell_type: tables["normal" if cell_type.startswith("normal") else "reduce"].softmax(-1)
        for cell_type in CELL_TYPES
    }
    return SoftMix(weights)


@pytest.mark.parametrize("found", [0, 2, 4])
def test_the_engine_and_the_reference_agree_on_every_supernet_of_a_search(found):
    growth = Growth(ROW, {cell_type: FIVE.cells[cell_type] for cell_type in CELL_TYPES[:found]})
    form = ImageForm(1, 8, 8, 4)
    plain, quick = supernet(growth, reference=True), supernet(growth)
    quick.load_state_dict(plain.state_dict())
    assert_same(outcome(quick, form, mix), outcome(plain, form, mix))


def bits(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_a_deeper_supernet_inherits_the_weights_whose_shapes_agree():
    young = supernet(Growth(CELL_TYPES, {}), seed=1)
    cell = random_cell(torch.Generator().manual_seed(3))
    older, before = bits(young), bits(supernet(Growth(ROW, {"normal_1": cell, "reduce_1": V2.reduce}), seed=2))
    deep = supernet(Growth(ROW, {"normal_1": cell, "reduce_1": V2.reduce}), seed=2)
    deep.inherit(young)
    after = bits(deep)
    assert torch.equal(after["stem.whole.0.weight"], older["stem.whole.0.weight"])
    assert torch.equal(after["classifier.weight"], older["classifier.weight"])
    for place, (op, pred) in enumerate(cell):  # an operation that stayed keeps its weights, in both copies
        edge, index = [0, 0, 2, 2, 5, 5, 9, 9][place] + pred, list(young.cells[0].edges[0].ops)
        names = [name for name in after if name.startswith(f"cells.0.ops.{place}.")]
        assert bool(names) == ("conv" in op), f"{op} of {len(index)}"
        for name in names:
            rest = name.removeprefix(f"cells.0.ops.{place}.")
            number = {"sep_conv_3x3": 4, "sep_conv_5x5": 5, "dil_conv_3x3": 6, "dil_conv_5x5": 7}[op]
            assert torch.equal(after[name], older[f"cells.0.edges.{edge}.ops.{number}.{rest}"])
            assert torch.equal(after[f"cells.1.ops.{place}.{rest}"], after[name])
    for cell_type, cells in (("normal_2", (3, 2)), ("normal_3", (5, 4))):
        new, old = cells
        moved = [name for name in after if name.startswith(f"cells.{new}.edges.")]
        assert moved, cell_type
        for name in moved:
            assert torch.equal(after[name], older[name.replace(f"cells.{new}.", f"cells.{old}.")])
    # The second copy of the first cell reads a cell where the first reads the stem: another width, so fresh weights.
    assert torch.equal(after["cells.1.input_1.1.weight"], before["cells.1.input_1.1.weight"])


def test_cells_that_the_older_supernet_lacks_are_unchanged():
    young = supernet(Growth(("normal_1", "reduce_1"), {}), seed=1)
    growth = Growth(("normal_1", "reduce_1", "normal_2"), {"normal_1": V1.normal, "reduce_1": V1.reduce})
    before, deep = bits(supernet(growth, seed=2)), supernet(growth, seed=2)
    deep.inherit(young)
    after = bits(deep)
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("cells.2."))
    assert not torch.equal(after["stem.whole.0.weight"], before["stem.whole.0.weight"])
