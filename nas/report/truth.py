"""Derived cells in a benchmark table of trained networks: true accuracies, percentile, regret, and its curve."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from nas.report.chart import Axes, Line, figure
from nas.report.collect import Study, TrialRecords, TrueCell
from nas.report.sheet import DASH, Sheet, plus_minus, span
from nas.report.style import DASHES, SERIES
from nas.report.titles import label_title, method_title

DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16": "ImageNet16-120"}
CURVE = "cifar10_test_regret"  # the column that the plot shows
Mean = tuple[float, float | None]  # mean and deviation (n - 1); no deviation with one search

# Dong and Yang, ICLR 2020, arXiv 2001.00326, table 5: their own runs at the official protocol; percent, mean and
# deviation on the test sets of CIFAR-10, CIFAR-100 and ImageNet16-120.
PUBLISHED: dict[str, tuple[Mean, Mean, Mean]] = {
    "DARTS, first order": ((54.30, 0.00), (15.61, 0.00), (16.32, 0.00)),
    "DARTS, second order": ((54.30, 0.00), (15.61, 0.00), (16.32, 0.00)),
    "ENAS": ((53.89, 0.58), (13.96, 2.33), (14.84, 2.10)),
    "GDAS": ((93.61, 0.09), (70.70, 0.30), (41.71, 0.98)),
}


@dataclass(frozen=True)
class Truth:
    """One method, or one of the cells that it derives in a trial. Percent and points, over search seeds."""

    label: str  # with the method's name
    title: str  # with the method's title
    searches: int
    figures: dict[str, Mean]  # column of the table -> mean and deviation
    params_m: tuple[float, float, float]  # mean, lowest, highest of the network at retrain size


def truths(study: Study) -> list[Truth]:
    """In the order of the trials; empty without a benchmark table."""
    rows = []
    for method in dict.fromkeys(trial.method for trial in study.trials):
        trials = [trial for trial in study.trials if trial.method == method and trial.table is not None]
        names = list(dict.fromkeys(cell.name for trial in trials for cell in _cells(trial)))
        for name in names:
            cells = [cell for trial in trials for cell in _cells(trial) if cell.name == name]
            rest = "" if len(names) == 1 else name
            rows.append(_truth(method, rest, cells))
    return rows


def _cells(trial: TrialRecords) -> Sequence[TrueCell]:
    return trial.table.cells if trial.table is not None else ()


def _truth(method: str, rest: str, cells: Sequence[TrueCell]) -> Truth:
    columns = {name: [cell.figures[name] for cell in cells] for name in cells[0].figures}
    params = [cell.params_m for cell in cells]
    return Truth(
        f"{method} {rest}".strip(),
        label_title(method, rest),
        len(cells),
        {name: (fmean(values), stdev(values) if len(values) > 1 else None) for name, values in columns.items()},
        (fmean(params), min(params), max(params)),
    )


COLUMNS: dict[str, Callable[[Truth], str]] = {
    "Cell derived by": lambda t: t.title,
    "Searches": lambda t: str(t.searches),
    "CIFAR-10 valid, %": lambda t: plus_minus(*t.figures["cifar10_valid_acc"]),
    **{f"{title} test, %": lambda t, d=data: plus_minus(*t.figures[f"{d}_test_acc"]) for data, title in DATA.items()},  # type: ignore[misc]
    "Percentile": lambda t: plus_minus(*t.figures["cifar10_test_percentile"]),
    "Regret, points": lambda t: plus_minus(*t.figures["cifar10_test_regret"]),
    "Params, M": lambda t: span(*t.params_m, 3),
}


def sheet(rows: Sequence[Truth]) -> Sheet:
    texts = [list(COLUMNS), *([text(one) for text in COLUMNS.values()] for one in rows)]
    for name, figures in PUBLISHED.items():
        texts.append([f"{name} (published)", DASH, DASH, *(plus_minus(*pair) for pair in figures), *[DASH] * 3])
    return Sheet(texts, [title != "Cell derived by" for title in COLUMNS], NOTES)


NOTES = (
    "True accuracies: the accuracy of each derived cell after full training, read from the NAS-Bench-201 table that "
    "params.yaml names; mean ± standard deviation (n − 1) over searches. No network was trained here for these values.",
    "Percentile: share of the 15,625 cells that are worse on the CIFAR-10 test images, with equal cells counted half; "
    "the median cell has 50. Regret: the accuracy of the best of all cells minus that of this cell, same images.",
    "Published: Dong and Yang, ICLR 2020, arXiv 2001.00326, table 5, with the official protocol (16 channels, 17 "
    "cells, all of CIFAR-10). Searches of another size, budget or data set use the same table but do not reproduce "
    "these rows.",
)


def metrics(one: Truth) -> dict[str, float | int]:
    """For results.metrics.json."""
    shown = ("cifar10_test_acc", "cifar100_test_acc", "imagenet16_test_acc", "cifar10_test_percentile", CURVE)
    values: dict[str, float | int] = {"n": one.searches}
    for name in shown:
        mean, deviation = one.figures[name]
        values[f"{name}_mean"] = round(mean, 4)
        if deviation is not None:
            values[f"{name}_std"] = round(deviation, 4)
    return values


def curves(study: Study, path: Path) -> bool:
    """Draw the regret of each search's best cell so far. Returns False and draws nothing without a benchmark table."""
    courses = _courses(study)
    if not courses:
        return False
    axes = Axes("Share of the search, %", "Regret on CIFAR-10 test, points", y_low=0.0, symlog=True)
    for at, (title, group) in enumerate(courses.items()):
        shade, dash = SERIES[at % len(SERIES)], DASHES[at // len(SERIES) % len(DASHES)]
        axes.lines += [Line(course, shade, dash, width=0.8, opacity=0.4) for course in group]
        means = _mean_course(group)
        axes.lines.append(Line(means, shade, dash, 2.0, marker="o" if 0 < len(means) < 3 else "", label=title))
    figure([axes], width=7.2, height=4.2).save(path)
    return True


def _courses(study: Study) -> dict[str, list[list[tuple[float, float]]]]:
    """Title -> per trial (share of the search, regret); one title per cell if a method derives several."""
    courses: dict[str, list[list[tuple[float, float]]]] = {}
    for trial in study.trials:
        several = trial.table is not None and len(trial.table.curves) > 1
        for name, rows in (trial.table.curves if trial.table is not None else {}).items():
            title = label_title(trial.method, name) if several else method_title(trial.method)
            length = len(trial.search_history)
            courses.setdefault(title, []).append([(100 * (row["epoch"] + 1) / length, row[CURVE]) for row in rows])
    return courses


def _mean_course(courses: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean over trials; empty if their values lie at different shares of the search."""
    shares = [[share for share, _ in course] for course in courses]
    if any(places != shares[0] for places in shares):
        return []
    means = [fmean(values) for values in zip(*([regret for _, regret in c] for c in courses), strict=True)]
    return list(zip(shares[0], means, strict=True))
