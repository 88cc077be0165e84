from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.engine.schedules import cosine, drop_path, exponential, linear, one_cycle, warmup_from_third, warmup_from_zero

EPOCHS = st.integers(1, 1000)
RATES = st.floats(1e-6, 1.0)


@given(EPOCHS, st.floats(0, 0.99))
def test_drop_path_starts_at_zero_and_grows_linearly_to_less_than_its_maximum(epochs, largest):
    values = [drop_path(epoch, epochs, largest) for epoch in range(epochs)]
    assert values[0] == 0
    assert values == sorted(values)
    assert all(value == pytest.approx(largest * e / epochs) for e, value in enumerate(values))
    if largest > 1e-300:
        assert values[-1] < largest


@given(EPOCHS, RATES, st.floats(0, 1))
def test_the_cosine_starts_at_its_first_value_and_stays_above_its_last(epochs, first, share):
    last = first * share
    values = [cosine(epoch, epochs, first, last) for epoch in range(epochs)]
    assert values[0] == pytest.approx(first, rel=1e-12)
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(values))
    assert values[-1] >= last * (1 - 1e-12)


@given(st.integers(1, 500), RATES)
def test_after_half_of_the_epochs_the_cosine_is_at_the_mean_of_its_ends(half, first):
    assert cosine(half, 2 * half, first, 0.0) == pytest.approx(first / 2)
    assert cosine(half, 2 * half, first, first / 3) == pytest.approx(first * 2 / 3)


def test_the_cosine_is_not_a_straight_line():
    assert cosine(1, 3, 0.4, 0.0) == pytest.approx(0.3)
    assert cosine(2, 3, 0.4, 0.0) == pytest.approx(0.1)
    assert cosine(0, 7, 0.025, 0.001) == 0.025


def test_the_linear_schedule_falls_more_slowly_in_its_last_five_epochs():
    values = [linear(epoch, 250, 0.5) for epoch in range(250)]
    assert values[0] == 0.5
    assert values[1] == pytest.approx(0.5 * 244 / 245)
    assert values[244] == pytest.approx(0.5 / 245)  # E - e = 6: the last epoch of the first phase
    assert values[245] == pytest.approx(0.5 / 245)  # E - e = 5: the last phase starts at the same value
    assert values[246] == pytest.approx(0.5 * 4 / (5 * 245))
    assert values[249] == pytest.approx(0.5 / (5 * 245))


def test_the_exponential_falls_by_three_percent_an_epoch():
    assert [exponential(epoch, 0.1) for epoch in range(3)] == pytest.approx([0.1, 0.097, 0.09409])


def test_a_warm_up_replaces_the_first_values_and_does_not_shift_the_schedule():
    values = [warmup_from_zero(epoch, 5, 0.5, linear(epoch, 250, 0.5)) for epoch in range(7)]
    assert values == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5 * 240 / 245, 0.5 * 239 / 245])
    assert warmup_from_zero(0, 0, 0.5, 0.123) == 0.123


def test_the_lr_of_a_search_rises_from_a_third_of_its_peak():
    values = [warmup_from_third(epoch, 4, 0.6, 0.1) for epoch in range(6)]
    assert values == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.1, 0.1])
    assert warmup_from_third(0, 0, 0.6, 0.1) == 0.1


def test_one_cycle_falls_linearly_after_its_warm_up():
    values = [warmup_from_zero(epoch, 2, 0.4, one_cycle(epoch, 6, 2, 0.4, 0.0)) for epoch in range(6)]
    assert values == pytest.approx([0.2, 0.4, 0.4, 0.3, 0.2, 0.1])
    assert one_cycle(3, 4, 0, 0.4, 0.2) == pytest.approx(0.25)
