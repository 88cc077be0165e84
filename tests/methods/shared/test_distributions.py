"""Categorical distributions against the worked example of their notes (EX1), by enumeration, and on random spaces."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.methods.shared import distributions as ds
from nas.methods.shared.distributions import Categorical, Estimator, StepRule

T1, T2 = [[0.5, 0.5], [0.5, 0.5]], [[0.8, 0.2], [0.6, 0.4]]
POOL = torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0]])
LOSSES = torch.tensor([1.0, 0.7, 0.9, 0.8], dtype=torch.float64)
COSTS = torch.tensor([[1.0, 3.0], [0.0, 2.0]]).double()
OMEGA1 = [0.6849315068, 1.5151515152, 0.8771929825, 1.3513513514]
OMEGA2 = [1.3150684932, 0.4848484848, 1.1228070175, 0.6486486486]


def exact(values):
    return torch.tensor(values, dtype=torch.float64)


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(torch.as_tensor(found, dtype=torch.float64), exact(expected), atol=tolerance, rtol=0)


def toward(estimator, *arguments):
    """A direction that there is."""
    found = estimator.direction(*arguments)
    assert found is not None
    return found


def by_ranks(distribution, samples, losses):
    """The direction of plain ASNG: equal weights, no penalty."""
    table = distribution.table
    return toward(Estimator(), table, samples, losses, torch.ones(len(losses)).double(), torch.zeros_like(table), 0.0)


def moved(start, complexity, utility, m):
    """Direction and distribution of EX1 after its step."""
    rule = StepRule("asng", delta0=0.1, alpha=1.5, margin="none")
    distribution = Categorical((2, 2), rule, exact(start))
    omega = ds.importance([exact(T1), exact(T2)], POOL)[m]
    estimator = Estimator(utility, "code", complexity, 3.0)
    direction = toward(estimator, distribution.table, POOL, LOSSES, omega, COSTS, (0.0, 0.5)[m])
    assert distribution.step(direction.total)
    return direction, distribution


# --- The worked example


def test_ex1_importance_weights():
    close(ds.importance([exact(T1), exact(T2)], POOL), [OMEGA1, OMEGA2])


EX1 = [
    (T1, "exact", "plain", 0, [-1, 1, 0, 0], 0.1874666667, (0.2444444444, 0.2666666667), 0.7235031376,
     (0.5337862314, 0.5368577070), (-0.2495806604, -0.2722698114)),
    (T2, "exact", "plain", 1, [-1, 1, 0, 0], -0.2324652426, (0.1337534594, 0.1346431278), 0.4328382768,
     (0.2309014860, 0.4311070289), (-0.2853386185, -0.2345276722)),
    (T1, "rank", "plain", 0, [-1, 1, 0, 0], 0.1874666667, (0.2444444444, 0.2666666667), 0.7235031376,
     (0.5337862314, 0.5368577070), (-0.2495806604, -0.2722698114)),
    (T2, "rank", "plain", 1, [1, -1, 0, 0], 0.2324652426, (-0.1870867928, -0.2146431278), 0.6408778951,
     (0.1708077320, 0.3665079527), (0.2695560152, 0.2525092294)),
    (T1, "exact", "quantile", 0, [-1, 0.7307235137, -0.4813368786, 0], 0, (0.2767892097, 0.1712328767), 0.6509468940,
     (0.5425210124, 0.5263051991), None),
    (T1, "rank", "quantile", 0, [-1, 0.7307235137, -0.4813368786, 0], 0, (0.2767892097, 0.1712328767), 0.6509468940,
     (0.5425210124, 0.5263051991), None),
]  # fmt: skip


@pytest.mark.parametrize(("start", "complexity", "utility", "m", "u", "b", "g", "norm", "after", "s"), EX1)
def test_ex1_directions_and_steps(start, complexity, utility, m, u, b, g, norm, after, s):
    omega = ds.importance([exact(T1), exact(T2)], POOL)[m]
    losses = LOSSES + ((0.0, 0.5)[m] * ds.complexities(POOL, COSTS) / 3 if complexity == "rank" else 0)
    place = ds.places(losses)
    utilities = ds.plain_utilities(place) if utility == "plain" else ds.quantile_utilities(place, omega)
    close(utilities, u)
    close((omega * utilities).sum() / omega.sum(), b)
    direction, distribution = moved(start, complexity, utility, m)
    close(direction.total, [[-g[0], g[0]], [-g[1], g[1]]])
    close((direction.total.square() / exact(start)).sum().sqrt(), norm)
    close(distribution.table[:, 1], after)
    close(distribution.gamma, 0.1364213562)
    close(distribution.Delta, 1.0032206574)
    if s is not None:
        close(distribution.signal, [[s[0], 0], [s[1], 0]])


def test_ex1_ranking_with_complexity_and_the_parts_of_the_direction():
    close(ds.complexities(POOL, COSTS), [1, 5, 3, 3])
    close(LOSSES + 0.5 * ds.complexities(POOL, COSTS) / 3, [1.1666666667, 1.5333333333, 1.4, 1.3])
    direction, _ = moved(T2, "exact", "plain", 1)
    close(direction.by_loss[:, 1], [0.1870867928, 0.2146431278])
    close(0.5 * direction.by_cost, [[-0.0533333333, 0.0533333333], [-0.08, 0.08]])
    without_baseline = [
        torch.einsum("n,ndk->dk", omega * exact([-1, 1, 0, 0]), ds.indicators(POOL, 2) - exact(t)) / 4
        for omega, t in zip(ds.importance([exact(T1), exact(T2)], POOL), (T1, T2), strict=True)
    ]
    close(without_baseline[0][:, 1], [0.2750103778, 0.2750103778])
    close(without_baseline[1][:, 1], [0.1627231216, 0.2042341220])


# --- Utilities


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1, 2], [1, -1]),
        ([1, 1, 2, 3], [0.5, 0.5, 0, -1]),
        ([3, 1, 1, 1], [-1, 1 / 3, 1 / 3, 1 / 3]),
        ([5, 4, 3, 2, 1], [-0.5, -0.5, 0, 0.5, 0.5]),
        ([1, 1, 1], [0, 0, 0]),
        ([0, 0, 1, 2], [0.5, 0.5, 0, -1]),
        ([math.nan, 1, 2, 3], [-1, 1, 0, 0]),
        ([math.nan, 1, math.inf, 3], [-0.5, 1, -0.5, 0]),
        ([1, 1 + 1e-15, 2, 3], [0.5, 0.5, 0, -1]),
    ],
)
def test_plain_utilities_rank_share_ties_and_put_what_is_no_number_last(losses, expected):
    close(ds.plain_utilities(ds.places(exact(losses))), expected, 1e-12)


losses_of_eight = st.lists(st.integers(0, 12).map(float), min_size=8, max_size=8)


@given(losses_of_eight)
def test_quantile_utilities_of_equal_weights_are_the_plain_ones(losses):
    place = ds.places(exact(losses))
    torch.testing.assert_close(ds.quantile_utilities(place, torch.ones(8).double()), ds.plain_utilities(place))


@given(losses_of_eight, st.lists(st.floats(1e-3, 4), min_size=8, max_size=8))
def test_the_weighted_mean_of_quantile_utilities_is_zero_and_no_order_bears_on_a_utility(losses, weights):
    omega, place = exact(weights), ds.places(exact(losses))
    found = ds.quantile_utilities(place, omega)
    assert (omega * found).sum().abs() < 1e-9
    turned = torch.arange(7, -1, -1)
    torch.testing.assert_close(ds.quantile_utilities(ds.places(exact(losses)[turned]), omega[turned]), found[turned])


# --- Several distributions, by enumeration of all samples


@st.composite
def spaces(draw, low=1):
    """Numbers of categories of a few variables, ragged."""
    return tuple(draw(st.lists(st.integers(low, 4), min_size=1, max_size=4).filter(lambda counts: max(counts) > 1)))


def random_table(counts, seed):
    torch.manual_seed(seed)
    logits = 1.5 * torch.randn(len(counts), max(counts), dtype=torch.float64)
    return logits.masked_fill(~ds.used(counts), -math.inf).softmax(1)


def every(counts):
    return torch.tensor(list(itertools.product(*map(range, counts))))


@given(spaces(), st.integers(1, 4), st.integers(0, 999))
def test_importance_weights_are_bounded_sum_to_m_and_average_to_one(counts, number, seed):
    tables = [random_table(counts, seed + m) for m in range(number)]
    samples = every(counts)
    omega = ds.importance(tables, samples)
    assert (omega > 0).all()
    assert (omega <= number + 1e-12).all()
    torch.testing.assert_close(omega.sum(0), torch.full((len(samples),), float(number)).double())
    mixture = sum(ds.log_probability(table, samples).exp() for table in tables) / number
    torch.testing.assert_close(omega @ mixture, torch.ones(number).double())
    torch.testing.assert_close(mixture.sum(), exact(1.0))


@given(spaces(), st.integers(0, 999))
def test_samples_of_the_mixture_give_each_distribution_its_own_gradient(counts, seed):
    tables, samples = [random_table(counts, seed + m) for m in range(3)], every(counts)
    worth = torch.randn(len(samples), dtype=torch.float64)
    mixture = sum(ds.log_probability(table, samples).exp() for table in tables) / 3
    for table, omega in zip(tables, ds.importance(tables, samples), strict=True):
        p, score = ds.log_probability(table, samples).exp(), ds.indicators(samples, max(counts)) - table
        own = torch.einsum("n,ndk->dk", p * worth, score)
        torch.testing.assert_close(torch.einsum("n,ndk->dk", mixture * omega * worth, score), own)
        torch.testing.assert_close(torch.einsum("n,ndk->dk", p, score), torch.zeros_like(table))


@given(spaces(), st.integers(0, 999))
def test_the_penalty_is_the_natural_gradient_of_the_expected_complexity(counts, seed):
    table, samples = random_table(counts, seed), every(counts)
    costs = torch.rand(table.shape, dtype=torch.float64) * ds.used(counts)
    p = ds.log_probability(table, samples).exp()
    expected = torch.einsum(
        "n,ndk->dk", p * ds.complexities(samples, costs), ds.indicators(samples, max(counts)) - table
    )
    torch.testing.assert_close(ds.penalty(table, costs), expected)
    torch.testing.assert_close((p * ds.complexities(samples, costs)).sum(), (table * costs).sum())


def reference_asng(theta, counts, pools, delta_init, alpha=1.5):
    """Plain ASNG in loops over Python numbers, one uniform-width row at a time; no margin."""
    n = sum(k - 1 for k in counts)
    signal, gamma, Delta = [[0.0] * k for k in counts], 0.0, 1.0
    for samples, losses in pools:
        number, mu = len(losses), math.ceil(0.25 * len(losses))
        order = sorted(range(number), key=lambda i: losses[i])
        u = [0.0] * number
        for i in order[:mu]:
            u[i] += 1 / mu
        for i in order[-mu:]:
            u[i] -= 1 / mu
        delta = delta_init / Delta
        beta = delta / math.sqrt(n)
        G = [
            [sum(u[i] * ((samples[i][d] == j) - theta[d][j]) for i in range(number)) / number for j in range(k)]
            for d, k in enumerate(counts)
        ]
        norm = math.sqrt(sum(g * g / theta[d][j] for d, row in enumerate(G) for j, g in enumerate(row)))
        for d, k in enumerate(counts):
            rest, last = sum(G[d][: k - 1]), theta[d][k - 1]
            for j in range(k - 1):
                v = G[d][j] / math.sqrt(theta[d][j]) + math.sqrt(theta[d][j]) * rest / (last + math.sqrt(last))
                signal[d][j] = (1 - beta) * signal[d][j] + math.sqrt(beta * (2 - beta)) * v / norm
        gamma = (1 - beta) ** 2 * gamma + beta * (2 - beta)
        power = sum(x * x for row in signal for x in row)
        Delta = Delta * math.exp(beta * (gamma - power / alpha))
        theta = [[theta[d][j] + delta * G[d][j] / norm for j in range(k)] for d, k in enumerate(counts)]
    return theta, signal, gamma, Delta


@given(spaces(low=2).filter(lambda counts: len(counts) > 2), st.integers(0, 999))
def test_one_distribution_is_plain_asng(counts, seed):
    distribution = Categorical(counts, StepRule(delta0=0.02, margin="none"))
    torch.manual_seed(seed)
    pools = []
    for _ in range(4):
        samples, losses = ds.draw(distribution.table, 6), torch.randn(6, dtype=torch.float64)
        (omega,) = ds.importance([distribution.table], samples)
        assert omega.tolist() == [1.0] * 6
        costs = torch.zeros_like(distribution.table)
        direction = toward(Estimator(), distribution.table, samples, losses, omega, costs, 0.0)
        if not distribution.step(direction.total):
            return
        pools.append((samples.tolist(), losses.tolist()))
    table, signal, gamma, Delta = reference_asng([[1 / k] * k for k in counts], counts, pools, 0.02)
    for d, k in enumerate(counts):
        close(distribution.table[d, :k], table[d], 1e-10)
        close(distribution.signal[d, :k], signal[d], 1e-10)
    assert distribution.gamma == pytest.approx(gamma)
    assert distribution.Delta == pytest.approx(Delta)


@given(spaces(), st.integers(2, 4), st.integers(0, 999))
def test_equal_distributions_share_a_pool_as_if_it_were_their_own(counts, number, seed):
    table = random_table(counts, seed)
    samples, losses = ds.draw(table, 8), torch.randn(8, dtype=torch.float64)
    omega = ds.importance([table] * number, samples)
    torch.testing.assert_close(omega, torch.ones_like(omega))
    costs = torch.rand(table.shape, dtype=torch.float64) * ds.used(counts)
    found = [toward(Estimator(), table, samples, losses, row, costs, 0.3).total for row in omega]
    alone = toward(Estimator(), table, samples, losses, torch.ones(8).double(), costs, 0.3).total
    for direction in found:
        torch.testing.assert_close(direction, alone)


# --- Steps


@given(spaces(), st.integers(0, 999), st.sampled_from(["plain", "quantile"]), st.sampled_from(["exact", "rank"]))
def test_steps_keep_tables_tables(counts, seed, utility, complexity):
    tables = [random_table(counts, seed + m) for m in range(2)]
    distributions = [Categorical(counts, StepRule(margin="none"), table) for table in tables]
    costs = torch.rand(tables[0].shape, dtype=torch.float64) * ds.used(counts)
    estimator = Estimator(utility, "code", complexity)
    for _ in range(5):
        samples = torch.cat([ds.draw(d.table, 2) for d in distributions])
        losses, olds = torch.randn(4, dtype=torch.float64), [d.table for d in distributions]
        for distribution, omega in zip(distributions, ds.importance(olds, samples), strict=True):
            direction = toward(estimator, distribution.table, samples, losses, omega, costs, 0.5)
            torch.testing.assert_close(direction.total.sum(1), torch.zeros(len(counts)).double(), atol=1e-12, rtol=0)
            root = ds.whitened(distribution.table, direction.total, counts)
            exact_norm = (direction.total.square() / distribution.table.clamp_min(ds.FLOOR)).sum()
            if distribution.table[distribution.used].min() > ds.FLOOR:
                torch.testing.assert_close(root.square().sum(), exact_norm, rtol=1e-9, atol=1e-15)
            distribution.step(direction.total)
            torch.testing.assert_close(distribution.table.sum(1), torch.ones(len(counts)).double())
            assert (distribution.table >= 0).all()
            assert not distribution.table[~distribution.used].any()
            assert distribution.table.isfinite().all()
            assert math.isfinite(distribution.Delta)


def test_the_square_of_the_whitened_direction_is_its_fisher_norm_to_the_last_digits():
    counts = (2, 3, 6, 5)
    table = random_table(counts, 3)
    direction = ds.penalty(table, torch.rand(table.shape, dtype=torch.float64))
    found = ds.whitened(table, direction, counts).square().sum()
    expected = (direction.square() / table.clamp_min(ds.FLOOR)).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_first_step_knows_no_noise_and_beta_begins_at_one_over_the_root_of_n():
    counts = (2, 3, 4, 5, 6) * 4
    distribution = Categorical(counts, StepRule())
    samples, losses = every((1,) * len(counts)).expand(2, -1).clone(), exact([1.0, 2.0])
    samples[1] = 1
    direction = by_ranks(distribution, samples, losses)
    assert distribution.step(direction.total)
    assert distribution.signal_power == pytest.approx(distribution.gamma)
    beta = 1 / math.sqrt(sum(count - 1 for count in counts))
    assert distribution.gamma == pytest.approx(beta * (2 - beta))
    assert distribution.Delta == pytest.approx(math.exp(beta * distribution.gamma / 3))


def test_the_margin_of_the_notes():
    every_entry = torch.ones(1, 3, dtype=torch.bool)
    found = ds.correct(exact([[0.005, 0.6, 0.395]]), exact([0.0125]), every_entry)
    close(found, [[0.0125, 0.595457, 0.392043]], 1e-6)
    found = ds.correct(exact([[-0.03, 1.03]]), exact([0.025]), every_entry[:, :2])
    close(found, [[0.025, 0.975]], 1e-12)
    at_forty = ds.lowest((2, 3, 4, 5, 6, *[2] * 35))
    close(at_forty[:5], [0.025, 0.0125, 1 / 120, 0.00625, 0.005], 1e-12)


@given(st.lists(st.integers(1, 5), min_size=5, max_size=9).filter(lambda c: sum(k > 1 for k in c) > 2),
       st.integers(0, 99))  # fmt: skip
def test_no_probability_falls_below_its_margin(counts, seed):
    distribution = Categorical(counts, StepRule())
    torch.manual_seed(seed)
    for _ in range(10):
        samples, losses = ds.draw(distribution.table, 4), torch.randn(4, dtype=torch.float64)
        direction = by_ranks(distribution, samples, losses)
        distribution.step(direction.total)
        rows = zip(distribution.table, distribution.used, distribution.lowest, strict=True)
        assert all((row[entries] >= least - 1e-12).all() for row, entries, least in rows)


def test_a_margin_that_cannot_be_is_left_out_with_a_warning(capsys):
    assert ds.lowest((2, 2)).tolist() == [0, 0]
    assert "variables [0, 1] have none" in capsys.readouterr().out
    assert ds.lowest((3, 2, 1)).tolist() == [1 / 4, 0, 0]
    assert "variables [1] have none" in capsys.readouterr().out
    assert ds.lowest((2, 2, 2)).tolist() == [1 / 3] * 3
    assert capsys.readouterr().out == ""


def test_equal_losses_change_nothing_at_all():
    for losses in ([1.0] * 4, [math.nan] * 4, [math.inf, math.nan] * 2):
        assert Estimator().direction(exact(T2), POOL, exact(losses), exact(OMEGA2), COSTS, 0.5) is None
    assert Estimator(complexity="rank").direction(exact(T2), POOL, exact([1.0] * 4), exact(OMEGA2), COSTS, 0.5)
    distribution = Categorical((2, 2, 2), StepRule())
    before = {name: torch.as_tensor(value).clone() for name, value in distribution.state_dict().items()}
    assert not distribution.step(torch.full((3, 2), 1e-14).double())
    assert all(torch.equal(torch.as_tensor(v), before[name]) for name, v in distribution.state_dict().items())


def test_samples_that_cancel_move_nothing():
    """Best and worst are the same architecture: what is left is rounding, which a step would blow up to full length."""
    distribution = Categorical((3, 7, 3), StepRule(), random_table((3, 7, 3), 1))
    samples = torch.tensor([[0, 3, 1], [0, 3, 1], [1, 2, 0], [1, 2, 2], [0, 3, 1], [0, 3, 1]])
    before = distribution.table.clone()
    assert not distribution.step(by_ranks(distribution, samples, exact([1, 2, 3, 4, 5, 6.0])).total)
    assert torch.equal(distribution.table, before)


def test_a_distribution_that_has_settled_stays_and_does_not_disturb_the_other():
    settled, open_one = exact([[1.0, 0.0], [0.0, 1.0]]), exact(T2)
    samples = torch.cat([ds.draw(settled, 2), POOL[:2]])
    omega = ds.importance([settled, open_one], samples)
    assert omega.isfinite().all()
    torch.testing.assert_close(omega.sum(0), torch.full((4,), 2.0).double())
    losses = exact([3.0, 3.0, 1.0, 2.0])
    directions = [
        toward(Estimator(), table, samples, losses, row, COSTS, 0.0)
        for table, row in zip((settled, open_one), omega, strict=True)
    ]
    one = Categorical((2, 2), StepRule(margin="none"), settled)
    one.step(directions[0].total)
    assert one.table.isfinite().all()
    assert math.isfinite(one.Delta)
    assert directions[1].total.abs().max() > 0.01


def test_a_first_step_that_is_far_too_long_stays_in_the_simplex():
    distribution = Categorical((2,) * 6, StepRule("asng", delta0=10.0))
    assert distribution.Delta == pytest.approx(10 / math.sqrt(6))
    for _ in range(3):
        distribution.step(0.1 * torch.tensor([[1.0, -1.0]] * 6).double())
        assert distribution.table.isfinite().all()
        assert distribution.table.sum(1) == pytest.approx(1.0)


def test_the_fixed_step_and_its_length():
    distribution = Categorical((2, 3, 4), StepRule("fixed"))
    assert distribution.delta0 == pytest.approx(1 / 9)
    before, direction = (
        distribution.table,
        0.01 * ds.penalty(distribution.table, torch.arange(12.0).view(3, 4).double()),
    )
    distribution.step(direction)
    torch.testing.assert_close(distribution.table, before + direction / 9)
    assert (distribution.Delta, distribution.gamma) == (1.0, 0.0)


def test_the_invariant_scale_does_not_depend_on_the_number_of_samples():
    ones, costs = torch.ones(4).double(), torch.zeros(2, 2).double()
    two = toward(Estimator(scale="invariant"), exact(T2), POOL[:2], LOSSES[:2], ones[:2], costs, 0).total
    code = toward(Estimator(scale="code"), exact(T2), POOL[:2], LOSSES[:2], ones[:2], costs, 0).total
    torch.testing.assert_close(two, code)
    doubled = POOL[:2].repeat_interleave(2, 0)
    losses = LOSSES[:2].repeat_interleave(2)
    eight, omega = doubled.repeat(2, 1), torch.ones(8).double()
    found = toward(Estimator(scale="invariant"), exact(T2), eight, losses.repeat(2), omega, costs, 0).total
    torch.testing.assert_close(found, code)


# --- Sampling


def test_samples_follow_the_table_and_never_fall_on_probability_zero():
    torch.manual_seed(0)
    table = exact([[0.2, 0.3, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0], [0.7, 0.0, 0.3, 0.0]])
    number = 20_000
    found = ds.indicators(ds.draw(table, number), 4).sum(0)
    deviation = (number * table * (1 - table)).sqrt()
    assert ((found - number * table).abs() <= 4 * deviation).all()


def test_of_equally_likely_categories_the_lowest_is_the_mode():
    assert ds.mode(exact([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [1 / 3, 1 / 3, 1 / 3]])) == [0, 1, 0]


def test_the_effective_number_of_samples():
    assert ds.effective(exact([1.0, 1.0, 1.0])) == pytest.approx(3)
    assert ds.effective(exact([2.0, 0.0])) == pytest.approx(1)


def test_it_finds_the_best_of_a_million():
    """Ten variables of four categories; the loss counts those that differ from the one answer."""
    torch.manual_seed(0)
    answer = torch.randint(4, (10,))
    distribution = Categorical((4,) * 10, StepRule())
    for _ in range(400):
        samples = ds.draw(distribution.table, 2)
        losses = (samples != answer).double().sum(1)
        direction = Estimator().direction(
            distribution.table, samples, losses, torch.ones(2).double(), torch.zeros_like(distribution.table), 0.0
        )
        if direction is not None:
            distribution.step(direction.total)
    assert ds.mode(distribution.table) == answer.tolist()


def test_a_distribution_goes_on_from_its_state():
    first = Categorical((2, 3, 2), StepRule())
    first.step(ds.penalty(first.table, torch.rand(3, 3, dtype=torch.float64)))
    again = Categorical((2, 3, 2), StepRule())
    again.load_state_dict(first.state_dict())
    direction = ds.penalty(first.table, torch.rand(3, 3, dtype=torch.float64))
    for one in (first, again):
        one.step(direction)
    assert torch.equal(first.table, again.table)
    assert (first.Delta, first.gamma, first.signal_power) == (again.Delta, again.gamma, again.signal_power)
