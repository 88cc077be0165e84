"""Every value of a search is visible in its panel."""

import pytest

from nas.report import plots


def settled(axes):
    axes.settle(200, 150)
    return axes


def dots(axes):
    """The coordinates of the points that are drawn as dots."""
    return [point for line in axes.lines if line.marker == "o" for point in line.points]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([None, None, 0.5], [(2, 0.5)]),
        ([0.1, None, 0.2, None, 0.3, 0.4], [(0, 0.1), (2, 0.2)]),
        ([0.1], [(0, 0.1)]),
        ([0.1, 0.2], [(0, 0.1), (1, 0.2)]),
        ([0.1, 0.2, 0.3], []),
    ],
)
def test_a_value_without_neighbours_is_a_dot_and_the_axis_covers_all_epochs(values, expected):
    rows = [{"epoch": epoch} | ({} if value is None else {"tau": value}) for epoch, value in enumerate(values)]
    axes = settled(plots._line_panel(rows, "tau", "Tau"))
    assert dots(axes) == expected
    low, high = axes.xlim
    assert low <= 0 <= len(values) - 1 <= high
    assert all(tick == round(tick) for tick in axes.xticks)


def test_operations_are_stacked_to_the_number_of_edges():
    rows = [{"epoch": epoch, "ops.normal.none": 4 - epoch, "ops.normal.skip_connect": epoch} for epoch in range(3)]
    axes = settled(plots._ops_panel(rows, "normal", ["skip_connect", "none"]))
    assert max(bar.y1 for bar in axes.bars) == 4
    assert axes.ylim == (0.0, 4.0)
    assert sum((bar.x1 - bar.x0) * (bar.y1 - bar.y0) for bar in axes.bars) == 3 * 4


def test_one_panel_shows_a_quantity_of_several_architectures():
    rows = [{"epoch": 0, "ess.eps=0": 1.0, "ess.eps=0.3": 2.0, "lr": 0.1, "train_loss": 1.0, "valid_loss": 2.0}]
    panels = plots._search_panels(rows)
    assert [panel.y_title for panel in panels] == ["Loss, nats", "Effective sample size"]
    assert [line.label for line in panels[1].lines if line.label] == ["eps=0", "eps=0.3"]
    assert plots._search_panels([{"epoch": 0}])[0].note
