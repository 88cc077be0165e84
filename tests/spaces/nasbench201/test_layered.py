"""NAS-Bench-201's skeleton with a cell per stage: records, sizes, order of the stages, supernets that grow."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from nas.architectures.base import Architecture, ArchitectureError
from nas.architectures.nasbench201 import (
    CELL_TYPES,
    NASBENCH201_EDGES,
    OPERATIONS,
    NasBench201Architecture,
    NasBench201LayeredArchitecture,
)
from nas.complexity import parameters
from nas.contracts import Growth, HardMix, ImageForm, SoftMix
from nas.spaces.nasbench201.cells import MixedCell, Residual
from nas.spaces.registry import get_space
from tests.spaces.nasbench201.test_space import EVEN, NONE, ODD, OFFICIAL, ONE, POOL, RESNET, SIZE, SKIP, THREE, cells

SPACE: Any = get_space("nasbench201_layered")
ONE_CELL: Any = get_space("nasbench201")
CIFAR = ImageForm(3, 32, 32, 10)
POOLS = "|avg_pool_3x3~0|+|nor_conv_1x1~0|none~1|+|none~0|skip_connect~1|nor_conv_3x3~2|"
three_cells = st.tuples(cells, cells, cells)


def layered(*stages):
    return NasBench201LayeredArchitecture.parse(dict(zip(CELL_TYPES, stages, strict=True)))


def pairs(*ops):
    return SPACE.discretise([(op, 1.0) for op in ops])


# --- The record


@given(three_cells)
def test_the_cells_survive_their_strings_and_their_record_each_in_its_stage(stages):
    found = layered(*stages)
    again = NasBench201LayeredArchitecture.read(found.texts)
    assert again == found == Architecture.from_dict(found.to_dict()) == SPACE.parse(found.to_dict())
    assert list(found.cells.items()) == list(zip(CELL_TYPES, stages, strict=True))
    assert (layered(*stages[::-1]).id == found.id) == (stages[0] == stages[2])


def test_one_string_gives_the_cell_of_every_stage():
    found = NasBench201LayeredArchitecture.read([RESNET])
    assert found == NasBench201LayeredArchitecture.read([RESNET] * 3)
    assert found.texts == (RESNET,) * 3
    assert SPACE.text(found) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell_2": ["none"] * 5}, "cell_2 has 5 operations, expected 6, one per edge"),
        ({"cell_3": ["none"] * 5 + ["max_pool_3x3"]}, "cell_3, edge 2 -> 3: operation 'max_pool_3x3' is not one of"),
        ({"cell_4": ["none"] * 6}, "cell_4"),
    ],
)
def test_a_faulty_record_is_refused_by_name(change, message):
    record = NasBench201LayeredArchitecture.read([RESNET]).to_dict() | change
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_dict(record)


@pytest.mark.parametrize("texts", [[], [RESNET] * 2, [RESNET] * 4])
def test_there_is_a_cell_per_stage_or_one_for_all(texts):
    with pytest.raises(ArchitectureError, match=f"{len(texts)} cells, expected 3, one per stage, or one for all"):
        NasBench201LayeredArchitecture.read(texts)


def test_the_stages_are_drawn_side_by_side():
    (sheet,) = NasBench201LayeredArchitecture.read([RESNET, POOLS, RESNET]).sheets().values()
    assert [graph.name for graph in sheet] == list(CELL_TYPES)
    assert sheet[0].edges == NasBench201Architecture.read(RESNET).graphs()[0].edges != sheet[1].edges


# --- The network


def test_a_cell_in_every_stage_has_the_size_that_is_published_of_it():
    found = SPACE.count(NasBench201LayeredArchitecture.read([RESNET]), CIFAR, OFFICIAL)
    assert (found.params, found.macs) == (559_386, 78_561_920)


@settings(max_examples=5)
@given(cells)
def test_a_cell_in_every_stage_is_the_network_of_the_space_of_one_cell(operations):
    one, three = NasBench201Architecture(operations=operations), layered(*[operations] * 3)
    assert SPACE.count(three, ODD, SIZE) == ONE_CELL.count(one, ODD, SIZE)
    networks = []
    for space, architecture in ((SPACE, three), (ONE_CELL, one)):
        torch.manual_seed(0)
        networks.append(space.network(architecture, ODD, SIZE, auxiliary=True))
    images = torch.randn(2, 3, 9, 11)
    for found, expected in zip(*(network(images) for network in networks), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("stage", range(3))
def test_every_cell_is_in_its_stage(stage):
    nothing = ("none",) * 6
    stages = [nothing] * 3
    stages[stage] = ("nor_conv_1x1", *nothing[1:])
    width = OFFICIAL.channels << stage
    found, bare = (SPACE.count(layered(*cells), CIFAR, OFFICIAL).params for cells in (stages, [nothing] * 3))
    assert found - bare == 5 * (width**2 + 2 * width)


# --- Supernets on the way

ROW = ("cell_1", "cell_1", "cell_2", "cell_3")
FOUND = {
    "cell_1": pairs(THREE, ONE, SKIP, POOL, NONE, THREE),
    "cell_2": pairs(ONE, NONE, THREE, SKIP, NONE, NONE),  # 0 -> 1 -> 2 lead nowhere
}


def supernet(growth, reference=False, seed=0):
    torch.manual_seed(seed)
    return SPACE.supernet(EVEN, SIZE, reference, growth).double()


def outcome(network, mix_of):
    """Logits and every gradient, those of the tables too; None without a gradient."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(3, 1, 8, 8, generator=generator, dtype=torch.float64)
    images = images.contiguous(memory_format=torch.channels_last)
    alphas = {k: torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True) for k in CELL_TYPES}
    logits = network(images, mix_of({cell_type: alpha.softmax(-1) for cell_type, alpha in alphas.items()}))
    cross_entropy(logits, torch.tensor([0, 2, 1])).backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return {"logits": logits.detach(), **gradients, **{cell_type: alpha.grad for cell_type, alpha in alphas.items()}}


def alive(tables):
    ops = [[NONE, SKIP, THREE], [ONE], [], [NONE, POOL], [ONE, THREE], [SKIP, POOL]]
    return SoftMix(tables, dict(zip(CELL_TYPES, (ops, ops[::-1], ops[2:] + ops[:2]), strict=True)))


def path(tables):
    return HardMix({cell_type: [(e + k) % 5 for e in range(6)] for k, cell_type in enumerate(CELL_TYPES)})


@pytest.mark.parametrize("mix_of", [SoftMix, alive, path], ids=["soft", "alive", "hard"])
@pytest.mark.parametrize("found", [0, 1, 2])
def test_the_engine_and_the_reference_agree_on_every_supernet_of_a_search(found, mix_of):
    growth = Growth(ROW if found else CELL_TYPES, {cell_type: FOUND[cell_type] for cell_type in CELL_TYPES[:found]})
    plain, quick = supernet(growth, reference=True), supernet(growth)
    quick.load_state_dict(plain.state_dict())
    expected, batched = outcome(plain, mix_of), outcome(quick, mix_of)
    assert [cell_type for cell_type in CELL_TYPES if expected[cell_type] is not None] == (
        [] if mix_of is path else list(CELL_TYPES[found:])
    )
    for name, value in expected.items():
        if value is None:
            assert batched[name] is None, name
        else:
            assert (batched[name] - value).abs().max() <= 1e-9 * value.abs().max(), name


def blocks(network):
    return "".join("r" if isinstance(block, Residual) else "c" for block in network.cells)


def test_residual_blocks_stand_between_the_stages_of_any_row():
    assert blocks(SPACE.supernet(EVEN, SIZE.model_copy(update={"cells": 8}))) == "ccrccrcc"
    assert blocks(supernet(Growth(CELL_TYPES))) == "crcrc"
    assert blocks(supernet(Growth(ROW, FOUND))) == "ccrcrc"
    ended = supernet(Growth(("cell_1", "cell_1", "cell_2"), FOUND))
    assert (blocks(ended), ended.classifier.in_features) == ("ccrc", 2 * SIZE.channels)
    whole = [cell_type for cell_type in CELL_TYPES for _ in range(5)]
    assert (
        SPACE.supernet(EVEN, SIZE, growth=Growth(tuple(whole))).cell_types == SPACE.supernet(EVEN, OFFICIAL).cell_types
    )


def test_a_growing_supernet_refuses_the_stem_of_imagenet_too():
    with pytest.raises(ArchitectureError, match="supports only 'cifar'"):
        SPACE.supernet(EVEN, SIZE.model_copy(update={"stem": "imagenet"}), growth=Growth(CELL_TYPES))


def test_a_discrete_cell_has_only_its_operations_and_computes_their_path():
    young, grown = supernet(Growth(CELL_TYPES)), supernet(Growth(CELL_TYPES, {"cell_1": FOUND["cell_1"]}), seed=1)
    grown.inherit(young)
    first = grown.cells[0]
    assert isinstance(first, MixedCell)
    assert parameters(first) == 2**2 * (9 + 1 + 9)
    chosen = [OPERATIONS.index(op) for op, _ in FOUND["cell_1"]]
    deeper = {cell_type: [POOL, ONE, SKIP, THREE, NONE, ONE] for cell_type in CELL_TYPES[1:]}
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    expected = young(images, HardMix({"cell_1": chosen, **deeper}))
    torch.testing.assert_close(grown(images, HardMix(deeper)), expected, rtol=0, atol=0)


def test_a_deeper_supernet_inherits_the_weights_of_cells_and_blocks():
    young, grown = supernet(Growth(CELL_TYPES)), supernet(Growth(ROW, {"cell_1": FOUND["cell_1"]}), seed=1)
    grown.inherit(young)
    before, after = young.state_dict(), grown.state_dict()
    places = {0: 0, 1: 0, 2: 1, 3: 2, 4: 3, 5: 4}  # both copies of the first cell take its weights
    assert [grown.cell_types[new] for new in places] == [young.cell_types[old] for old in places.values()]
    for name, value in after.items():
        part, place, *rest = name.split(".")
        old = ".".join([part, str(places[int(place)]), *rest]) if part == "cells" else name
        assert torch.equal(value, before[old]), name


def test_a_stage_that_the_older_supernet_lacks_is_unchanged():
    growth = Growth(("cell_1", "cell_2"), {"cell_1": FOUND["cell_1"]})
    fresh, grown = supernet(growth, seed=1), supernet(growth, seed=1)
    grown.inherit(supernet(Growth(("cell_1",))))
    same = {name for name, value in grown.state_dict().items() if torch.equal(value, fresh.state_dict()[name])}
    learnt = {name for name, p in grown.named_parameters() if p.ndim > 1}
    assert {name for name in learnt if name.startswith("cells.0.") or name.startswith("stem.")}.isdisjoint(same)
    assert {name for name in learnt if name.startswith(("cells.1.", "cells.2.", "classifier."))} <= same


def test_every_edge_has_its_index_and_its_node():
    cell = pairs(*range(5), 0)
    assert SPACE.edges_of(cell) == ONE_CELL.edges_of(cell) == list(range(6))
    assert [*zip(SPACE.nodes_of(cell), (pred for _, pred in cell), strict=True)] == list(NASBENCH201_EDGES)
    assert all(a <= b for a, b in pairwise(SPACE.nodes_of(cell)))
