import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.sparse.linalg import LinearOperator, eigsh  # type: ignore[import-untyped]

from nas.architectures.cell_shape import DARTS_EDGES
from nas.architectures.darts import PRIMITIVES
from nas.contracts import ImageForm, SoftMix
from nas.data.dataset import Batch
from nas.methods import sections
from nas.methods.darts import DeriveParams, derive
from nas.methods.shared.base import op_counts
from nas.methods.shared.relaxed import gradient, real_shares, strongest_ops, unrolled_gradient
from nas.spaces.darts.space import DartsSpace
from tests.methods.settings import FORM, PRESET, STEPS, advance, batch, build, common, valid_pass

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.3


class Problem:
    """Two weight tensors and two architecture tensors, losses that mix them without being linear in any.

    `train` is quadratic in the weights wherever an alpha stands, so that central differences are exact; `rough` adds a
    term that is not.
    """

    def __init__(self, rough=False):
        generator = torch.Generator().manual_seed(0)
        draw = partial(torch.randn, generator=generator, dtype=torch.float64)
        self.weights = [draw(3).requires_grad_(), draw(2, 2).requires_grad_()]
        self.alphas = [draw(3).requires_grad_(), draw(2).requires_grad_()]
        self.momentum = draw(3)
        self.velocity = [self.momentum, None]
        self.rough = rough

    def train(self, weights=None, alphas=None):
        (u, v), (a, b) = weights or self.weights, alphas or self.alphas
        loss = (a.sin() * u.square()).sum() + (b @ v @ v @ b) + (u.cos() * u.roll(1)).sum() + v.exp().sum()
        return loss + 0.1 * (a * u).sin().sum() if self.rough else loss

    def valid(self, weights=None, alphas=None):
        (u, v), (a, b) = weights or self.weights, alphas or self.alphas
        return (a * u.tanh()).sum() + (v @ b).square().sum() + (a.square() * b.sum()).sum() + (u[:2] @ v).sin().sum()

    def unrolled(self, alphas, lr=LR, create_graph=True):
        """L_valid(w'(alpha), alpha), with w' written out: one SGD step with momentum and weight decay."""
        weights = [w.detach().requires_grad_() for w in self.weights]
        slopes = torch.autograd.grad(self.train(weights, alphas), weights, create_graph=create_graph)
        moved = [
            w - lr * (g + DECAY * w + (0 if v is None else MOMENTUM * v))
            for w, g, v in zip(weights, slopes, self.velocity, strict=True)
        ]
        return self.valid(moved, alphas)

    def found(self, lr=LR):
        return unrolled_gradient(
            self.train, self.valid, self.weights, self.alphas, self.velocity, lr, MOMENTUM, DECAY
        )  # fmt: skip


def numerical(function, variables, h=1e-5):
    """Central differences of a function of several tensors."""
    slopes = [torch.zeros_like(v) for v in variables]
    for slope, k in zip(slopes, range(len(variables)), strict=True):
        for index in range(slope.numel()):
            values = []
            for sign in (1, -1):
                moved = [v.detach().clone().requires_grad_() for v in variables]
                with torch.no_grad():
                    moved[k].view(-1)[index] += sign * h
                values.append(function(moved).item())
            slope.view(-1)[index] = (values[0] - values[1]) / (2 * h)
    return slopes


def test_the_unrolled_gradient_is_that_of_the_valid_loss_after_the_step():
    problem = Problem()
    exact = torch.autograd.grad(problem.unrolled(problem.alphas), problem.alphas)
    by_differences = numerical(problem.unrolled, problem.alphas)
    direct = torch.autograd.grad(problem.valid(), problem.alphas)
    for found, true, rough, first in zip(problem.found(), exact, by_differences, direct, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found, rough, rtol=1e-6, atol=1e-6)
        assert (found - first).abs().max() > 0.01, "the second order is no small matter here"


def test_where_the_central_difference_is_not_exact_it_is_near():
    problem = Problem(rough=True)
    exact = torch.autograd.grad(problem.unrolled(problem.alphas), problem.alphas)
    for found, true in zip(problem.found(), exact, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-4, atol=1e-4)


def test_the_virtual_step_is_the_step_that_sgd_would_take():
    problem = Problem()
    seen = []

    def valid():
        seen.append([w.detach().clone() for w in problem.weights])
        return problem.valid()

    expected = [w.detach().clone().requires_grad_() for w in problem.weights]
    optimiser = torch.optim.SGD(expected, LR, MOMENTUM, weight_decay=DECAY)
    optimiser.state[expected[0]]["momentum_buffer"] = problem.momentum.clone()
    problem.train(expected).backward()
    optimiser.step()
    unrolled_gradient(
        problem.train, valid, problem.weights, problem.alphas, problem.velocity, LR, MOMENTUM, DECAY
    )  # fmt: skip
    for found, true in zip(seen[0], expected, strict=True):
        torch.testing.assert_close(found, true.detach(), rtol=1e-12, atol=1e-12)


def test_the_weights_and_the_velocity_leave_as_they_came():
    problem = Problem()
    before = copy.deepcopy((problem.weights, problem.momentum))
    problem.found()
    assert all(torch.equal(a, b) for a, b in zip(before[0], problem.weights, strict=True))
    assert torch.equal(before[1], problem.momentum)
    assert all(w.grad is None for w in problem.weights)


def test_with_a_rate_of_zero_the_second_order_is_the_first():
    problem = Problem()
    direct = torch.autograd.grad(problem.valid(), problem.alphas)
    assert all(torch.equal(a, b) for a, b in zip(problem.found(lr=0.0), direct, strict=True))


def test_a_variable_that_the_loss_does_not_see_has_a_zero_gradient():
    a, b = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    assert [g.tolist() for g in gradient((a * 2).sum(), [a, b])] == [[2.0, 2.0], [0.0] * 3]


def table(rows):
    """An alpha table of zeros but for some rows: (node, predecessor) -> row."""
    alpha = torch.zeros(len(DARTS_EDGES), len(PRIMITIVES), dtype=torch.float64)
    for edge, row in rows.items():
        alpha[DARTS_EDGES.index(edge)] = torch.tensor(row, dtype=torch.float64)
    return alpha


WORKED = table(
    {(3, 0): (2, 0, 0, 0, 1, 0, 0, 0), (3, 1): (0, 0, 0, 0.5, 0, 0, 0, 0), (3, 2): (-1, 0, 0, 0, 0, 0, 0, 0.8)}
)


def found_cell(alpha, rule, max_skips=None):
    state = {"alphas": {"normal": alpha.tolist(), "reduce": torch.zeros_like(alpha).tolist()}}
    (derived,) = derive(state, DeriveParams(rule=rule, max_skips=max_skips), DartsSpace())
    assert derived.name == "main"
    return derived.architecture.to_dict()


def test_the_strength_of_an_edge_is_its_best_share_beside_that_of_none():
    ops, shares = zip(*strongest_ops(real_shares(WORKED, "top2"))[2:5], strict=True)
    assert [PRIMITIVES[op] for op in ops] == ["sep_conv_3x3", "skip_connect", "dil_conv_5x5"]
    assert shares == pytest.approx((0.168760, 0.190632, 0.258982), abs=5e-7)
    assert found_cell(WORKED, "top2")["normal"][2:4] == [["skip_connect", 1], ["dil_conv_5x5", 2]]


def test_without_none_in_the_softmax_another_edge_stays():
    shares = [share for _, share in strongest_ops(real_shares(WORKED, "top2_without_none"))[2:5]]
    assert shares == pytest.approx((0.311791, 0.215555, 0.270565), abs=5e-7)
    assert found_cell(WORKED, "top2_without_none")["normal"][2:4] == [["sep_conv_3x3", 0], ["dil_conv_5x5", 2]]


@pytest.mark.parametrize("rule", ["top2", "top2_without_none"])
def test_with_equal_alphas_the_lower_operations_and_predecessors_stay(rule):
    found = found_cell(table({}), rule)
    assert found["normal"] == found["reduce"] == [["max_pool_3x3", pred] for pred in [0, 1] * 4]


@given(
    st.lists(st.lists(st.sampled_from([-3.0, 0.0, 0.5, 9.0]), min_size=8, max_size=8), min_size=14, max_size=14),
    st.sampled_from(["top2", "top2_without_none"]),
)
def test_none_is_never_derived_and_ties_take_the_lower_operation(rows, rule):
    for (op, _), row in zip(strongest_ops(real_shares(torch.tensor(rows), rule)), rows, strict=True):
        assert op == 1 + row[1:].index(max(row[1:]))
    cell = found_cell(torch.tensor(rows), rule)["normal"]
    assert "none" not in [op for op, _ in cell]


@pytest.mark.parametrize("order", ["first", "second"])
def test_alphas_rest_during_the_warm_up_and_learn_after_it(order):
    method = build("darts", method={"warmup_epochs": 1, "order": order})
    start = {kind: alpha.detach().clone() for kind, alpha in method.alphas.items()}
    method.start_epoch(0)
    method.step(batch(0), batch(1))
    assert all(torch.equal(start[kind], alpha) for kind, alpha in method.alphas.items())
    assert method.passes == {"train_images": 4, "valid_images": 0}
    method.start_epoch(1)
    method.step(batch(0), batch(1, count=3))
    assert all((start[kind] != alpha).any() for kind, alpha in method.alphas.items())
    assert method.passes == {"train_images": 2 * 4 + (3 * 4 if order == "second" else 0), "valid_images": 3}


def test_alphas_start_small_and_the_mix_of_every_edge_sums_to_one():
    method = build("darts")
    for alpha in method.alphas.values():
        assert alpha.shape == (14, 8)
        assert 0.0005 < alpha.std() < 0.0015
    with torch.no_grad():
        method.alphas["normal"].mul_(5000)
    for weights in method.mix().weights.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(14))
        assert (weights > 0).all()


def test_an_image_costs_the_supernet_three_times():
    method = build("darts")
    method.spend("train_images", 5)
    method.spend("valid_images", 2)
    assert method.macs() == 3 * 7 * method.setting.space.supernet_macs(method.setting.form, method.setting.common)


def test_the_architecture_step_comes_first_and_sees_the_valid_batch():
    method = build("darts", method={"warmup_epochs": 0, "order": "first"})
    method.start_epoch(0)
    alphas = list(method.alphas.values())
    expected = [g.clone() for g in torch.autograd.grad(method.loss(batch(1)), alphas)]
    method.step(batch(0), batch(1))
    for alpha, true in zip(alphas, expected, strict=True):
        buffer = method.architect.optimiser.state[alpha]["exp_avg"]  # half of gradient + decay alpha, as beta 1 = .5
        torch.testing.assert_close(buffer, 0.5 * true, rtol=1e-3, atol=1e-5)


def test_a_row_of_the_history_says_what_the_alphas_say():
    method = build("darts")
    method.start_epoch(0)
    with torch.no_grad():
        method.alphas["reduce"][:, 4] = 50.0
    row = method.end_epoch(valid_pass)
    assert row["ops.reduce.sep_conv_3x3"] == 14
    assert sum(row[f"ops.normal.{op}"] for op in PRIMITIVES) == 14
    assert row["entropy"] == pytest.approx(torch.tensor(8.0).log().item() / 2, rel=1e-3)


# --- Remedies against collapse

SKIPPING = table(
    {(node, pred): (0, 0, 0, 3 - 0.1 * pred, 1, 0, 0, 0) for node, pred in DARTS_EDGES}
)  # skips win every edge


def skips_of(cell):
    return sum(op == "skip_connect" for op, _ in cell["normal"])


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_a_cap_on_skips_takes_the_weakest_away_one_by_one(limit):
    assert skips_of(found_cell(SKIPPING, "top2")) == 8
    assert skips_of(found_cell(SKIPPING, "top2", limit)) == limit
    assert skips_of(found_cell(SKIPPING, "top2_without_none", limit)) == limit


def test_a_cap_that_is_kept_anyway_changes_nothing():
    assert found_cell(WORKED, "top2", 8) == found_cell(WORKED, "top2")


def test_skips_stop_the_search_after_the_epoch_in_which_the_cell_has_as_many(capsys):
    method = build("darts", method={"early_stop": "skips", "stop_skips": 2}, epochs=5)
    rows = advance(method, 0, STEPS)
    assert method.epochs == 5
    assert rows[0]["skips"] < 2
    method.alphas["reduce"].data[:, 3] += 9  # reduction cells do not count
    rows = advance(method, STEPS, 2 * STEPS)
    assert method.epochs == 5
    method.alphas["normal"].data[:, 3] += 9
    rows = advance(method, 2 * STEPS, 3 * STEPS)
    assert rows[0]["skips"] == 8
    assert method.epochs == 3
    assert "early stop after epoch 3: 8 skip connections" in capsys.readouterr().out
    again = build("darts", seed=5, method={"early_stop": "skips", "stop_skips": 2}, epochs=5)
    again.load_state_dict(method.state_dict())
    assert again.epochs == 3


def test_a_sharp_loss_stops_the_search_and_the_alphas_are_those_of_five_epochs_ago(monkeypatch):
    method = build("darts", method={"early_stop": "eigenvalue"}, epochs=20)
    values = iter([1.0] * 6 + [3.0] * 14)
    monkeypatch.setattr(method, "eigenvalue", lambda batch: next(values))
    alphas = []
    for epoch in range(20):
        if epoch == method.epochs:
            break
        advance(method, STEPS * epoch, STEPS * (epoch + 1))
        alphas.append({kind: alpha.detach().clone() for kind, alpha in method.alphas.items()})
    # The first time that there are two windows: five epochs of 1, then 1 and four of 3, and 5 < 0.75 x 13.
    assert method.epochs == epoch == 10
    taken = alphas[-1]
    assert all(torch.equal(taken[kind], alphas[epoch - 1 - 5][kind]) for kind in taken)


def test_what_a_stopped_search_tells_is_of_the_alphas_that_it_ends_with(monkeypatch):
    method = build("darts", method={"early_stop": "eigenvalue"}, epochs=20)
    values = iter([1.0] * 5 + [3.0] * 5)
    monkeypatch.setattr(method, "eigenvalue", lambda batch: next(values))
    rows = advance(method, 0, 9 * STEPS)
    for alpha in method.alphas.values():
        alpha.data[:, 3] += 9  # all skips, which is thrown away
    rows += advance(method, 9 * STEPS, 10 * STEPS)
    assert method.epochs == 10
    shares = {kind: alpha.detach().softmax(-1) for kind, alpha in method.alphas.items()}
    assert op_counts(shares, method.names).items() <= rows[-1].items()
    assert rows[-1]["ops.normal.skip_connect"] < 14


def test_a_warm_up_that_leaves_no_epoch_is_refused():
    params = sections()[0]["darts"].model_validate(PRESET["darts"] | {"warmup_epochs": 2})
    params.check(common(epochs=3))
    with pytest.raises(ValueError, match=r"'warmup_epochs' is 2: expected less than the 2 of 'search.common.epochs'"):
        params.check(common(epochs=2))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_eigenvalue_is_that_of_the_hessian_in_the_alphas(channels):
    form = ImageForm(channels, 8, 8, FORM.classes)
    method = build("darts", method={"early_stop": "eigenvalue"}, form=form)
    state, some = torch.get_rng_state(), batch(3)
    pixels = torch.rand(len(some.labels), 8, 8, channels, generator=torch.Generator().manual_seed(1))
    some = Batch(pixels.permute(0, 3, 1, 2), some.labels)  # laid out in memory as a Stream's are
    plain = method.space.supernet(form, method.setting.common, reference=True)
    plain.load_state_dict(method.supernet.state_dict())
    plain.double().eval()

    point = torch.cat([alpha.detach().double().flatten() for alpha in method.alphas.values()]).requires_grad_()
    weights = dict(zip(method.alphas, point.view(2, 14, 8).softmax(-1), strict=True))
    loss = method.setting.task.loss(plain(some.images.double(), SoftMix(weights)), some.labels)
    (slope,) = torch.autograd.grad(loss, point, create_graph=True)

    def product(vector):
        """The Hessian times a vector."""
        return torch.autograd.grad(slope, point, torch.from_numpy(vector.copy()), retain_graph=True)[0].numpy()

    hessian = LinearOperator((len(point), len(point)), matvec=product, dtype="float64")
    (largest,) = eigsh(hessian, k=1, which="LM", v0=np.ones(len(point)), return_eigenvectors=False)  # by Lanczos
    torch.set_rng_state(state)
    assert method.eigenvalue(some) == pytest.approx(largest, rel=0.02)
    assert torch.equal(torch.get_rng_state(), state)
    assert method.passes["valid_images"] == 21 * 4


def test_dropout_behind_skips_falls_to_nothing_and_goes_with_first_order_alone():
    method = build("darts", method={"skip_dropout": 0.4}, epochs=4)
    found = []
    for epoch in range(4):
        method.start_epoch(epoch)
        found.append(method.mix().skip_dropout)
    assert found == pytest.approx([0.4, 0.3, 0.2, 0.1])
    with pytest.raises(ValidationError, match="'order: second' needs 'skip_dropout: 0'"):
        build("darts", method={"skip_dropout": 0.4, "order": "second"})
