"""EoiNAS against the numbers of its notes: schedules, sampling, indicator, slimming, genotype, what is inherited."""

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.architectures.darts import DartsArchitecture
from nas.architectures.genotypes import _darts
from nas.spaces.registry import get_space
from tests.methods.settings import STEPS, advance, build, in_double_precision
from tests.methods.test_methods import saved

eoinas = importlib.import_module("nas.methods.eoinas")
NONE, MAX, AVG, SKIP, S3, S5, D3, D5 = range(8)
KINDS = ("normal", "reduce")


def row(width=8, **columns):
    """One edge's table: row(c0=.9, c3=.85)."""
    table = torch.zeros(1, width, dtype=torch.float64)
    for name, value in columns.items():
        table[0, int(name[1:])] = value
    return table


def living(*ops):
    alive = torch.zeros(1, 8, dtype=torch.bool)
    alive[0, list(ops)] = True
    return alive


# --- Schedules


@pytest.mark.parametrize(
    ("epoch", "tau"),
    [(0, 5), (20, 5), (39, 2.540908), (59, 1.246049), (79, 0.611057), (99, 0.299659), (119, 0.146952), (139, 0.072064)],
)
def test_the_temperature_of_the_release(epoch, tau):
    assert eoinas.temperature(epoch, 160, 20) == pytest.approx(tau, abs=1e-6)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.099375), (19, 0.0875), (20, 0.1), (39, 0.002237)])
def test_the_skip_dropout_of_the_release_jumps_up_after_the_warm_up(epoch, expected):
    assert eoinas.skip_dropout(epoch, 160, 20) == pytest.approx(expected, abs=1e-6)


@given(warmup=st.integers(1, 30), prune_every=st.integers(1, 30))
def test_a_schedule_of_any_length_ends_at_the_values_of_the_release(warmup, prune_every):
    epochs = warmup + 7 * prune_every
    assert eoinas.temperature(epochs - 1, epochs, warmup) == pytest.approx(0.035340, abs=1e-6)
    assert eoinas.skip_dropout(epochs - 1, epochs, warmup) == pytest.approx(eoinas.skip_dropout(159, 160, 20))
    taus = [eoinas.temperature(epoch, epochs, warmup) for epoch in range(epochs)]
    assert taus[: warmup + 1] == [5.0] * (warmup + 1)
    assert all(a > b for a, b in zip(taus[warmup:], taus[warmup + 1 :], strict=False))


def test_the_decay_of_a_search_of_sixteen_epochs():
    assert eoinas.temperature(3, 16, 2) / eoinas.temperature(2, 16, 2) == pytest.approx(0.68322, abs=1e-5)
    assert eoinas.skip_dropout(3, 16, 2) / eoinas.skip_dropout(2, 16, 2) == pytest.approx(math.exp(-2.1385), abs=1e-4)


# --- Sampling


@pytest.mark.parametrize("tau", [5.0, 0.05])
def test_the_largest_weight_is_a_draw_from_the_softmax_of_alpha_at_any_temperature(tau):
    torch.manual_seed(0)
    count, alive = 100_000, living(NONE, SKIP, S3, D5)
    alpha = row(c0=0.9, c3=0.85, c4=-0.2, c7=-0.3)
    drawn = eoinas.sampled(eoinas.gumbel_softmax(alpha.expand(count, 8), alive.expand(count, 8), tau)).sum(0)
    expected = eoinas.shares(alpha, alive)[0]
    deviation = (count * expected * (1 - expected)).sqrt()
    assert ((drawn - count * expected).abs() <= 4 * deviation).all()


@settings(max_examples=50)
@given(alive=st.lists(st.booleans(), min_size=8, max_size=8).filter(any), tau=st.floats(0.03, 5))
def test_a_sample_has_weights_that_sum_to_one_and_exact_zeros_where_nothing_is_alive(alive, tau):
    mask = torch.tensor([alive])
    weights = eoinas.gumbel_softmax(torch.zeros(1, 8), mask, tau)
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert (weights[~mask] == 0).all()
    assert eoinas.sampled(weights)[~mask].sum() == 0


# --- Indicator


def test_the_indicator_of_the_notes_drops_another_operation_than_alpha():
    alive = living(NONE, SKIP, S3, D5)
    alpha = row(c0=0.9, c3=0.85, c4=-0.2, c7=-0.3)
    accuracy, drawn = row(c0=50, c3=50, c4=50, c7=50), row(c0=3400, c3=3300, c4=1060, c7=60).long()
    shares = eoinas.shares(alpha, alive)[0, alive[0]]
    torch.testing.assert_close(
        shares, torch.tensor([0.386803, 0.367938, 0.128756, 0.116503]).double(), atol=1e-6, rtol=0
    )
    found = eoinas.importance(alpha, accuracy, drawn, alive, 0.5, True)
    expected = torch.tensor([0.394156, 0.375514, 0.152340, 0.533170]).double()
    torch.testing.assert_close(found[0, alive[0]], expected, atol=1e-6, rtol=0)
    assert eoinas.slim(found, alive) == [S3]
    assert eoinas.slim(eoinas.shares(alpha, alive), alive) == [D5]


def test_what_was_never_drawn_and_never_judged_goes_first():
    alive = living(NONE, MAX, AVG)
    accuracy, drawn = row(c0=40, c2=30), row(c0=5).long()
    found = eoinas.importance(row(), accuracy, drawn, alive, 0.5, True)
    assert found[0, 0].item() == pytest.approx(1 / 3 + 4)
    assert found[0, 1].item() == -math.inf
    assert found[0, 2].item() == pytest.approx(1 / 3 + 15)
    assert eoinas.slim(found, alive) == [MAX]
    kept = eoinas.importance(row(), accuracy, drawn, alive, 0.5, False)
    assert kept[0, 1].item() == pytest.approx(1 / 3)


def test_ties_drop_the_lower_index_and_none_goes_when_it_is_one_of_two():
    alive = living(SKIP, S3, D5)
    assert eoinas.slim(row(c3=1, c4=1, c7=2), alive) == [SKIP]
    assert eoinas.slim(row(c0=9, c4=1), living(NONE, S3)) == [NONE]
    assert eoinas.slim(row(c0=9, c4=1, c5=2), living(NONE, S3, S5)) == [S3]


def test_the_fault_of_the_release_shifts_alpha_and_the_aligned_one_does_not():
    alpha, alive = torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 2), torch.ones(2, 4, dtype=torch.bool)
    drop = [3, 0]
    after = eoinas.without(alive, drop)
    aligned = [values[kept].tolist() for values, kept in zip(alpha, after, strict=True)]
    assert aligned == [pytest.approx([0.1, 0.2, 0.3]), pytest.approx([0.2, 0.3, 0.4])]
    shifted = eoinas.compact_as_released(alpha, alive, drop)
    faulty = [values[kept].tolist() for values, kept in zip(shifted, after, strict=True)]
    assert faulty == [pytest.approx([0.1, 0.2, 0.3])] * 2


# --- Genotype


def test_the_genotype_of_the_notes():
    pairs = [
        {NONE: 0.70, S3: 0.30},
        {SKIP: 0.40, S5: 0.60},
        {NONE: 0.90, D3: 0.10},
        {S3: 0.55, SKIP: 0.45},
        {MAX: 0.35, AVG: 0.65},
        {NONE: 0.20, SKIP: 0.80},
        {S3: 0.50, D5: 0.50},
        {SKIP: 0.52, S3: 0.48},
        {NONE: 0.60, D5: 0.40},
        {NONE: 0.45, S3: 0.55},
        {S3: 0.51, S5: 0.49},
        {D3: 0.30, D5: 0.70},
        {SKIP: 0.54, AVG: 0.46},
        {NONE: 0.99, SKIP: 0.01},
    ]
    alive, table = torch.zeros(14, 8, dtype=torch.bool), torch.zeros(14, 8, dtype=torch.float64)
    for e, pair in enumerate(pairs):
        for op, value in pair.items():
            alive[e, op], table[e, op] = True, value
    cell = {"alive": alive.int().tolist(), "indicator": table.tolist(), "dropped": eoinas.slim(table, alive)}
    assert cell["dropped"][6] == S3, "a tie drops the lower index"
    text = "s3-0 s5-1 | s3-1 ap-2 | sk-0 sk-2 | s3-0 d5-2"
    (found,) = eoinas.derive({"slimming": [{"cells": dict.fromkeys(KINDS, cell)}]}, None, get_space("darts"))
    assert found.architecture == _darts(text, text)


# --- A whole search


def bits(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def same(found, expected):
    return all(torch.equal(found[name], value) for name, value in expected.items())


def searching(epochs, **changes):
    """A search of two epochs of warm-up and stages of one, at the end of `epochs` epochs."""
    method = build("eoinas", method={"warmup": 2, "prune_every": 1, **changes})
    rows = advance(method, 0, STEPS * epochs)
    return method, rows


def test_a_search_is_as_long_as_its_schedule():
    assert build("eoinas", method={"warmup": 20, "prune_every": 20}).epochs == 160
    assert build("eoinas", method={"warmup": 2, "prune_every": 2}).epochs == 16


def test_lambda_is_scaled_with_the_draws_of_a_stage():
    method = build("eoinas", method={"prune_every": 2})
    assert method.lam == pytest.approx(0.5 * 2 * STEPS / 7820)
    assert build("eoinas", method={"lambda": 0.25}).lam == 0.25
    assert build("eoinas", method={"lambda": 0.25, "indicator": "alpha"}).lam == 0


def test_alphas_rest_in_the_warm_up_and_counters_begin_after_it():
    method = build("eoinas", method={"warmup": 3, "prune_every": 2})
    start = bits(method.alphas)
    advance(method, 0, 3 * STEPS)
    assert same(method.alphas, start)
    assert all(not method.drawn[kind].any() and not method.accuracy[kind].any() for kind in KINDS)
    advance(method, 3 * STEPS, 4 * STEPS)
    assert not any(torch.equal(method.alphas[kind], start[kind]) for kind in KINDS)
    for kind in KINDS:
        assert (method.drawn[kind].sum(-1) == STEPS).all(), "one draw per edge and iteration"
        assert (method.judged_draws[kind].sum(-1) == STEPS).all()


def test_one_operation_less_per_edge_at_every_slimming_point():
    method, rows = searching(9)
    assert [row["alive"] for row in rows] == [8, 8, 8, 7, 6, 5, 4, 3, 2]
    assert [point["epoch"] for point in method.slimming] == [2, 3, 4, 5, 6, 7, 8]
    assert method.epochs == 9
    for kind in KINDS:
        assert (method.alive[kind].sum(-1) == 1).all()
        assert not method.alive[kind][:, NONE].any(), "none never survives"
    (found,) = eoinas.derive(method.search_state(), None, get_space("darts"))
    assert isinstance(found.architecture, DartsArchitecture)
    assert 0 <= rows[-1]["disagreements"] <= 28
    assert "disagreements" not in rows[1]


def test_what_a_slimming_point_keeps_and_what_it_resets():
    method = build("eoinas", method={"warmup": 1, "prune_every": 2})
    advance(method, 0, 3 * STEPS - 1)
    weights, momentum = bits(method.supernet.state_dict()), method.trainer.velocity()
    advance(method, 3 * STEPS - 1, 3 * STEPS)  # the last step and the epoch's end
    stepped = method.slimming[0]["cells"]
    after = method.trainer.velocity()
    assert [v is None for v in after] == [v is None for v in momentum], "the momentum is inherited"
    assert any(not torch.equal(weights[name], value) for name, value in method.supernet.state_dict().items())
    for kind in KINDS:
        assert method.accuracy[kind].tolist() == stepped[kind]["accuracy"], "A is kept"
        assert not method.drawn[kind].any(), "F is reset"
        assert torch.tensor(stepped[kind]["drawn"]).sum(-1).tolist() == [2 * STEPS] * 14
    assert not method.architect.optimiser.state, "Adam is reset"


def test_a_slimming_point_itself_changes_no_weight_and_no_alpha():
    method, _ = searching(3)
    before, alphas = bits(method.supernet.state_dict()), bits(method.alphas)
    method.slim_once()
    assert same(method.supernet.state_dict(), before)
    assert same(method.alphas, alphas)
    method.params = method.params.model_copy(update={"alpha_compaction": "release"})
    method.slim_once()
    assert not same(method.alphas, alphas)


def test_pruned_operations_do_not_run_and_the_search_gets_cheaper():
    method, _ = searching(4)
    assert method.alive_now == 6
    ran = set()
    for cell, kind in zip(method.supernet.cells, method.supernet.cell_types, strict=True):
        for e, edge in enumerate(cell.edges):
            for op, module in enumerate(edge.ops):
                for parameter in module.parameters():
                    parameter.register_hook(lambda _, where=(kind, e, op): ran.add(where))
    costs, before = method.image_macs, method.spent
    advance(method, 4 * STEPS, 4 * STEPS + 1)
    assert ran
    assert all(method.alive[kind][e, op] for kind, e, op in ran)
    assert method.spent - before == 3 * costs * 8, "four images of each half"
    full = method.setting.space.supernet_macs(method.setting.form, method.setting.common)
    assert costs < full


def test_the_accuracy_of_an_operation_is_the_last_the_mean_or_a_moving_one():
    seen = {}
    for stat in ("last", "mean", "ema"):
        method = build("eoinas", method={"acc_stat": stat})
        chosen = torch.zeros(14, 8, dtype=torch.bool)
        chosen[:, S3] = True
        for found in (50.0, 100.0, 60.0):
            method.judge_sample("normal", chosen, torch.tensor(found, dtype=torch.float64))
        assert not method.accuracy["normal"][:, D5].any()
        seen[stat] = method.accuracy["normal"][0, S3].item()
    assert seen == {"last": 60, "mean": pytest.approx(70), "ema": pytest.approx(0.9 * 55 + 0.1 * 60)}


def test_one_shot_keeps_all_operations_to_the_end_and_then_drops_seven():
    method, rows = searching(9, pruning="one_shot")
    assert [row["alive"] for row in rows] == [8] * 9
    assert len(method.slimming) == 7
    assert {point["epoch"] for point in method.slimming} == {8}
    assert method.alive_now == 1
    assert torch.tensor(method.slimming[0]["cells"]["normal"]["drawn"]).sum(-1).tolist() == [7 * STEPS] * 14


def test_without_inheritance_a_stage_begins_fresh_and_learns_its_weights_first():
    method = build("eoinas", method={"warmup": 1, "prune_every": 5, "inherit": False})
    advance(method, 0, 6 * STEPS)
    assert method.alive_now == 7
    assert not method.trainer.optimiser.state
    assert all(not method.accuracy[kind].any() for kind in KINDS)
    start = bits(method.alphas)
    advance(method, 6 * STEPS, 8 * STEPS)
    assert same(method.alphas, start), "two of five epochs without an architecture step"
    assert method.trainer.lr < method.setting.common.lr, "the cosine runs over the stage"
    advance(method, 8 * STEPS, 9 * STEPS)
    assert not same(method.alphas, start)


def test_the_order_of_the_two_steps_is_a_parameter():
    orders: dict[str, list[str]] = {}
    for order in ("w_then_a", "a_then_w"):
        method = build("eoinas", method={"warmup": 1, "order": order})
        calls = orders[order] = []
        descend, alpha_step = method.trainer.descend, method.alpha_gradients
        method.trainer.descend = lambda loss, f=descend, c=calls: (c.append("w"), f(loss))[1]
        method.alpha_gradients = lambda *halves, f=alpha_step, c=calls: (c.append("a"), f(*halves))[1]
        advance(method, STEPS, STEPS + 1)
    assert orders == {"w_then_a": ["w", "a"], "a_then_w": ["a", "w"]}


def test_the_log_says_why_an_operation_went(capsys):
    method, _ = searching(3)
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if "* is removed:" in line]
    assert len(told) == 28
    for line, op in zip(told[:14], method.slimming[0]["cells"]["normal"]["dropped"], strict=True):
        names = method.names["normal"][0]
        assert line.count("*") == 2
        assert f"*{names[op]} " in line
        assert sum(name in line for name in names) == 8


def test_the_engine_and_the_reference_slim_alike(monkeypatch):
    monkeypatch.setattr(eoinas, "skip_dropout", lambda *_: 0.0)  # they draw its masks in another order
    runs = {}
    for reference in (True, False):
        method = build("eoinas", method={"warmup": 1, "alpha_lr": 0.05})
        in_double_precision(method.supernet)
        for cell in method.supernet.cells:
            cell.reference = reference
        runs[reference] = method, advance(method, 0, 4 * STEPS)
    (plain, expected), (quick, rows) = runs[True], runs[False]
    for found, row in zip(rows, expected, strict=True):
        assert found == pytest.approx(row, rel=1e-5)
    for kind in KINDS:
        assert torch.equal(quick.alive[kind], plain.alive[kind])
        torch.testing.assert_close(quick.alphas[kind], plain.alphas[kind], rtol=1e-5, atol=1e-6)


def test_the_best_of_k_searches_is_what_a_short_training_prefers():
    method = build("eoinas", method={"protocol": "best_of_k", "k": 3, "k_epochs": 2})
    single = build("eoinas")
    assert method.epochs == 3 * single.epochs + 3 * 2
    rows = advance(method, 0, method.epochs * STEPS)
    assert [row.get("alive") for row in rows[: single.epochs]] == [8, 8, 7, 6, 5, 4, 3, 2]
    assert [row["candidate"] for row in rows[-6:]] == [0, 0, 1, 1, 2, 2]
    state = method.search_state()
    cells = [eoinas.architecture(run["state"], get_space("darts")) for run in state["best_of"]]
    assert len({cell.id for cell in cells}) == 3, "every search is another one"
    (found,) = eoinas.derive(state, None, get_space("darts"))
    accuracies = [run["valid_acc"] for run in state["best_of"]]
    assert found.notes["valid_acc"] == max(accuracies) == accuracies[found.notes["search"]]
    assert found.architecture == cells[found.notes["search"]]
    images = 4 * STEPS
    assert method.passes == {"train_images": images * method.epochs, "valid_images": images * 3 * (single.epochs - 1)}
    assert method.macs() > method.spent > 0


@pytest.mark.parametrize("at", [7 * STEPS + 1, 9 * STEPS, 17 * STEPS + 1])  # in two searches and in the contest
def test_a_best_of_k_search_goes_on_to_the_same_bits(at):
    options = {"protocol": "best_of_k", "k": 2, "k_epochs": 1}
    whole = build("eoinas", method=options)
    advance(whole, 0, at)
    kept, generator = saved(whole.state_dict()), torch.get_rng_state()
    advance(whole, at, whole.epochs * STEPS)
    again = build("eoinas", seed=5, method=options)
    again.load_state_dict(kept)
    torch.set_rng_state(generator)
    advance(again, at, again.epochs * STEPS)
    assert again.search_state() == whole.search_state()
    assert again.macs() == whole.macs()
