"""What a table of trained networks says of the found cells: true accuracies, percentile, regret and its course."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from nas.report.collect import Study, Trial, TrueCell
from nas.report.sheet import DASH, Sheet, plus_minus, span
from nas.report.style import DASHES, SERIES, grid, look, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16": "ImageNet16-120"}
COURSE = "cifar10_test_regret"  # what the curves show
Mean = tuple[float, float | None]  # and deviation (n - 1), None with one search

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
    """One method, or one of the cells that it finds in a trial. Percent and points, over search seeds."""

    label: str
    searches: int
    figures: dict[str, Mean]  # column of the table -> mean and deviation
    params_m: tuple[float, float, float]  # mean, lowest, highest: the found network at retrain size


def truths(study: Study) -> list[Truth]:
    """In the order of the trials; empty where no table was named."""
    found = []
    for method in dict.fromkeys(trial.method for trial in study.trials):
        trials = [trial for trial in study.trials if trial.method == method and trial.table is not None]
        names = list(dict.fromkeys(cell.name for trial in trials for cell in _cells(trial)))
        for name in names:
            cells = [cell for trial in trials for cell in _cells(trial) if cell.name == name]
            found.append(_truth(method if len(names) == 1 else f"{method} {name}", cells))
    return found


def _cells(trial: Trial) -> Sequence[TrueCell]:
    return trial.table.cells if trial.table is not None else ()


def _truth(label: str, cells: Sequence[TrueCell]) -> Truth:
    columns = {name: [cell.figures[name] for cell in cells] for name in cells[0].figures}
    params = [cell.params_m for cell in cells]
    return Truth(
        label,
        len(cells),
        {name: (fmean(values), stdev(values) if len(values) > 1 else None) for name, values in columns.items()},
        (fmean(params), min(params), max(params)),
    )


COLUMNS: dict[str, Callable[[Truth], str]] = {
    "Cell found by": lambda t: t.label,
    "Searches": lambda t: str(t.searches),
    "CIFAR-10 valid, %": lambda t: plus_minus(*t.figures["cifar10_valid_acc"]),
    **{f"{title} test, %": lambda t, d=data: plus_minus(*t.figures[f"{d}_test_acc"]) for data, title in DATA.items()},  # type: ignore[misc]
    "Percentile": lambda t: plus_minus(*t.figures["cifar10_test_percentile"]),
    "Regret, points": lambda t: plus_minus(*t.figures["cifar10_test_regret"]),
    "Params, M": lambda t: span(*t.params_m, 3),
}


def sheet(found: Sequence[Truth]) -> Sheet:
    texts = [list(COLUMNS), *([text(one) for text in COLUMNS.values()] for one in found)]
    for name, figures in PUBLISHED.items():
        texts.append([f"{name} (published)", DASH, DASH, *(plus_minus(*pair) for pair in figures), *[DASH] * 3])
    return Sheet(texts, [title != "Cell found by" for title in COLUMNS], NOTES)


NOTES = (
    "True accuracies: what each found cell reaches when it is trained in full, by the table of NAS-Bench-201 that "
    "params.yaml names; mean ± standard deviation (n − 1) over searches. None was trained here for it.",
    "Percentile: share of the 15,625 cells that are worse on CIFAR-10's test images, equal ones counted half; 50 is "
    "the median cell. Regret: what the best of all cells has more there.",
    "Published: Dong and Yang, ICLR 2020, arXiv 2001.00326, table 5, at the official protocol (16 channels, 17 cells, "
    "all of CIFAR-10). A search at another size, budget or data is judged by the same table, and repeats none of "
    "theirs.",
)


def metrics(one: Truth) -> dict[str, float | int]:
    """For results.metrics.json."""
    shown = ("cifar10_test_acc", "cifar100_test_acc", "imagenet16_test_acc", "cifar10_test_percentile", COURSE)
    found: dict[str, float | int] = {"n": one.searches}
    for name in shown:
        mean, deviation = one.figures[name]
        found[f"{name}_mean"] = round(mean, 4)
        if deviation is not None:
            found[f"{name}_std"] = round(deviation, 4)
    return found


def curves(study: Study, path_without_suffix: Path) -> bool:
    """Regret of the best cell so far over the course of each search; False, and no figure, where there is no table."""
    found = _courses(study)
    if not found:
        return False
    with look():
        figure, (axes,) = grid(1, 1, 7.2, 4.2)
        for at, (label, courses) in enumerate(found.items()):
            looks: dict[str, Any] = {"color": SERIES[at % 7], "linestyle": DASHES[at // 7 % len(DASHES)]}
            for course in courses:
                axes.plot(*zip(*course, strict=True), linewidth=0.8, alpha=0.4, **looks)
            _mean_course(axes, courses, label, looks)
        axes.set(xlabel="Share of the search, %", ylabel="Regret on CIFAR-10 test, points", yscale="symlog")
        axes.set_ylim(bottom=0)
        axes.legend()
        save(figure, path_without_suffix)
    return True


def _courses(study: Study) -> dict[str, list[list[tuple[float, float]]]]:
    """Label -> per trial (share of the search, regret); a method's several cells by their names."""
    found: dict[str, list[list[tuple[float, float]]]] = {}
    for trial in study.trials:
        several = trial.table is not None and len(trial.table.curves) > 1
        for name, rows in (trial.table.curves if trial.table is not None else {}).items():
            label = f"{trial.method} {name}" if several else trial.method
            length = len(trial.search_history)
            found.setdefault(label, []).append([(100 * (row["epoch"] + 1) / length, row[COURSE]) for row in rows])
    return found


def _mean_course(
    axes: "Axes", courses: Sequence[Sequence[tuple[float, float]]], label: str, looks: dict[str, Any]
) -> None:
    """The mean over trials where all of them have a figure at the same places; else the first says the name."""
    shares = [[share for share, _ in course] for course in courses]
    if all(places == shares[0] for places in shares):
        means = [fmean(values) for values in zip(*([regret for _, regret in c] for c in courses), strict=True)]
        axes.plot(shares[0], means, label=label, linewidth=2, marker="o" if len(means) < 3 else None, **looks)
    else:
        axes.plot([], [], label=label, linewidth=2, **looks)
