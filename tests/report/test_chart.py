import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.report.chart import VIRIDIS, Axes, ErrorBar, Line, figure, heat, limits, shade, tick_texts, ticks
from nas.report.svg import Box, Canvas, number, text_width


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 9), st.booleans())
def test_ticks_lie_evenly_within_the_limits(low, span, most, whole):
    values, step = ticks(low, low + span, most, whole)
    assert len(values) <= 2 * most + 1
    assert all(low - step / 1e6 <= value <= low + span + step / 1e6 for value in values)
    assert not whole or all(value == round(value) for value in values)


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.0, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-1.0, 1.0, ["−1.0", "−0.5", "0.0", "0.5", "1.0"]),
        (0.0, 5e6, ["0", "1e+06", "2e+06", "3e+06", "4e+06", "5e+06"]),
        (0.0, 1.25e-5, ["0", "2.5e−06", "5e−06", "7.5e−06", "1e−05", "1.25e−05"]),
    ],
)
def test_ticks_have_the_digits_that_their_step_needs(low, high, texts):
    assert tick_texts(*ticks(low, high, 5, False)) == texts


def test_limits_have_a_margin_and_never_collapse():
    assert limits([0.0, 10.0], 0.1) == (-1.0, 11.0)
    assert limits([2.0], 0.1) == (1.9, 2.1)
    assert limits([], 0.0) == (0.0, 1.0)
    low, high = limits([0.0, 0.0], 0.1)
    assert low < 0 < high


def test_a_gap_divides_a_line_and_data_is_placed_within_the_axes(tmp_path):
    axes = Axes("x", "y", [Line([(0, 1.0), (1, math.nan), (2, 3.0), (3, 2.0)], "#000000", label="a & b")])
    axes.errors.append(ErrorBar(2, 2.5, 3.5, "#000000"))
    canvas = figure([axes], "title")
    for x, y in ((0, 1.0), (2, 3.5), (3, 2.0)):
        assert axes.area.holds(Box(*axes.at(x, y), *axes.at(x, y)))
    assert axes.at(0, 1)[1] > axes.at(0, 2)[1]  # up is more
    assert all(canvas.box.holds(text.box) for text in canvas.texts)
    canvas.save(tmp_path / "chart.svg")
    labels = [node.get("aria-label") for node in ElementTree.parse(tmp_path / "chart.svg").iter()]  # noqa: S314 - our own file
    assert "a & b" in labels


def test_a_symlog_axis_is_linear_below_two_and_logarithmic_above():
    axes = Axes(lines=[Line([(0, 0.0), (1, 20.0)], "#000000")], y_low=0.0, y_margin=0.0, symlog=True)
    figure([axes])
    zero, one, two, twenty = (axes.at(0, y)[1] for y in (0, 1, 2, 20))
    assert zero - one == pytest.approx(one - two)
    assert two - twenty == pytest.approx(zero - two)
    assert axes.yticks == [0, 1, 2, 5, 10, 20]


def test_the_legend_avoids_the_line():
    falling = Axes(lines=[Line([(x, -x) for x in range(10)], "#000000", label="falling")])
    rising = Axes(lines=[Line([(x, x) for x in range(10)], "#000000", label="rising")])
    figure([falling, rising])
    assert falling.legend_box is not None
    assert rising.legend_box is not None
    assert falling.legend_box.x0 > sum((falling.area.x0, falling.area.x1)) / 2
    assert rising.legend_box.x1 < sum((rising.area.x0, rising.area.x1)) / 2


def test_shades_run_through_the_colours_and_nan_is_empty(tmp_path):
    assert [shade(VIRIDIS, share) for share in (-1, 0, 1, 2)] == [VIRIDIS[0], VIRIDIS[0], VIRIDIS[-1], VIRIDIS[-1]]
    assert shade(("#000000", "#ffffff"), 0.5) == "#808080"
    canvas = Canvas(20, 10)
    heat(canvas, [[0.0, math.nan]], canvas.box, VIRIDIS)
    canvas.save(tmp_path / "heat.svg")
    assert (tmp_path / "heat.svg").read_text().count("<rect") == 2  # the background and one cell


def test_text_widths_are_those_of_the_font():
    assert text_width("a", 2048) == 1255  # the advance of the glyph in font units
    assert text_width("ab", 10) == pytest.approx(text_width("a", 10) + text_width("b", 10))
    assert text_width("c", 10, sub="k") == pytest.approx(text_width("c", 10) + 0.7 * text_width("k", 10))


def test_numbers_have_at_most_two_decimals():
    assert [number(value) for value in (1.0, 1.234, -0.001, 10, 2.5)] == ["1", "1.23", "0", "10", "2.5"]
