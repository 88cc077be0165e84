"""TENAS against the numbers of its notes: scores, schedule, guard, what pruning leaves, and every option."""

import importlib
import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nas.architectures.channel_masks import closed, dead_node
from nas.architectures.channel_sizes import effective
from nas.config.sections import ParamsError
from nas.contracts import ImageForm
from nas.contracts.gates import GATES
from nas.spaces.channel.space import ChannelSpace
from nas.spaces.channel.tables import to_masks
from tests.methods.settings import FORM, PRESET, STEPS, WINDOW, advance, batch, build

tenas = importlib.import_module("nas.methods.tenas")
OP, MID, SKIP = range(3)
FEEDING = ChannelSpace().feeding
CONSTANT = {"schedule": "constant_gates"}
LAST = 2  # epochs of the searches here, unless they say so


def searching(steps, **method):
    """A search after so many steps; it prunes after every one of them."""
    found = build("tenas", method={**WINDOW, "prune_epochs": LAST, "prune_every": 1, **method})
    return found, advance(found, 0, steps)


def whole_search(**method):
    return searching(LAST * STEPS, **method)[0]


def masks_of(method):
    return to_masks(method.with_skips(method.open), method.space.op)


# --- Scores: the worked example of the notes

Z = torch.tensor([[1, -2, 0.5], [0, 1, 1.5]], dtype=torch.float64)
X = torch.tensor([[0.5, 0.5, 1], [1, -1, 0.5]], dtype=torch.float64)
V = torch.tensor([0.5, -1, 2], dtype=torch.float64)
T = torch.tensor([1, 2], dtype=torch.float64)


def example_loss(gates, fallback=False):
    """y_b = sum_c g_c z_bc v_c, with `fallback` z where the gate is open and x where it is closed."""
    kept = gates * Z + (1 - gates) * X if fallback else gates * Z
    return ((kept @ V if gates.dim() == 1 else (kept * V).sum(1)) - T).square().mean() / 2


def example_change(fallback=False, each=False):
    gates = torch.ones(2, 3) if each else torch.ones(3)
    gates = gates.double().requires_grad_()
    example_loss(gates, fallback).backward()
    return tenas.loss_change(gates.detach(), gates.grad)


def assert_values(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_the_scores_of_the_worked_example():
    assert example_loss(torch.ones(3).double()).item() == 1.5625
    assert_values(example_change(), [-0.625, -2.5, -1.25])
    assert_values(example_change().square(), [0.390625, 6.25, 1.5625])
    of_images = tenas.images_scores(example_change(each=True))
    assert_values(of_images, [0.625, 2.5, 1.25])
    assert_values(tenas.layer_normed(of_images), [0.218218, 0.872872, 0.436436])
    assert_values(example_change(fallback=True), [-0.3125, -3.125, 1.25])
    assert_values(example_change(fallback=True).square(), [0.097656, 9.765625, 1.5625])


def test_the_first_order_has_the_wrong_sign_on_the_third_channel_of_the_worked_example():
    def exact(fallback):
        one = torch.ones(3).double()
        losses = [example_loss(one - one.new_tensor([c == k for k in range(3)]), fallback) for c in range(3)]
        return torch.stack(losses) - example_loss(one)

    assert_values(exact(False), [-0.5625, -1.25, 1.25])
    assert_values(exact(True), [-0.234375, -0.5625, 2.5])


def test_a_layer_without_any_score_stays_at_zero():
    table = torch.zeros(2, 3, 4, dtype=torch.float64)
    table[0, 1] = torch.tensor([3.0, 0, 4.0, 0])
    found = tenas.layer_normed(table)
    assert found[0, 1].tolist() == pytest.approx([0.6, 0, 0.8, 0])
    assert found.sum() == pytest.approx(1.4)


def gate_gradients(method, images):
    gates = method.gates.clone().requires_grad_()
    method.setting.task.loss(method.supernet(images.images, method.mix(gates)), images.labels).backward()
    return gates.grad.double()


def test_scores_are_means_of_squares_over_the_iterations_since_the_last_event():
    method, _ = searching(0, prune_every=3)
    method.start_epoch(0)
    expected = 0
    for step in range(2):
        expected = expected + gate_gradients(method, batch(step)).square()
        method.step(batch(step), batch(9))
    assert method.iterations == 2
    torch.testing.assert_close(method.event_scores(), expected / 2, rtol=1e-4, atol=1e-12)


def test_swaps_keep_their_sign_until_the_event():
    method, _ = searching(0, prune_every=3, skip_mode="fallback")
    method.start_epoch(0)
    gradients = []
    for step in range(2):
        gradients.append(gate_gradients(method, batch(step)))
        method.step(batch(step), batch(9))
    found = method.tables(method.event_scores())
    signed = method.tables(sum(gradients) / 2)
    squares = method.tables(sum(g.square() for g in gradients) / 2)
    for table, mean, square in zip(found, signed, squares, strict=True):
        torch.testing.assert_close(table[:, OP], mean[:, OP].square(), rtol=1e-4, atol=1e-12)
        torch.testing.assert_close(table[:, MID], square[:, MID], rtol=1e-4, atol=1e-12)


def test_absolute_scores_are_normed_within_each_edge_and_kind():
    method, _ = searching(1, score="abs2017", prune_every=2)
    for table in method.tables(method.event_scores()):
        norms = table.norm(dim=-1)
        assert ((norms - 1).abs() < 1e-9).logical_or(norms == 0).all()
        assert norms[:, OP].max() > 0.9


def test_scores_of_batch_norms_are_their_scales_and_skips_stay():
    method, _ = searching(STEPS, score="bn_gamma", prune_epochs=1)
    for table, cell in zip(method.supernet.scales(), method.supernet.cells, strict=True):
        assert torch.equal(table[3, OP], cell.edges[3].second.bn.weight.abs())
        assert torch.equal(table[3, MID], cell.edges[3].first.bn.weight.abs())
        assert table[:, SKIP].isinf().all()
    assert method.count_open()["skip"] == sum(14 * t.shape[-1] for t in method.open)
    assert method.compact.params <= 2500


def test_random_scores_follow_the_seed_alone():
    def found(seed):
        method = build("tenas", seed, {**WINDOW, "score": "random"})
        advance(method, 0, LAST * STEPS)
        return masks_of(method)

    assert found(1) == found(1)
    assert found(1) != found(2)


def test_old_scores_fade():
    method, _ = searching(1, score_ema=0.75)
    old = method.scores.clone()
    method.total = torch.full_like(method.total, 8.0)
    method.iterations = 2
    torch.testing.assert_close(method.event_scores(), 0.75 * old + 0.25 * 4)


def test_scores_may_count_per_parameter():
    method, _ = searching(1, cost_weight=True)
    costs = torch.cat([t.flatten() for t in method.space.costs(method.open, FORM, method.setting.common)])
    torch.testing.assert_close(method.ranking() * costs, method.scores)
    assert len(costs.unique()) > 5
    plain, _ = searching(1)
    assert torch.equal(plain.ranking(), plain.scores)


# --- Schedule


@pytest.mark.parametrize(
    ("epochs", "warmup", "settle", "iterations", "every", "events"),
    [(50, 10, 5, 782, 30, 912), (50, 10, 5, 391, 30, 456), (4, 1, 1, 16, 4, 8)],
)
def test_the_number_of_events(epochs, warmup, settle, iterations, every, events):
    window = {"warmup": warmup, "prune_epochs": epochs - warmup - settle, "settle": settle, "prune_every": every}
    method: Any = build("tenas", method={**WINDOW, "prune_every": 1})
    method.params = method.params.model_copy(update=window)
    method.setting = replace(method.setting, steps=iterations)
    assert (method.epochs, method.events_planned) == (epochs, events)


def test_the_target_falls_in_equal_steps_to_the_budget_itself():
    sizes = [tenas.target_size(k, 912, 7_200_406, 3_500_000) for k in range(1, 913)]
    assert sizes[-1] == 3_500_000
    assert sizes[0] == pytest.approx(7_200_406 - 3_700_406 / 912)
    steps = {round(a - b, 3) for a, b in pairwise(sizes)}
    assert len(steps) == 1


@given(st.integers(0, 5000), st.integers(0, 6000))
def test_the_shortest_prefix_is_found_and_few_are_tried(count, needed):
    tried = []

    def enough(n):
        tried.append(n)
        return n >= needed

    found = tenas.shortest(count, enough)
    assert found == (needed if needed <= count else None)
    assert all(0 <= n <= count for n in tried)
    assert len(tried) <= 2 * math.log2(count + 2) + 3


@pytest.mark.parametrize(("kind", "value"), [("params", 3000.0), ("macs", 60_000.0)])
def test_every_event_meets_its_target_by_as_few_gates_as_it_can(kind, value):
    method = whole_search(budget={"kind": kind, "value": value})
    assert [event["target"] for event in method.events] == [
        tenas.target_size(k, LAST * STEPS, getattr(method.whole, kind), value) for k in (1, 2, 3, 4)
    ]
    assert all(event[kind] <= event["target"] for event in method.events)
    assert method.events[-1][kind] <= value
    assert method.events[-1][kind] > 0.9 * value
    assert (method.compact.params, method.compact.macs) == effective(masks_of(method), FORM)


def test_a_constant_number_of_gates_goes_at_every_event():
    method = whole_search(budget={"kind": "gates", "value": 0.75}, schedule="constant_gates", skip_mode="none")
    gates = 2 * 14 * (2 + 4 + 8)
    removed = [sum(event["removed"].values()) for event in method.events]
    assert removed[0] >= gates / 16
    assert sum(removed) >= gates / 4, "and what closes in their wake counts"
    assert sum(removed) <= gates / 4 + 8
    assert method.events[-1]["target"] == gates / 4


def test_the_gates_to_remove_are_rounded_up_but_not_by_rounding_errors():
    method: Any = build("tenas", method={**WINDOW, "budget": {"kind": "gates", "value": 0.7}, **CONSTANT})
    for gates, whole in ((10, 3), (11, 4), (1000, 300)):
        method.ranked = now = torch.ones(gates, dtype=torch.bool)
        method.events = [{}] * (method.events_planned - 1)
        assert method.gates_to_remove(now) == (math.ceil(whole / method.events_planned), float(whole))
    assert method.gates_to_remove(torch.arange(1000) < 710) == (10, 300.0), "the rest, not a whole share"


def test_a_network_that_is_small_enough_loses_nothing_and_says_so(capsys):
    method = whole_search(budget={"kind": "params", "value": 1e6})
    assert "is 1e+06 params and the whole network has 7157: nothing will be pruned" in capsys.readouterr().out
    assert all(table.all() for table in method.open)
    assert len(method.events) == LAST * STEPS


# --- Guard, closing, no regrowth


@settings(max_examples=50)
@given(st.integers(0, 2**62), st.sampled_from([1, 2, 5]))
def test_what_is_protected_keeps_every_node_alive(seed, width):
    generator = torch.Generator().manual_seed(seed)
    tables = [torch.rand(14, 3, width << k, generator=generator) < 0.6 for k in range(3)]
    for edges in FEEDING:
        for table in tables:
            table[edges[seed % 2], SKIP, 0] = True
    tables = ChannelSpace().closed(tables)
    scores = [torch.rand(table.shape, generator=generator).double() for table in tables]
    kept = [tenas.protected(s, table, FEEDING) for s, table in zip(scores, tables, strict=True)]
    assert dead_node(closed(to_masks(kept, "sep_conv_3x3"))) is None
    for score, table, guarded in zip(scores, tables, kept, strict=True):
        assert (table | ~guarded).all(), "only what is open"
        assert 4 <= guarded.sum() <= 8
        for edges in FEEDING:
            here = torch.zeros_like(table)
            here[list(edges)] = True
            here[:, MID] = False
            assert score[guarded & here].tolist() == [score[table & here].max()]


def test_ties_are_protected_in_order_of_edge_kind_and_channel():
    gates = torch.ones(14, 3, 2, dtype=torch.bool)
    kept = tenas.protected(torch.zeros(14, 3, 2).double(), gates, FEEDING)
    assert kept.nonzero().tolist() == [[e, kind, 0] for e in (0, 2, 5, 9) for kind in (OP, MID)]
    gates[2, OP] = False
    kept = tenas.protected(torch.zeros(14, 3, 2).double(), gates, FEEDING)
    assert kept[2].nonzero().tolist() == [[SKIP, 0]]


@pytest.mark.parametrize("skip_mode", ["gated", "none"])
@pytest.mark.parametrize("op", ["sep_conv_3x3", "conv_3x3"])
def test_when_all_but_the_protected_goes_every_node_still_has_a_channel(skip_mode, op):
    budget = {"kind": "gates", "value": 0.001}
    method = whole_search(budget=budget, schedule="constant_gates", skip_mode=skip_mode, op=op)
    masks = masks_of(method)
    assert dead_node(masks) is None
    found = method.count_open()
    assert 12 <= found["op"] + found["skip"] <= 30


def test_pruned_gates_stay_closed_and_no_node_ever_dies():
    method, seen = searching(0, prune_epochs=4)[0], []
    for step in range(4 * STEPS):
        advance(method, step, step + 1)
        assert dead_node(masks_of(method)) is None
        assert closed(masks_of(method)) == masks_of(method)
        seen.append([table.clone() for table in method.open])
    for before, after in pairwise(seen):
        assert all((b | ~a).all() for b, a in zip(before, after, strict=True))
    counts = [sum(int(t.sum()) for t in tables) for tables in seen]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == len(counts)


def test_with_fallback_a_channel_is_either_operated_on_or_passed_on():
    method = whole_search(skip_mode="fallback")
    for table in method.mix(method.gates).gates:
        assert torch.equal(table[:, OP] + table[:, SKIP], torch.ones_like(table[:, OP]))
    assert 0 < method.count_open()["op"] < 14 * 14
    assert method.compact.params <= 2500
    assert method.search_state()["architecture"]["skip_mode"] == "fallback"


def test_without_skips_there_are_none():
    method = whole_search(skip_mode="none")
    assert method.count_open()["skip"] == 0
    assert all(not skip for cell in method.running for _, skip in cell)


def test_without_mid_gates_the_middle_of_a_living_edge_is_whole():
    method = whole_search(mid_gates=False, budget={"kind": "params", "value": 4500})
    assert method.compact.params <= 4500
    for table in method.open:
        assert torch.equal(table[:, MID].all(-1), table[:, OP].any(-1))
        assert torch.equal(table[:, MID].any(-1), table[:, OP].any(-1))


# --- One mask for the normal cells of a stage

SHARING = {"masks": "stage", "prune_epochs": LAST, "prune_every": 1}
WAYS: list[dict[str, Any]] = [
    {},
    {"skip_mode": "fallback"},
    {"skip_mode": "none", "budget": {"kind": "macs", "value": 90_000.0}},
    {"score": "random"},
    {"score": "bn_gamma", "budget": {"kind": "params", "value": 6500}},
    {"score": "abs2017", "score_ema": 0.5},
    {"cost_weight": True, "op": "conv_3x3", "budget": {"kind": "params", "value": 9000}},
    {"budget": {"kind": "gates", "value": 0.4}, **CONSTANT},
]


def sharing(steps, cells=6, **method):
    changes = {**WINDOW, **SHARING, "budget": {"kind": "params", "value": 6000}, **method}
    found = build("tenas", method=changes, cells=cells)
    advance(found, 0, steps)
    return found


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_normal_cells_of_a_stage_have_one_mask_within_the_same_budget_and_guard(way):
    method, before = sharing(0, **way), None
    for step in range(LAST * STEPS):
        advance(method, step, step + 1)
        masks = masks_of(method)
        assert masks.cells[0] == masks.cells[1]
        assert closed(masks) == masks
        assert dead_node(masks) is None
        assert before is None or all((b | ~a).all() for b, a in zip(before, method.open, strict=True))
        before = [table.clone() for table in method.open]
    kind, value = method.params.budget.kind, method.params.budget.value
    assert not all(table.all() for table in method.open)
    assert kind == "gates" or getattr(method.compact, kind) <= value
    assert all(kind == "gates" or event[kind] <= event["target"] for event in method.events)
    assert len({str(cell) for cell in masks.cells}) == 5, "the others are their own"


def test_cells_of_one_mask_have_the_mean_of_their_scores_and_the_others_their_own():
    one, own = sharing(0), sharing(0, masks="cell")
    assert one.leaders == [0, 0, 2, 3, 4, 5]
    for method in (one, own):
        method.params = method.params.model_copy(update={"prune_every": 3})
        method.start_epoch(0)
        method.step(batch(0), batch(1))
    found, each = (method.tables(method.event_scores()) for method in (one, own))
    for k in (0, 1):
        torch.testing.assert_close(found[k], (each[0] + each[1]) / 2)
    assert all(torch.equal(found[k], each[k]) for k in (2, 3, 4, 5))
    assert own.leaders == list(range(6))


def test_random_scores_of_a_shared_gate_are_one_draw_and_no_mean():
    method = sharing(0, score="random")
    torch.manual_seed(3)
    found = method.tables(method.event_scores())
    torch.manual_seed(3)
    drawn = method.tables(torch.rand(len(method.scores), dtype=torch.float64))
    assert all(torch.equal(found[k], drawn[k if k != 1 else 0]) for k in range(6))


def test_a_shared_gate_counts_in_each_of_its_cells():
    method = sharing(0, cells=9, budget={"kind": "gates", "value": 0.7}, **CONSTANT)
    assert method.leaders == [0, 0, 0, 3, 4, 4, 6, 7, 7]
    first, second, third = (method.tables(method.uses)[k].unique().tolist() for k in (0, 1, 3))
    assert (first, second, third) == ([3], [0], [1])
    assert int(method.uses.sum()) == len(method.uses)
    advance(method, 0, LAST * STEPS)
    gone = len(method.uses) - sum(method.count_open().values())
    wanted = method.events[-1]["target"]
    assert wanted == math.ceil(round(0.3 * len(method.uses), 6))
    assert wanted <= gone < 1.2 * wanted, "what closes in their wake counts"
    assert sum(method.events[0]["removed"].values()) >= wanted / method.events_planned


def test_shared_costs_are_those_of_all_cells():
    method = sharing(1, cost_weight=True)
    for table in method.open[:2]:  # one skip a node, which all that reads the cell hangs on
        table[:] = False
        table[[0, 2, 5, 9], SKIP] = True
    costs = method.space.costs(method.open, FORM, method.setting.common)
    by, scores = method.tables(method.ranking()), method.tables(method.scores)
    assert not torch.equal(costs[0], costs[1])
    torch.testing.assert_close(by[0] * (costs[0] + costs[1]), scores[0] + scores[1])
    assert torch.equal(by[0], by[1])


def test_the_distance_of_shared_masks_is_zero():
    state = json.loads(json.dumps(sharing(LAST * STEPS).search_state()))
    (found,) = tenas.derive(state, tenas.DeriveParams(rule="open", resize="topk", form="compact"), ChannelSpace())
    assert found.notes["topology"]["jaccard"] == 0
    wider = found.architecture.masks_at(8, 4)
    assert wider.cells[0] == wider.cells[1]


# --- Weights


def test_pruning_stops_the_momentum_of_what_feeds_pruned_channels_alone():
    method, _ = searching(1)
    parts = list(method.supernet.parts(method.open))
    velocity = dict(zip(map(id, method.trainer.parameters), method.trainer.velocity(), strict=True))
    cleared = moving = 0
    for weight, part in parts:
        buffer = velocity[id(weight)]
        part = part.expand_as(buffer)
        assert not buffer[~part].any()
        cleared, moving = cleared + int((~part).sum()), moving + int((buffer[part] != 0).sum())
    assert cleared > 0
    assert moving > 0


def test_gates_are_no_weights():
    method, _ = searching(0)
    shapes = {tuple(p.shape) for p in method.trainer.parameters}
    assert all(tuple(table.shape) not in shapes for table in method.open)
    assert method.gates.requires_grad is False
    assert not any("gate" in name for name in method.supernet.state_dict())


def test_nothing_is_scored_or_pruned_in_the_warm_up_and_while_it_settles():
    method, _ = searching(0, warmup=1, prune_epochs=1, settle=2)
    advance(method, 0, STEPS)
    assert not method.total.any()
    assert method.events == []
    advance(method, STEPS, 2 * STEPS)
    assert len(method.events) == STEPS
    kept = masks_of(method)
    advance(method, 2 * STEPS, 4 * STEPS)
    assert len(method.events) == STEPS
    assert masks_of(method) == kept
    assert not method.total.any()


@pytest.mark.parametrize("score", ["gate2019", "abs2017", "random"])
def test_scores_do_not_move_the_weights(score):
    """The step is that of plain SGD, wherever the scores come from."""
    weights = []
    for split in ("train", "valid"):
        method, _ = searching(1, score=score, score_split=split, prune_every=2)
        weights.append([p.detach().clone() for p in method.trainer.parameters])
        images = method.passes["valid_images"]
        assert images == (4 if split == "valid" and score != "random" else 0)
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_an_edge_without_channels_does_not_run_and_the_search_gets_cheaper():
    method, rows = searching(LAST * STEPS, budget={"kind": "params", "value": 1200})
    dead = [(k, e) for k, cell in enumerate(method.running) for e, (runs, _) in enumerate(cell) if not runs]
    assert dead
    costs, before = method.image_macs, method.spent
    method.pruning = False
    method.step(batch(50), batch(51))
    assert method.spent - before == 3 * 4 * costs
    assert costs < method.whole.macs
    for k, e in dead:
        assert all(p.grad is None for p in method.supernet.cells[k].edges[e].parameters())
    assert rows[-1]["params_m"] < rows[0]["params_m"]


# --- What is refused, what is found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prune_every": 5}, "prune_every is 5, but prune_epochs: 2 has only 4 iterations"),
        ({"budget": {"kind": "params", "value": 100}}, "budget.value is 100 params, but with skip_mode: gated"),
        ({"budget": {"kind": "macs", "value": 4000}}, "is 4000 macs, but with"),
        ({"masks": "stage"}, "masks is stage, but no stage of 3 cells has two normal ones"),
        ({"mid_gates": False}, "mid_gates: false no network of 3 cells and 2 channels is below 3825"),
    ],
)
def test_a_search_that_cannot_end_well_does_not_begin(changes, message):
    with pytest.raises(ParamsError, match=message):
        searching(0, **changes)


def test_without_mid_gates_the_budget_of_the_notes_is_refused_at_their_size():
    whole = {"budget": {"kind": "params", "value": 3.5e6}, "mid_gates": False}
    method: Any = build("tenas", method=WINDOW)
    size = method.setting.common.model_copy(update={"cells": 20, "channels": 36})
    method.setting = replace(method.setting, form=ImageForm(3, 32, 32, 10), common=size)
    method.params = method.params.model_validate({**PRESET["tenas"], **whole})
    with pytest.raises(ParamsError, match="no network of 20 cells and 36 channels is below 4285270"):
        method.check()


def test_a_budget_that_the_guard_keeps_from_being_met_ends_with_a_message():
    least = ChannelSpace().smallest(FORM, build("tenas", method=WINDOW).setting.common, "none", mid_gates=True).params
    with pytest.raises(ParamsError, match="at event 4 of 4 everything that may go is gone"):
        whole_search(skip_mode="none", budget={"kind": "params", "value": least})


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "constant_gates"},
        {"budget": {"kind": "gates", "value": 0.5}},
        {"budget": {"kind": "gates", "value": 1.0}, "schedule": "constant_gates"},
    ],
)
def test_schedule_and_budget_must_fit(changes):
    with pytest.raises(ValidationError, match="kind: gates"):
        tenas.Params.model_validate({**PRESET["tenas"], **changes})


def test_a_search_leaves_what_its_events_did_and_derive_what_it_found():
    method = whole_search()
    state = json.loads(json.dumps(method.search_state()))
    assert len(state["events"]) == LAST * STEPS
    for event in state["events"]:
        assert set(event["removed"]) == set(event["quartiles"]) == set(event["medians"]) == set(GATES)
        assert event["quartiles"]["op"] == sorted(event["quartiles"]["op"])
        assert len(event["medians"]["skip"]) == 3
    sizes = state["sizes"]
    assert sizes["compact"]["params"] <= 2500 < sizes["masked"]["params"] <= sizes["supernet"]["params"]
    for table, scores in zip(method.open, state["scores"], strict=True):
        assert not torch.tensor(scores)[~table].any()

    for resize in ("refuse", "repeat", "topk"):
        form = "masked" if resize == "repeat" else "compact"
        (found,) = tenas.derive(state, tenas.DeriveParams(rule="open", resize=resize, form=form), ChannelSpace())
        assert found.architecture.masks == masks_of(method)
        assert found.architecture.form == form
        assert (found.architecture.resize, found.architecture.scores is None) == (resize, resize != "topk")
        assert found.notes["sizes"] == sizes
        assert len(found.notes["topology"]["edges"]) == 3
    size = method.setting.common.model_copy(update={"channels": 4})
    assert ChannelSpace().count(found.architecture, FORM, size).params > sizes["compact"]["params"]
    assert ChannelSpace().count(found.architecture, FORM, method.setting.common).params == sizes["compact"]["params"]
