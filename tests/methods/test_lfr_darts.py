"""LFR-DARTS against its notes: iterations, states of cells, pruning, growth, options, and what a search costs."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nas.architectures.cell_shape import DARTS_EDGES
from nas.architectures.darts import PRIMITIVES, LayeredArchitecture
from nas.architectures.genotypes import GENOTYPES
from nas.config.params import Size
from nas.contracts import ImageForm
from nas.methods import method_module
from nas.methods.shared import relaxed
from nas.spaces.blocks.ops import supernet_op
from nas.spaces.darts.cells import DiscreteCell, MixedCell, MixedOp
from nas.spaces.darts.layered import CELL_TYPES, LayeredSpace
from nas.training.derive import width_like
from tests.methods.settings import PRESET, STEPS, advance, batch, build, in_double
from tests.methods.test_methods import assert_equal, saved

lfr: Any = method_module("lfr_darts")
SPACE = LayeredSpace()
STAGES = SPACE.stages
SKIP, D5 = PRIMITIVES.index("skip_connect"), PRIMITIVES.index("dil_conv_5x5")
FULL = {"epochs_each": 25, "warmup": 10, "n_grow": 4}
SHORT = {"epochs_each": 2, "warmup": 1}
ALL = torch.ones(14, 8, dtype=torch.bool)


def params(**changes):
    return lfr.Params.model_validate({**PRESET["lfr_darts"], **changes})


def table(rows):
    """14 x 8 zeros with these rows: (node, predecessor) -> eight values."""
    alpha = torch.zeros(len(DARTS_EDGES), len(PRIMITIVES), dtype=torch.float64)
    for edge, values in rows.items():
        alpha[DARTS_EDGES.index(edge)] = torch.tensor(values, dtype=torch.float64)
    return alpha


# --- The plan of a search


@pytest.mark.parametrize(
    ("changes", "depths"),
    [
        (FULL, [5, 8, 11, 14]),
        ({"n_grow": 2}, [5, 6, 7, 8]),
        (FULL | {"n_grow": 6}, [5, 10, 15, 20]),
        ({"n_grow": 1}, [5, 5, 5, 5]),
        (FULL | {"joint_reduction": False}, [5, 8, 8, 11, 11, 14]),
    ],
)
def test_the_supernet_deepens_from_iteration_to_iteration(changes, depths):
    found = params(**changes)
    assert [len(lfr.row(found, STAGES, at)) for at in range(len(found.iterations(STAGES)) + 1)] == depths


@pytest.mark.parametrize(("changes", "expected"), [(FULL, 225), ({"epochs_each": 3, "warmup": 1}, 27)])
def test_the_mixed_cells_times_epochs_of_the_notes(changes, expected):
    found = params(**changes)
    mixed = 0
    for at in range(len(found.iterations(STAGES))):
        earlier = {kind for group in found.iterations(STAGES)[:at] for kind in group}
        mixed += sum(kind not in earlier for kind in lfr.row(found, STAGES, at))
    assert mixed * found.epochs_each == expected


@pytest.mark.parametrize(("joint", "strides"), [(True, [2, 4, 4]), (False, [1, 2, 2, 4, 4])])
def test_without_a_future_the_network_ends_with_the_current_stage(joint, strides):
    found = params(future="absent", joint_reduction=joint)
    rows = [lfr.row(found, STAGES, at) for at in range(len(found.iterations(STAGES)))]
    assert [2 ** sum(kind.startswith("reduce") for kind in row) for row in rows] == strides
    for row, group in zip(rows, found.iterations(STAGES), strict=True):
        assert row[-1] == group[-1]


@given(st.permutations(CELL_TYPES), st.lists(st.integers(1, 4), max_size=4, unique=True))
def test_any_ordered_partition_is_a_plan_in_which_every_type_is_found_once(order, cuts):
    bounds = [0, *sorted(cuts), len(order)]
    groups = [list(order[a:b]) for a, b in pairwise(bounds)]
    found = params(groups=groups)
    assert [kind for group in found.iterations(STAGES) for kind in group] == list(order)
    for at in range(len(groups) + 1):
        row = lfr.row(found, STAGES, at)
        assert list(dict.fromkeys(row)) == list(CELL_TYPES), "the row is in order of depth, whatever is searched first"
    assert len(lfr.row(found, STAGES, len(groups))) == 2 + 3 * found.n_grow


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": [["normal_1", "reduce_1"], ["normal_2", "reduce_2"]]}, "'groups' must name each of normal_1"),
        ({"groups": [["normal_1", "reduce_1", "normal_2", "reduce_2", "normal_3"], []]}, "'groups' must name each"),
        ({"groups": [["normal_1"] * 2, ["reduce_1", "normal_2", "reduce_2", "normal_3"]]}, "'groups' must name each"),
        ({"groups": [["normal_3"], ["normal_2"], ["reduce_1"], ["reduce_2"], ["normal_4"]]}, "groups"),
        ({"warmup": 0}, "'warmup: 0' needs 'inherit: true'"),
        ({"warmup": 3}, "'warmup' must be less than 'epochs_each'"),
        (
            {"future": "absent", "groups": [["normal_3"], ["normal_1", "reduce_1", "normal_2", "reduce_2"]]},
            "'future: absent' needs groups in order of depth",
        ),
        ({"order": "unrolled", "skip_dropout": 0.1}, "'order: unrolled' needs 'skip_dropout: 0'"),
        ({"prune": "progressive"}, "'prune: progressive' needs at least three epochs after the warm-up"),
    ],
)
def test_params_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        params(**changes).check_space(SPACE)


def test_skip_dropout_follows_pdarts_within_an_iteration():
    full = params(**FULL, skip_dropout=0.1)
    found = [lfr.skip_dropout(epoch, full) for epoch in range(25)]
    assert found[0] == pytest.approx(0.1 * 24 / 25)
    assert found[9] == pytest.approx(0.1 * 15 / 25)
    assert found[10] == pytest.approx(0.1)
    assert found[24] == pytest.approx(0.1 * math.exp(-0.2 * 14))
    short = params(epochs_each=4, warmup=2, skip_dropout=0.1)
    assert lfr.skip_dropout(3, short) == pytest.approx(found[24]), "the same end, whatever the length"
    assert lfr.skip_dropout(3, params(epochs_each=4, warmup=2)) == 0


def test_progressive_pruning_keeps_five_and_then_three_at_thirds_of_the_trained_epochs():
    full = params(**FULL, prune="progressive")
    assert {epoch: lfr.kept(epoch, full) for epoch in range(25) if lfr.kept(epoch, full)} == {14: 5, 19: 3}
    assert all(lfr.kept(epoch, params(**FULL)) is None for epoch in range(25))


@given(st.integers(0, 30), st.integers(3, 30))
def test_both_sets_are_chosen_after_the_warm_up_and_before_the_last_epoch(warmup, more):
    found = params(epochs_each=warmup + more, warmup=warmup, prune="progressive", inherit=True)
    ends = [epoch for epoch in range(found.epochs_each) if lfr.kept(epoch, found)]
    assert [lfr.kept(epoch, found) for epoch in ends] == [5, 3]
    assert warmup <= ends[0] < ends[1] <= found.epochs_each - 2


# --- Pruning

WORKED = table(
    {(3, 0): (2, 0, 0, 0, 1, 0, 0, 0), (3, 1): (0, 0, 0, 0.5, 0, 0, 0, 0), (3, 2): (-1, 0, 0, 0, 0, 0, 0, 0.8)}
)


def test_the_strengths_of_the_notes_and_the_edges_that_stay():
    strength = lfr.strengths(WORKED, ALL)
    assert [PRIMITIVES[op] for op, _ in strength[2:5]] == ["sep_conv_3x3", "skip_connect", "dil_conv_5x5"]
    assert [share for _, share in strength[2:5]] == pytest.approx((0.168760, 0.190632, 0.258982), abs=5e-7)
    cell = lfr.prune(WORKED, ALL, SPACE, None)
    assert cell[2:4] == (("skip_connect", 1), ("dil_conv_5x5", 2))
    assert lfr.margins(strength)[1] == pytest.approx(0.190632 - 0.168760, abs=1e-6)
    assert lfr.margins(strength)[0] is None, "node 2 keeps both its edges"


def test_with_equal_alphas_the_lower_operations_and_predecessors_stay():
    cell = lfr.prune(table({}), ALL, SPACE, None)
    assert cell == tuple(("max_pool_3x3", pred) for pred in [0, 1] * 4)


def test_an_operation_that_is_not_alive_neither_stays_nor_takes_a_share():
    alive = ALL.clone()
    alive[DARTS_EDGES.index((3, 2)), D5] = False
    alive[DARTS_EDGES.index((3, 2)), 0] = False
    strength = lfr.strengths(WORKED, alive)[4]
    assert strength == (1, pytest.approx(1 / 6))


def skips_of(cell):
    return [pred for op, pred in cell if op == "skip_connect"]


def test_the_weakest_skips_go_until_few_enough_are_left():
    alpha = table({(node, pred): [0, 0, 0, 1 + 0.1 * node + 0.01 * pred, 0.9, 0, 0, 0] for node, pred in DARTS_EDGES})
    assert len(skips_of(lfr.prune(alpha, ALL, SPACE, None))) == 8
    cell = lfr.prune(alpha, ALL, SPACE, 2)
    assert [op for op, _ in cell[:6]] == ["sep_conv_3x3"] * 6, "those of node 5 are the strongest"
    assert cell[6:] == (("skip_connect", 3), ("skip_connect", 4))
    assert not skips_of(lfr.prune(alpha, ALL, SPACE, 0))


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 8), st.floats(0.1, 4))
def test_a_pruned_cell_has_two_edges_a_node_no_none_and_no_skip_too_many(seed, limit, spread):
    alpha = spread * torch.randn(14, 8, generator=torch.Generator().manual_seed(seed))
    cell = lfr.prune(alpha, ALL, SPACE, limit)
    assert len(cell) == 8
    assert "none" not in [op for op, _ in cell]
    assert len(skips_of(cell)) <= limit
    for node, (one, other) in enumerate(zip(cell[::2], cell[1::2], strict=True), start=2):
        assert 0 <= one[1] < other[1] < node


@given(st.integers(0, 2**31))
def test_the_best_operations_of_an_edge_are_those_that_stay(seed):
    method = build_without_steps()
    method.own_epoch = next(epoch for epoch in range(4) if lfr.kept(epoch, method.params) == 5)
    alpha = torch.randn(14, 8, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    with torch.no_grad():
        method.alphas["normal_1"].copy_(alpha)
    method.thin_out()
    alive = method.alive["normal_1"]
    assert (alive.sum(-1) == 5).all()
    for values, kept in zip(alpha, alive, strict=True):
        assert values[kept].min() >= values[~kept].max()
        tied = (values == values[kept].min()).nonzero().flatten().tolist()
        inside = [bool(kept[op]) for op in tied]
        assert inside == sorted(inside, reverse=True), "ties: the lower index stays"
    assert method.alive["normal_2"].all(), "a future cell keeps all"
    method.alive["normal_1"].fill_(True)


def build_without_steps(cache: list[Any] = []):  # noqa: B006 (a supernet, built once)
    if not cache:
        cache.append(build("lfr_darts", method={"epochs_each": 4, "prune": "progressive"}))
    return cache[0]


# --- A search


def bits(tensors):
    return {name: value.detach().clone() for name, value in tensors.items()}


def test_states_of_the_cells_from_iteration_to_iteration():
    method = build("lfr_darts", method=SHORT | {"n_grow": 4})
    rows = advance(method, 0, 6 * STEPS)
    assert [row["cells"] for row in rows] == [5, 5, 8, 8, 11, 11]
    assert [row["iteration"] for row in rows] == [1, 1, 2, 2, 3, 3]
    states = [[state for _, state in record["row"]] for record in method.records]
    counts = [(row.count("found"), row.count("current"), row.count("future")) for row in states]
    assert counts == [(0, 2, 3), (5, 2, 1), (10, 1, 0)]
    assert method.search_state()["depth"] == 14
    assert method.epochs == 6
    found = method.search_state()["found"]
    assert list(found) == list(CELL_TYPES)
    (derived,) = lfr.derive(method.search_state(), lfr.DeriveParams(rule="collected", controls=()), SPACE)
    assert derived.architecture.cells == {kind: tuple(map(tuple, pairs)) for kind, pairs in found.items()}


def test_only_current_alphas_learn_and_future_operations_weigh_an_eighth():
    method = build("lfr_darts", method={"epochs_each": 3, "warmup": 1})
    assert set(method.architect.alphas) == {"normal_1", "reduce_1"}
    start = bits(method.alphas)
    advance(method, 0, STEPS)
    assert all(torch.equal(method.alphas[kind], start[kind]) for kind in CELL_TYPES), "no step within the warm-up"
    advance(method, STEPS, 2 * STEPS)
    for kind in CELL_TYPES:
        changed = not torch.equal(method.alphas[kind], start[kind])
        assert changed == (kind in ("normal_1", "reduce_1"))
    weights = method.mix().weights
    for kind in ("normal_2", "reduce_2", "normal_3"):
        assert (method.alphas[kind] == 0).all()
        assert (weights[kind] == 0.125).all()


def test_found_cells_hold_no_mixed_edge_and_equal_what_was_committed():
    method = build("lfr_darts", method=SHORT)
    advance(method, 0, 3 * STEPS)
    assert set(method.mixed) == {"normal_2", "reduce_2", "normal_3"}
    for kind, cell in zip(method.growth.cell_types, method.supernet.cells, strict=True):
        assert isinstance(cell, DiscreteCell if kind in ("normal_1", "reduce_1") else MixedCell)
        if kind in method.discrete:
            assert not any(isinstance(module, MixedOp) for module in cell.modules())
            assert cell.preds == tuple(pred for _, pred in method.discrete[kind])
            ops: Any = cell.ops
            for (op, pred), module in zip(method.discrete[kind], ops, strict=True):
                stride = 2 if kind.startswith("reduce") and pred < 2 else 1
                width = 2 if kind == "normal_1" else 4
                assert str(module) == str(supernet_op(op, width, stride))
    assert method.records[0]["params"]["found"] == 0
    first = bits({kind: torch.tensor([pred for _, pred in pairs]) for kind, pairs in method.discrete.items()})
    advance(method, 3 * STEPS, 6 * STEPS)
    for kind, preds in first.items():
        assert torch.equal(torch.tensor([pred for _, pred in method.discrete[kind]]), preds)


def test_every_iteration_begins_with_fresh_weights_and_the_first_lr_unless_it_inherits():
    for inherit in (False, True):
        method = build("lfr_darts", method=SHORT | {"inherit": inherit})
        rows = advance(method, 0, 2 * STEPS)
        last = bits(method.supernet.state_dict())
        method.start_epoch(2)
        name = "cells.3.edges.0.ops.4.1.weight"  # of normal_2, the third cell before the growth
        same = torch.equal(method.supernet.state_dict()[name], last[name.replace("cells.3.", "cells.2.")])
        assert same == inherit
        assert method.trainer.lr == method.setting.common.lr > rows[-1]["lr"]
        assert not method.trainer.optimiser.state
        assert not method.architect.optimiser.state


def test_a_trainable_future_learns_and_is_thrown_away():
    method = build("lfr_darts", method=SHORT | {"future": "trainable"})
    advance(method, 0, 2 * STEPS)
    deeper = method.alphas["normal_3"].detach().clone()
    assert deeper.abs().max() > 0.01
    assert "normal_3" not in method.discrete
    method.start_epoch(2)
    assert method.alphas["normal_3"].abs().max() < 0.01, "begun anew"


def test_five_iterations_leave_the_reduction_cell_to_an_iteration_of_its_own():
    method = build("lfr_darts", method={"joint_reduction": False, "epochs_each": 1, "warmup": 0, "inherit": True})
    advance(method, 0, 1)
    assert list(method.architect.alphas) == ["normal_1"]
    assert "reduce_1" in method.mixed
    advance(method, 1, 5 * STEPS)
    assert [list(record["cells"]) for record in method.records] == [[kind] for kind in CELL_TYPES]


def test_the_unrolled_gradient_of_a_step_of_lr_zero_is_that_of_first_order():
    found = {}
    for order in ("first", "unrolled"):
        method = build("lfr_darts", method={"order": order, "warmup": 0, "inherit": True})
        method.start_epoch(0)
        method.trainer.optimiser.param_groups[0]["lr"] = 0.0
        method.architect.descend(method.alpha_gradients(batch(0), batch(1)))
        found[order] = bits(method.alphas)
        assert method.passes == {"train_images": 12 * (order == "unrolled"), "valid_images": 4}
    for kind in ("normal_1", "reduce_1"):
        torch.testing.assert_close(found["unrolled"][kind], found["first"][kind])


def test_a_search_costs_what_its_supernets_cost(monkeypatch):
    method = build("lfr_darts", method=SHORT)
    expected = 0
    for epoch in range(method.epochs):
        advance(method, epoch * STEPS, (epoch + 1) * STEPS - 1)
        batches = 2 if epoch % 2 else 1  # the warm-up has no architecture step
        space, here = method.setting.space, method.setting
        one = space.supernet_macs(here.form, here.common, method.running, method.growth)
        expected += 3 * one * 4 * batches * STEPS
        advance(method, (epoch + 1) * STEPS - 1, (epoch + 1) * STEPS)
    assert method.macs() == expected
    assert method.passes == {"train_images": 4 * STEPS * 6, "valid_images": 4 * STEPS * 3}


def test_the_log_says_what_was_found_and_warns_of_skips(capsys):
    method = build("lfr_darts", method=SHORT)
    advance(method, 0, 2 * STEPS - 1)
    with torch.no_grad():
        method.alphas["reduce_1"][:, SKIP] += 9
    advance(method, 2 * STEPS - 1, 2 * STEPS)
    said = capsys.readouterr().out
    assert "end of an iteration after epoch 2: 5 cells" in said
    assert "  reduce_1: skip_connect 0 | skip_connect 1 |" in said
    assert "warning: 8 of the 8 operations of reduce_1 are skip connections" in said


@pytest.mark.parametrize("side", [28, 32])
def test_a_batch_of_fashion_mnist_runs_through_search_and_network(side):
    form = ImageForm(1, side, side, 10)
    method = build("lfr_darts", method=SHORT, form=form)
    images = torch.randn(4, 1, side, side).contiguous(memory_format=torch.channels_last)
    method.start_epoch(1)
    data = type(batch(0))(images, torch.arange(4))
    tally = method.step(data, data)
    assert tally.images == 4
    method.finish()
    with torch.no_grad():
        assert method.supernet(images, method.mix()).shape == (4, 10)
    method.start_epoch(2)
    method.step(data, data)
    cells = {**FIVE.cells, **{kind: tuple(pairs) for kind, pairs in method.discrete.items()}}
    size = method.setting.common.model_copy(update={"cells": 5})
    network = SPACE.network(SPACE.compose(cells), form, size, auxiliary=True)
    logits, second = network(images)
    assert logits.shape == second.shape == (4, 10)


def test_the_engine_and_the_reference_find_the_same_cells(monkeypatch):
    runs = {}
    for reference in (True, False):
        with in_double(monkeypatch, lfr.Method, reference):
            method = build("lfr_darts", method=SHORT)
            runs[reference] = method, advance(method, 0, 6 * STEPS)
    (plain, expected), (quick, rows) = runs[True], runs[False]
    assert quick.discrete == plain.discrete
    for found, row in zip(rows, expected, strict=True):
        assert found == pytest.approx(row, rel=1e-4)


# --- Derivation

FIVE = LayeredArchitecture(
    normal=(GENOTYPES["DARTS_V2"].normal, GENOTYPES["DARTS_V1"].normal, GENOTYPES["PDARTS"].normal),
    reduce=(GENOTYPES["DARTS_V2"].reduce, GENOTYPES["PDARTS"].reduce),
)
CONTROLS = ("repeat_1", "repeat_1_equal", "repeat_3", "repeat_3_equal", "swapped")


def test_the_controls_repeat_or_swap_the_cells_that_were_found():
    state = {"found": {kind: [list(pair) for pair in cell] for kind, cell in FIVE.cells.items()}}
    found = lfr.derive(state, lfr.DeriveParams(rule="collected", controls=CONTROLS), SPACE)
    by_name = {derived.name: derived for derived in found}
    assert list(by_name) == ["main", *CONTROLS]
    assert by_name["main"].architecture == FIVE
    n1, n2, n3 = FIVE.normal
    for name, normal in (("repeat_1", n1), ("repeat_3", n3)):
        assert by_name[name].architecture == by_name[name + "_equal"].architecture
        assert by_name[name].architecture.normal == (normal,) * 3
        assert by_name[name].architecture.reduce == FIVE.reduce
        assert (by_name[name].like, by_name[name + "_equal"].like) == (None, "main")
    assert by_name["swapped"].architecture.normal == (n3, n2, n1)
    assert by_name["swapped"].architecture.reduce == FIVE.reduce[::-1]


def test_a_control_of_equal_parameters_has_the_even_width_that_comes_nearest():
    form, size = ImageForm(3, 32, 32, 10), Size(cells=8, channels=16, stem="cifar")
    target = SPACE.count(FIVE, form, size).params
    repeated = LayeredArchitecture(normal=(GENOTYPES["EOI_GNAS"].normal,) * 3, reduce=FIVE.reduce)
    off = {c: abs(SPACE.count(repeated, form, size.at(c)).params - target) for c in range(2, 40, 2)}
    chosen = width_like(target, SPACE, repeated, form, size)
    assert off[chosen] == min(off.values())
    assert chosen < 16, "the repeated cell is the heavier one"
    assert width_like(target, SPACE, FIVE, form, size) == 16


def test_the_notes_say_how_far_the_cells_differ_and_what_they_are_made_of():
    state = {"found": {kind: [list(pair) for pair in cell] for kind, cell in FIVE.cells.items()}}
    (main,) = lfr.derive(state, lfr.DeriveParams(rule="collected", controls=()), SPACE)
    # V2: s3-0 s3-1 | s3-0 s3-1 | s3-1 sk-0 | sk-0 d3-2; V1: s3-1 s3-0 | sk-0 s3-1 | sk-0 s3-1 | s3-0 sk-2
    assert main.notes["differences"]["1-2"] == pytest.approx(1 - (2 + 1 + 2 + 0) / 8)
    v2 = main.notes["cells"]["normal_1"]
    assert v2 == {"mean_kernel": 3.0, "skip_share": 0.25, "depth": 3}, "node 2 is two deep, d3-2 of node 5 one more"
    assert lfr.difference(FIVE.normal[0], FIVE.normal[0], SPACE) == 0
    pools = tuple(("max_pool_3x3", pred) for pred in [0, 1] * 4)
    assert lfr.made_of(pools, SPACE) == {"mean_kernel": 0.0, "skip_share": 0.0, "depth": 0}


PROGRESSIVE = {"epochs_each": 4, "prune": "progressive", "skip_dropout": 0.1, "inherit": True}


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        (SHORT | {"inherit": True}, 2 * STEPS + 1),  # in the second iteration
        (PROGRESSIVE, 2 * STEPS),  # after five operations were kept
        (PROGRESSIVE, 4 * STEPS),  # at the end of the first iteration
        (PROGRESSIVE, 7 * STEPS + 1),  # with three left, in the second
    ],
)
def test_a_search_goes_on_wherever_it_was_to_the_same_bits(changes, at):
    whole = build("lfr_darts", method=changes)
    advance(whole, 0, at)
    kept, generator = saved(whole.state_dict()), torch.get_rng_state()
    last = at + 3 * STEPS
    advance(whole, at, last)
    again = build("lfr_darts", seed=9, method=changes)
    again.load_state_dict(kept)
    torch.set_rng_state(generator)
    advance(again, at, last)
    assert_equal(again.state_dict(), whole.state_dict())
    assert again.records == whole.records


def test_the_unrolled_gradient_is_that_of_the_step_which_the_weights_would_take(monkeypatch):
    method = build("lfr_darts", method={"order": "unrolled", "warmup": 0, "inherit": True})
    advance(method, 0, 1)  # so that there is a momentum
    seen = []

    def noted(*given):
        seen.append(given)
        return [torch.zeros_like(alpha) for alpha in given[3]]

    monkeypatch.setattr(relaxed, "unrolled_gradient", noted)
    method.alpha_gradients(batch(5), batch(6))
    ((train_loss, valid_loss, weights, alphas, velocity, lr, momentum, decay),) = seen
    common = method.setting.common
    assert (lr, momentum, decay) == (method.trainer.lr, common.momentum, common.weight_decay)
    assert lr > 0
    assert any(v is not None and v.abs().sum() > 0 for v in velocity)
    assert len(velocity) == len(weights) == len(list(method.supernet.parameters()))
    assert [id(alpha) for alpha in alphas] == [id(method.alphas[kind]) for kind in ("normal_1", "reduce_1")]
    with torch.no_grad():
        assert train_loss() == method.loss(batch(5)) != valid_loss() == method.loss(batch(6))


def test_a_control_can_be_asked_for_once():
    with pytest.raises(ValidationError, match="a control is named twice"):
        lfr.DeriveParams(rule="collected", controls=("swapped", "swapped"))
