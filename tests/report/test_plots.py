"""That every figure of a search can be seen in its panel."""

import matplotlib.pyplot as plt
import pytest

from nas.report import plots


@pytest.fixture
def axes():
    figure, place = plt.subplots()
    yield place
    plt.close(figure)


def points(axes):
    """The coordinates of what is drawn as a dot."""
    return [
        (float(x), float(y))
        for line in axes.get_lines()
        if line.get_marker() == "o"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


@pytest.mark.parametrize(
    ("values", "dots"),
    [
        ([None, None, 0.5], [(2, 0.5)]),
        ([0.1, None, 0.2, None, 0.3, 0.4], [(0, 0.1), (2, 0.2)]),
        ([0.1], [(0, 0.1)]),
        ([0.1, 0.2], [(0, 0.1), (1, 0.2)]),
        ([0.1, 0.2, 0.3], []),
    ],
)
def test_a_value_without_a_neighbour_is_a_dot_over_all_epochs(axes, values, dots):
    rows = [{"epoch": epoch} | ({} if value is None else {"tau": value}) for epoch, value in enumerate(values)]
    plots._line_panel(rows, "tau", "Tau")(axes)
    assert points(axes) == dots
    low, high = axes.get_xlim()
    assert low <= 0 <= len(values) - 1 <= high
    assert all(tick == round(tick) for tick in axes.get_xticks())
