import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.methods.shared.early_stopping import RATIO, WINDOW, Sharpness, dominant_eigenvalue


@given(st.integers(0, 2**31 - 1), st.floats(2.0, 9.0), st.sampled_from([1.0, -1.0]))
def test_it_finds_the_largest_eigenvalue_of_a_quadratic_loss(seed, largest, sign):
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    values = torch.tensor([sign * largest, 0.9, 0.5, -0.4, 0.1, 0.0], dtype=torch.float64)
    hessian = basis @ values.diag() @ basis.T
    parts = [torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]
    whole = torch.cat(parts)
    assert dominant_eigenvalue(whole @ hessian @ whole / 2, parts) == pytest.approx(sign * largest, rel=1e-3)


def test_it_leaves_the_search_s_own_randomness_alone():
    before = torch.get_rng_state()
    x = torch.ones(3, requires_grad=True)
    assert dominant_eigenvalue(x.square().sum(), [x]) == pytest.approx(2.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_the_alphas_do_not_bend_has_eigenvalue_zero():
    x, y = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    assert dominant_eigenvalue((x * 3).sum() + (y**2).sum() * 0, [x]) == 0.0


def noted(values):
    sharpness = Sharpness()
    for at, value in enumerate(values):
        sharpness.note(value, {"cell": torch.tensor([float(at)])})
    return sharpness


def test_it_stops_where_the_mean_of_a_window_grew_by_a_third():
    flat = [1.0] * WINDOW
    assert not noted([1.0, *[9.0] * (WINDOW + 3)][: 2 * WINDOW - 1]).grows  # too early to say
    assert not noted([*flat, *[1 / RATIO - 0.01] * WINDOW]).grows
    assert noted([*flat, *[1 / RATIO + 0.01] * WINDOW]).grows
    assert noted([0.0, *flat, *[1 / RATIO + 0.01] * WINDOW]).grows


def test_a_loss_that_bends_down_is_judged_by_how_much():
    assert not noted([-1.0] * 2 * WINDOW).grows
    assert noted([-1.0] * WINDOW + [-3.0] * WINDOW).grows
    assert not noted([-3.0] * WINDOW + [-1.0] * WINDOW).grows


def test_the_alphas_to_take_are_those_of_a_window_ago():
    sharpness = noted([1.0] * 12)
    assert sharpness.past[0]["cell"].item() == 12 - 1 - WINDOW
    again = Sharpness()
    again.load_state_dict(sharpness.state_dict())
    assert again.values == sharpness.values
    assert [t["cell"].item() for t in again.past] == [t["cell"].item() for t in sharpness.past]
