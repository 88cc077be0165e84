"""The plot of test error against size: every network, and the mean of every row of the table."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nas.report.chart import Axes, ErrorBar, Line, figure
from nas.report.collect import Study, Tested
from nas.report.results_table import Row
from nas.report.style import MARKERS, PAPER, SERIES
from nas.report.svg import Box, Canvas, text_width
from nas.report.titles import label_title

SIZES: dict[str, tuple[Callable[[Tested], float], Callable[[Row], float]]] = {  # of a network, of the mean of a row
    "Parameters, millions": (lambda tested: tested.params_m, lambda row: row.params_m),
    "Multiply-adds, millions": (lambda tested: tested.macs_m, lambda row: row.macs_m),
}
NAME = 10.0  # points
PLACES = (  # of a name relative to its mean: dx, dy (up) in points, the share of the text before that place
    (10, 0, 0.0),
    (-10, 0, 1.0),
    (8, 14, 0.0),
    (8, -14, 0.0),
    (-8, 14, 1.0),
    (-8, -14, 1.0),
    (10, 28, 0.0),
    (10, -28, 0.0),
    (-10, 28, 1.0),
    (-10, -28, 1.0),
)
Looks = Mapping[str, tuple[str, str]]  # method -> colour, marker


def front(study: Study, rows: Sequence[Row], path: Path) -> None:
    """Test error against parameters and against multiply-adds: networks small, means of rows large."""
    methods = list(dict.fromkeys(row.method for row in rows))
    looks = {name: (SERIES[at % len(SERIES)], MARKERS[at % len(MARKERS)]) for at, name in enumerate(methods)}
    panels = [_panel(study, rows, looks, title) for title in SIZES]
    canvas = figure(panels, columns=2, width=6.4, height=4.6)
    for axes, (of_network, of_row) in zip(panels, SIZES.values(), strict=True):
        networks = [(of_network(tested), tested.test_error) for trial in study.trials for tested in trial.results]
        _name_means(canvas, axes, networks, rows, of_row, {name: shade for name, (shade, _) in looks.items()})
    canvas.save(path)


def _panel(study: Study, rows: Sequence[Row], looks: Looks, title: str) -> Axes:
    of_network, of_row = SIZES[title]
    axes = Axes(title, f"Test error, % of {study.images} images", x_margin=0.12, y_margin=0.12)
    axes.lines += _networks(study, looks, of_network)
    axes.lines += _joins(rows, looks, of_row)
    for row in rows:
        shade, shape = looks[row.method]
        x, y, std = of_row(row), row.test_error_mean, row.test_error_std
        if std is not None:
            axes.errors.append(ErrorBar(x, y - std, y + std, shade))
        face, edge = (PAPER, shade) if row.control else (shade, PAPER)
        axes.lines.append(Line([(x, y)], shade, width=0, marker=shape, size=9.5, face=face, edge=edge))
    return axes


def _networks(study: Study, looks: Looks, size: Callable[[Tested], float]) -> list[Line]:
    """Every network as a small mark, hollow for a control."""
    marks = []
    for trial in study.trials:
        shade, shape = looks.get(trial.method, ("", ""))
        controls = {derived.name for derived in trial.derived if derived.control}
        for hollow in (False, True):
            dots = [(size(one), one.test_error) for one in trial.results if (one.name in controls) == hollow]
            face = PAPER if hollow else ""
            if dots:
                marks.append(Line(dots, shade, width=0, marker=shape, size=4.5, face=face, opacity=0.55))
    return marks


def _joins(rows: Sequence[Row], looks: Looks, size: Callable[[Row], float]) -> list[Line]:
    """A line through the means of what one search derived at several complexities; dashed for controls."""
    lines = []
    for (method, control), members in _joined(rows).items():
        shade, shape = looks[method]
        course = [(size(row), row.test_error_mean) for row in members]
        label = label_title(method, control) + ", by eps"
        dash, face = ("--", PAPER) if control else ("-", "")
        lines.append(Line(course, shade, dash, 1.0, marker=shape, face=face, label=label))
    return lines


def _joined(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """(method, control) -> its rows by growing eps, if it has several."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted((row for row in rows if row.eps is not None), key=lambda row: row.eps or 0.0):
        groups.setdefault((row.method, row.control), []).append(row)
    return {key: members for key, members in groups.items() if len(members) > 1}


def _names(rows: Sequence[Row]) -> list[str]:
    """The text at each mean; rows that are joined show their eps, since the legend has their method."""
    groups = _joined(rows)
    return [f"{row.eps:g}" if (row.method, row.control) in groups else row.title for row in rows]


def _name_means(
    canvas: Canvas,
    axes: Axes,
    networks: Sequence[tuple[float, float]],
    rows: Sequence[Row],
    size: Callable[[Row], float],
    shades: Mapping[str, str],
) -> None:
    """Write each name at the place around its mean where it hides the least."""
    dots = [axes.at(*network) for network in networks]
    taken = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in dots]
    if axes.legend_box:
        taken.append(axes.legend_box)
    for row in rows:
        std = row.test_error_std or 0.0
        (x, top), (_, low) = (axes.at(size(row), row.test_error_mean + side * std) for side in (1, -1))
        taken.append(Box(x - 5, top - 5, x + 5, low + 5))
    for row, name in zip(rows, _names(rows), strict=True):
        width = text_width(name, NAME, "bold")
        x, y = axes.at(size(row), row.test_error_mean)
        tries = []
        for turn, (dx, dy, before) in enumerate(PLACES):
            left = x + dx - before * width
            box = Box(left, y - dy - 0.6 * NAME, left + width, y - dy + 0.6 * NAME)
            tries.append((sum(box.overlaps(other) for other in taken) + 2 * (not axes.area.holds(box)), turn, box))
        _, turn, box = min(tries, key=lambda one: one[:2])
        dx, dy, before = PLACES[turn]
        canvas.text((x + dx, y - dy), name, NAME, anchor=before, face="bold", fill=shades[row.method])
        taken.append(box)
