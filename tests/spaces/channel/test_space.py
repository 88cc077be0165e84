"""The space of channels: its record, random masks, bounds, and the way to another size."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.architectures.base import Architecture, ArchitectureError
from nas.architectures.channel import ChannelArchitecture
from nas.architectures.channel_masks import Gates, Masks, every, uniform, widths
from nas.architectures.channel_sizes import effective, first_halves
from nas.architectures.channel_transfer import TransferError
from nas.complexity import count, parameters
from nas.config.params import Size
from nas.contracts import ImageForm
from nas.contracts.gates import GateMix
from nas.spaces.channel.compact import CompactNetwork
from nas.spaces.channel.masked import MaskedNetwork
from nas.spaces.channel.space import ChannelSpace
from nas.spaces.channel.tables import to_gates
from tests.spaces.channel_samples import legal

SEP, FORM = "sep_conv_3x3", ImageForm(1, 8, 8, 10)
SPACE = ChannelSpace()
SIZES = [Size(cells=3, channels=2, stem="cifar"), Size(cells=5, channels=4, stem="cifar")]


@settings(max_examples=30)
@given(legal(), st.sampled_from(["refuse", "repeat"]))
def test_a_record_holds_the_masks_and_survives_json(masks, resize):
    found = ChannelArchitecture.of(masks, "gated", resize)
    again = Architecture.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert again.id == found.id
    assert again.masks == masks


def test_a_record_is_short_and_readable():
    record = ChannelArchitecture.of(uniform(SEP, 20, 36, lambda w: Gates(0b101, 0b10, every(w))), "gated")
    cell = record.to_dict()["cells"][0]
    assert (cell["op"][0], cell["mid"][0], cell["skip"][0]) == ("000000005", "000000002", "fffffffff")
    assert len(record.canonical()) < 25_000


def changed(cell=None, mode="gated", op=SEP, **top):
    record = ChannelArchitecture.of(uniform(op, 3, 2), "gated").to_dict()
    for kind, (e, text) in (cell or {}).items():
        record["cells"][0][kind][e] = text
    return {**record, "skip_mode": mode, **top}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (changed({"op": (3, "4")}), "cells.0, op of edge 3: '4' is not a set of 2 channels"),
        (changed({"mid": (3, "03")}), "cells.0, mid of edge 3: '03' is not a set of 2 channels"),
        (changed({"skip": (3, "x")}), "cells.0, skip of edge 3: 'x' is not a set of 2 channels"),
        (changed({"op": (3, "0")}), "an edge has only one of 'op' and 'mid' channels, or a"),
        (changed(mode="none"), "cells.0, edge 0: the skip channels do not match skip_mode: none"),
        (changed(mode="fallback"), "cells.0, edge 0: the skip channels do not match skip_mode: fallback"),
        (changed(form="dense"), "form: Input should be 'compact' or 'masked'"),
        (changed(mode="gate"), "skip_mode: Input should be 'gated', 'fallback' or 'none'"),
        (changed(resize="topk"), "'scores' are required with resize: topk"),
        (changed(resize="topk", scores=[[[[1.0]]]]), "'scores' do not have the shape of the gates"),
        (changed(scores=[]), "'scores' are required with resize: topk, and null with any other"),
        (changed({"mid": (3, "1")}, op="conv_3x3"), "cells.0, edge 3: conv_3x3 has no middle"),
        ({**changed(), "op": "sep_conv_7x7"}, "operation 'sep_conv_7x7' is not one of sep_conv_3x3, "),
        (changed(cells=changed()["cells"][:2]), "cells: Tuple should have at least 3 items"),
        (changed(channels=4), "cells.0, op of edge 0: '3' is not a set of 4 channels|not a set"),
        (changed(colour="red"), "colour: Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_a_faulty_record_is_refused_by_name(value, message):
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_dict(value)


def test_a_record_with_a_dead_node_or_too_few_edges_is_refused():
    dead = changed()
    for e in (0, 1):
        dead["cells"][1]["op"][e] = dead["cells"][1]["mid"][e] = dead["cells"][1]["skip"][e] = "0"
    for e in (4, 7, 11):
        dead["cells"][1]["skip"][e] = "0"  # the skips that read node 2
    with pytest.raises(ArchitectureError, match="cell 1: no channel reaches node 2"):
        Architecture.from_dict(dead)
    short = changed()
    short["cells"][2]["mid"].pop()
    with pytest.raises(ArchitectureError, match=r"cells\.2, mid: 13 edges, expected 14"):
        Architecture.from_dict(short)


@given(st.integers(0, 2**62), st.sampled_from(SIZES))
@settings(max_examples=20)
def test_random_masks_are_legal_and_depend_only_on_the_generator(seed, size):
    first, again = (SPACE.random(torch.Generator().manual_seed(seed), size) for _ in range(2))
    assert first == again
    assert SPACE.parse(first.to_dict()) == first
    assert first.masks_at(size.cells, size.channels) is first.masks


def test_half_of_the_gates_of_random_masks_are_open():
    drawn = SPACE.random(torch.Generator().manual_seed(0), Size(cells=8, channels=16, stem="cifar"))
    table = to_gates(drawn.masks)[7]
    assert table[:, 0].float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert table[:, 2].float().mean().item() == pytest.approx(0.5, abs=0.05)


# --- Another size


def test_masks_of_one_size_are_refused_at_another_unless_a_rule_is_stated():
    masks = uniform(SEP, 5, 4, lambda w: Gates(every(w // 2), every(w), every(w)))
    refused = ChannelArchitecture.of(masks, "gated")
    with pytest.raises(TransferError, match=r"for 5 cells and 4 channels, not for 5 and 8: set retrain\.cells"):
        SPACE.network(refused, FORM, Size(cells=5, channels=8, stem="cifar"), auxiliary=False)
    with pytest.raises(TransferError, match="not for 8 and 4"):
        SPACE.count(refused, FORM, Size(cells=8, channels=4, stem="cifar"))
    repeated = ChannelArchitecture.of(masks, "gated", "repeat")
    wide = SPACE.network(repeated, FORM, Size(cells=5, channels=8, stem="cifar"), auxiliary=False)
    expected = uniform(SEP, 5, 8, lambda w: Gates(every(w // 2), every(w), every(w)))
    assert repeated.masks_at(5, 8) == expected
    assert parameters(wide) == effective(expected, FORM).params
    assert SPACE.count(repeated, FORM, Size(cells=14, channels=6, stem="cifar")).params > 0


def test_the_best_channels_go_to_another_width():
    masks = uniform(SEP, 3, 4, lambda w: Gates(0b0101, 0b0101, every(w)))
    scores = [[[[float(c) for c in range(w)]] * 3] * 14 for w in masks.widths]
    best = ChannelArchitecture.of(masks, "gated", "topk", scores)
    again = Architecture.from_dict(json.loads(json.dumps(best.to_dict())))
    assert isinstance(again, ChannelArchitecture)
    assert again.masks_at(3, 6).cells[0][0] == Gates(0b011001, 0b011001, 0b111111)
    assert again.masks_at(3, 2).cells[0][0] == Gates(0b10, 0b10, 0b11)


# --- Bounds


def test_no_gates_are_smaller_than_the_smallest_sizes():
    form, size = ImageForm(3, 32, 32, 10), Size(cells=20, channels=36, stem="cifar")
    assert SPACE.smallest(form, size, "gated", mid_gates=False).params == 4_285_270
    assert SPACE.smallest(form, size, "fallback", mid_gates=True).params == 1_370_134
    assert SPACE.smallest(form, size, "gated", mid_gates=True).params < 13_000
    assert first_halves(uniform(SEP, 20, 36), form) == 4_285_270
    assert ChannelSpace("dil_conv_3x3").smallest(form, size, "none", mid_gates=False).params < 1_000_000


@settings(max_examples=30)
@given(st.sampled_from(["gated", "none", "fallback"]), st.data())
def test_smallest_sizes_are_a_bound(mode, data):
    masks = data.draw(legal(skip_mode=mode, cells=3, channels=4))
    space = ChannelSpace(masks.op)
    bound = space.smallest(FORM, Size(cells=3, channels=4, stem="cifar"), mode, mid_gates=True)
    assert bound.params <= effective(masks, FORM).params
    assert bound.macs <= effective(masks, FORM).macs


def test_the_drawing_of_a_cell_says_what_each_edge_keeps():
    cell = [Gates(0, 0, 0)] * 14
    cell[0], cell[2], cell[5], cell[9] = Gates(3, 1, 0), Gates(0, 0, 3), Gates(3, 1, 1), Gates(0, 0, 3)
    found = ChannelArchitecture.of(Masks(SEP, 2, (tuple(cell), *uniform(SEP, 3, 2).cells[1:])), "gated")
    first, second, third = found.graphs()
    assert (first.name, second.name, third.name) == ("normal-0", "reduce-1", "reduce-2")
    assert first.edges[:3] == (
        ("c[k-2]", "0", "sep_conv_3x3 (2)"),
        ("c[k-2]", "1", "skip_connect (2)"),
        ("c[k-2]", "2", "sep_conv_3x3 (2) + skip (1)"),
    )
    assert len(first.edges) == 4 + 4
    assert len(second.edges) == 14 + 4


# --- The stem of ImageNet


def test_the_sizes_of_the_notes_on_imagenet():
    form, size = ImageForm(3, 224, 224, 1000), Size(cells=14, channels=48, stem="imagenet")
    wires = uniform(SEP, 14, 48, lambda w: Gates(0, 0, every(w)))
    assert effective(wires, form, "imagenet").params == 2_427_232
    gates = SPACE.every_gate(size)
    compact, masked = SPACE.sizes(gates, form, size)
    assert compact.params == masked.params == 9_639_136
    assert ChannelSpace("dil_conv_3x3").sizes(gates, form, size)[0].params == 6_033_184
    assert first_halves(uniform(SEP, 14, 48), form, "imagenet") == 6_033_184
    assert ChannelSpace("conv_3x3").sizes(gates, form, size)[0].params == 2_427_232 + 30_237_312
    assert sum(int(table[:, 0].sum()) for table in gates) == 22_848
    assert SPACE.smallest(form, size, "fallback", mid_gates=True).params == 2_427_232
    assert SPACE.smallest(form, size, "gated", mid_gates=False).params == 6_033_184
    with torch.device("meta"):
        assert parameters(SPACE.supernet(form, size, affine=True)) == 9_639_136


@pytest.mark.parametrize("shape", [(64, 64), (37, 29)])
def test_everything_is_counted_with_the_stem_that_the_size_names(shape):
    form, size = ImageForm(3, shape[0], shape[1], 10), Size(cells=3, channels=4, stem="imagenet")
    drawn = SPACE.random(torch.Generator().manual_seed(0), size)
    built = count(lambda: SPACE.network(drawn, form, size, auxiliary=False), form.shape)
    compact, masked = SPACE.sizes(to_gates(drawn.masks), form, size)
    assert built == compact == SPACE.count(drawn, form, size)
    assert compact.params < masked.params
    mix = GateMix([torch.ones(14, 3, w) for w in widths(3, 4)])
    whole = count(lambda: SPACE.supernet(form, size, affine=True), form.shape, mix)
    assert SPACE.supernet_macs(form, size) == whole.macs
    assert SPACE.sizes(SPACE.every_gate(size), form, size) == (whole, whole)
    for mode in ("gated", "none"):
        assert SPACE.smallest(form, size, mode, mid_gates=True).params < compact.params


# --- What is retrained


def test_the_form_of_retraining_is_part_of_the_record_and_of_its_id():
    masks = uniform(SEP, 3, 2)
    compact, masked = (ChannelArchitecture.of(masks, "gated", form=form) for form in ("compact", "masked"))
    assert compact.id != masked.id
    assert Architecture.from_dict(masked.to_dict()) == masked
    size = SIZES[0]
    assert SPACE.count(compact, FORM, size) == SPACE.count(masked, FORM, size)
    kinds = [
        [type(build(record, FORM, size, auxiliary=True)) for build in (SPACE.trainee, SPACE.network)]
        for record in (compact, masked)
    ]
    assert kinds == [[CompactNetwork, CompactNetwork], [MaskedNetwork, CompactNetwork]]
    same = SPACE.trainee(compact, FORM, size, auxiliary=True)
    assert SPACE.trained(same) is same
    with pytest.raises(TransferError, match="not for 5 and 4"):
        SPACE.trainee(masked, FORM, SIZES[1], auxiliary=False)
