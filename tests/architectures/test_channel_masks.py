"""The formulas of channel masks against the numbers of the notes, and what must hold for any masks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.architectures.cell_shape import DARTS_EDGES, NODES, reductions
from nas.architectures.cell_shape import DARTS_EDGES as THEIR_EDGES
from nas.architectures.cell_shape import NODES as THEIR_NODES
from nas.architectures.cell_shape import reductions as their_reductions
from nas.architectures.channel_masks import (
    Gates,
    Masks,
    all_open,
    closed,
    dead_node,
    every,
    live,
    members,
    statistics,
    to_hex,
    uniform,
    widths,
)
from nas.architectures.channel_sizes import OPERATIONS, effective, first_halves, marginal, nominal
from nas.architectures.channel_transfer import TransferError, cell_map, repeat, resized, topk
from nas.contracts import ImageForm
from tests.spaces.channel_samples import legal

CIFAR10, DIGITS = ImageForm(3, 32, 32, 10), ImageForm(1, 8, 8, 10)
SEP = "sep_conv_3x3"


def test_the_skeleton_is_that_of_the_other_spaces():
    assert (DARTS_EDGES, NODES) == (THEIR_EDGES, THEIR_NODES)
    assert [reductions(cells) for cells in range(3, 30)] == [their_reductions(cells) for cells in range(3, 30)]


# --- Sizes


@pytest.mark.parametrize(
    ("op", "u", "m", "s", "expected"),
    [
        ("dil_conv_3x3", 3, 0, 2, 37),
        (SEP, 3, 4, 2, 95),
        (SEP, 3, 2, 2, 63),
        (SEP, 36, 36, 36, 3384),
        ("sep_conv_5x5", 3, 4, 2, 95 + 16 * (3 + 4)),
        ("conv_3x3", 3, 0, 2, 58),
    ],
)
def test_parameters_of_an_edge(op, u, m, s, expected):
    assert sum(OPERATIONS[op].sizes(u, m, s)) == expected


PATTERNS = {
    "all open": all_open,
    "skips alone": lambda w: Gates(0, 0, every(w)),
    "one op channel from two": lambda w: Gates(1, 3, 0),
    "halves and skips": lambda w: Gates(every(w // 2), every(w // 2), every(w)),
    "halves": lambda w: Gates(every(w // 2), every(w // 2), 0),
    "one op channel from all, and skips": lambda w: Gates(1, every(w), every(w)),
}
TABLE = {  # by the notes: cells and channels 20, 36; 8, 16; 5, 4
    "all open": (7_200_406, 643_706, 38_854),
    "skips alone": (1_370_134, 100_730, 4_470),
    "one op channel from two": (195_814, 38_994, 7_876),
    "halves and skips": (3_731_878, 336_826, 22_642),
    "halves": (2_727_190, 256_506, 18_398),
    "one op channel from all, and skips": (4_527_750, 417_242, 29_082),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("place", "cells", "channels"), [(0, 20, 36), (1, 8, 16), (2, 5, 4)])
def test_effective_parameters_of_the_same_gates_on_every_edge(pattern, place, cells, channels):
    masks = closed(uniform(SEP, cells, channels, PATTERNS[pattern]))
    assert effective(masks, CIFAR10).params == TABLE[pattern][place]


@pytest.mark.parametrize(
    ("cells", "channels", "single", "double", "plain"),
    [(20, 36, 2_915_136, 5_830_272, 23_889_600), (8, 16, 271_488, 542_976, 2_008_832), (5, 4, 17_192, 34_384, 84_112)],
)
def test_parameters_of_the_whole_supernet_by_operation(cells, channels, single, double, plain):
    fixed = effective(uniform(SEP, cells, channels, PATTERNS["skips alone"]), CIFAR10).params

    def edges(op):
        return effective(uniform(op, cells, channels), CIFAR10).params - fixed

    assert (edges("dil_conv_3x3"), edges(SEP), edges("conv_3x3")) == (single, double, plain)
    assert first_halves(uniform(SEP, cells, channels), CIFAR10) == fixed + single


def test_further_sizes_of_the_notes():
    masks = uniform(SEP, 20, 36)
    assert effective(masks, CIFAR10).macs == 1_074_960_000
    assert effective(uniform("sep_conv_5x5", 20, 36), CIFAR10).params - 1_370_134 == 6_604_416
    assert sum(14 * width for width in masks.widths) == 24_192
    assert sum(14 * width for width in widths(8, 16)) == 4_480
    assert sum(14 * width for width in widths(14, 48)) == 22_848
    assert sum(14 * width for width in widths(5, 4)) == 728


def test_nominal_sizes_leave_out_only_deleted_edges():
    masks = uniform(SEP, 5, 4)
    assert nominal(masks, CIFAR10) == effective(masks, CIFAR10)
    half = uniform(SEP, 5, 4, PATTERNS["halves"])
    assert nominal(half, CIFAR10) == effective(masks, CIFAR10)
    cells = tuple((Gates(0, 0, every(w)), *cell[1:]) for cell, w in half.each())
    fewer = nominal(Masks(SEP, 4, cells), CIFAR10)
    assert fewer.params == 38_854 - sum(sum(OPERATIONS[SEP].sizes(w, w, w)) for w in half.widths)


@given(legal())
def test_closing_what_is_closed_changes_nothing_and_no_size_grows_when_a_gate_closes(masks):
    assert closed(masks) == masks
    assert dead_node(masks) is None
    sizes, whole = effective(masks, DIGITS), nominal(masks, DIGITS)
    assert sizes.params <= whole.params
    assert sizes.macs <= whole.macs


@settings(max_examples=60)
@given(legal(), st.data())
def test_sizes_fall_with_every_gate_that_closes(masks, data):
    before = effective(masks, DIGITS)
    for _ in range(8):
        k, e = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 13))
        cell = list(masks.cells[k])
        cell[e] = Gates(*(s & data.draw(st.integers(0, every(masks.widths[k]))) for s in cell[e]))
        masks = closed(Masks(masks.op, 2, (*masks.cells[:k], tuple(cell), *masks.cells[k + 1 :])))
        after = effective(masks, DIGITS)
        assert after.params <= before.params
        assert after.macs <= before.macs
        before = after


def test_an_edge_without_a_middle_closes_and_so_do_skips_of_dead_channels():
    # node 2 has only channel 0, so node 3 cannot read channel 1 of it; 4 and 5 read both from an input
    cell = [Gates(0, 0, 0)] * 14
    cell[0], cell[1] = Gates(3, 0, 0), Gates(0, 0, 1)
    cell[4] = Gates(0, 3, 3)
    cell[5] = cell[9] = Gates(2, 1, 3)
    found = closed(Masks(SEP, 2, (tuple(cell),) * 3)).cells[0]
    assert found[0] == Gates(0, 0, 0)
    assert found[4] == Gates(0, 0, 1)
    assert found[5] == found[9] == Gates(2, 1, 3)
    assert live(found, 2) == [3, 1, 1, 1, 3, 3]


def without(masks, k, e, kind, channel):
    cell = list(masks.cells[k])
    cell[e] = cell[e]._replace(**{kind: getattr(cell[e], kind) & ~(1 << channel)})
    return Masks(masks.op, masks.channels, (*masks.cells[:k], tuple(cell), *masks.cells[k + 1 :]))


def followed(masks, k, e, kind, channel):
    """Whether closing a gate removes only parts of its edge and of what reads its channel."""
    after = closed(without(masks, k, e, kind, channel))
    if live(after.cells[k], after.widths[k])[:2] != live(masks.cells[k], masks.widths[k])[:2]:
        return False  # an input is read by less
    gone = [i for i, (a, b) in enumerate(zip(masks.cells[k], after.cells[k], strict=True)) if a != b]
    return gone == [e] and dead_node(after) is None


def test_marginal_costs_by_hand():
    whole = marginal(uniform(SEP, 5, 4), DIGITS)
    assert whole[0][0] == ([4 + 2] * 4, [4 + 2 + 9 + 4] * 4, [1] * 4)  # |M| + 2; |U| + 2 + 9 + |S|; nothing
    lifelines = tuple(Gates(0, 0, 3) if e in (1, 3, 6, 10) else Gates(0, 0, 0) for e in range(14))
    wires = marginal(Masks(SEP, 2, (lifelines,) * 3), DIGITS)
    assert wires[0][1][2] == [2, 2]  # it alone feeds the channel, which the two channels of the next cell's input read
    assert wires[2][1][2][:3] == [10, 10, 1]  # a column of the classifier; the last is closed


@settings(max_examples=60)
@given(legal(channels=4, cells=4), st.data())
def test_the_marginal_cost_of_a_gate_is_what_closing_it_removes(masks, data):
    costs, before = marginal(masks, DIGITS), effective(masks, DIGITS).params
    k = data.draw(st.integers(0, 3))
    e = data.draw(st.integers(0, 13))
    for index, kind in enumerate(("op", "mid", "skip")):
        channels = getattr(masks.cells[k][e], kind)
        for c in members(channels) if OPERATIONS[masks.op].double or kind != "mid" else ():
            last_of_edge = kind != "skip" and channels == 1 << c
            if followed(masks, k, e, kind, c) and not last_of_edge:
                lost = before - effective(closed(without(masks, k, e, kind, c)), DIGITS).params
                assert costs[k][e][index][c] == max(1, lost)
        assert all(costs[k][e][index][c] == 1 for c in range(masks.widths[k]) if not channels >> c & 1)


def test_sets_are_written_at_fixed_length():
    assert [to_hex(5, width) for width in (3, 4, 5, 9)] == ["5", "5", "05", "005"]
    assert members(0b1011) == [0, 1, 3]


# --- Another size


def test_the_map_from_twenty_cells_to_fourteen():
    found = cell_map(20, 14)
    assert found == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 14, 16, 17, 19]
    assert (found[4], found[9]) == reductions(20)
    assert reductions(14) == (4, 9)


@given(st.integers(5, 40), st.integers(3, 40))
def test_cells_go_to_cells_of_their_kind_and_stage_in_order(source, target):
    found = cell_map(source, target)
    old, new = reductions(source), reductions(target)
    assert len(found) == target
    assert [found[k] for k in new] == list(old)
    assert found == sorted(found)
    assert [sum(k > r for r in new) for k in range(target) if k not in new] == [
        sum(found[k] > r for r in old) for k in range(target) if k not in new
    ]
    assert cell_map(source, source) == list(range(source))


def test_a_stage_without_normal_cells_cannot_give_any():
    with pytest.raises(TransferError, match="masks of 3 cells have no normal cell in stage 2, which 5 cells need"):
        cell_map(3, 5)


def test_repeating_36_channels_to_48():
    assert repeat(every(36), 36, (), 48) == every(48)
    thirds = sum(1 << c for c in range(0, 36, 3))
    assert repeat(thirds, 36, (), 48).bit_count() == 24
    counts = [sum(c * 36 // 48 == source for c in range(48)) for source in range(36)]
    assert counts == [2, 1, 1] * 12


def test_the_best_of_36_channels_keep_their_share_of_48():
    thirds = sum(1 << c for c in range(0, 36, 3))
    scores = [float(c) for c in range(36)]
    found = topk(thirds, 36, scores, 48)
    assert found.bit_count() == 16
    assert {c * 36 // 48 for c in members(found)} == set(range(12, 36, 3))  # the best eight, twice each
    assert topk(every(36), 36, scores, 48) == every(48)
    assert topk(0, 36, scores, 48) == 0
    assert topk(1, 36, scores, 4) == 1


@settings(max_examples=50)
@given(legal(cells=5, channels=4), st.sampled_from([3, 5, 8]), st.sampled_from([2, 4, 6, 8]))
def test_resized_masks_are_legal_and_those_of_the_same_size_are_the_same(masks, cells, channels):
    assert resized(masks, 5, 4, repeat) == masks
    scores = [[[[0.0] * w] * 3] * 14 for w in masks.widths]
    assert resized(masks, 5, 4, topk, scores) == masks
    found = resized(masks, cells, channels, topk, scores)
    assert closed(found) == found
    assert dead_node(found) is None
    assert found.widths == widths(cells, channels)
    if channels % 4 == 0:
        assert resized(masks, cells, channels, repeat).widths == found.widths


def test_a_width_at_which_a_node_dies_is_refused():
    masks = uniform(SEP, 5, 4, lambda w: Gates(0, 0, 2))
    with pytest.raises(TransferError, match="at 2 channels cell 0 keeps no channel of node 2; use resize: topk"):
        resized(masks, 5, 2, repeat)


@given(legal(cells=5, channels=4, skip_mode="fallback"))
def test_with_fallback_the_skips_are_where_the_operation_is_not_at_any_size(masks):
    scores = [[[[0.0] * w] * 3] * 14 for w in masks.widths]
    found = resized(masks, 8, 6, topk, scores, fallback=True)
    assert all(g.op ^ g.skip == every(w) for cell, w in found.each() for g in cell)


# --- Statistics


def test_statistics_of_the_whole_and_of_wires():
    found = statistics(uniform(SEP, 5, 4))
    assert found["edges"] == [14] * 5
    assert found["op_channels"] == found["skip_channels"] == [56, 112, 112, 224, 224]
    assert found["skip_share"] == 0.5
    assert found["depth"] == [4] * 5
    assert found["live"][0] == [4] * 6
    assert found["jaccard"] is None  # no stage of five cells has two normal ones
    wires = statistics(uniform(SEP, 8, 4, PATTERNS["skips alone"]))
    assert (wires["depth"], wires["skip_share"], wires["channels_per_edge"]) == ([0] * 8, 1.0, 0)
    assert wires["jaccard"] == 0.0


def test_the_distance_of_cells_counts_what_only_one_of_them_keeps():
    one = (Gates(0b0111, 15, 15),) * 14
    other = (Gates(0b1110, 15, 15),) * 14
    rest = uniform(SEP, 8, 4).cells[2:]
    # stages of eight cells: 0 1 | 2 | 3 4 | 5 | 6 7; the other two pairs are equal
    assert statistics(Masks(SEP, 4, (one, other, *rest)))["jaccard"] == pytest.approx((2 / 4 + 0 + 0) / 3)
