"""What a table of full trainings says of the found cells (nas/table.py), as rows over search seeds."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from nas.report.collect import Study, TrueCell


@dataclass(frozen=True)
class TrueRow:
    """One method, or one architecture name of a method that finds several, over n search seeds.

    `means`, `stds`: figure -> percent or points; a deviation (n - 1 in the divisor) is None with one search.
    """

    label: str
    method: str
    architecture: str
    searches: int
    means: Mapping[str, float]
    stds: Mapping[str, float | None]
    params_m: float
    macs_m: float


def true_rows(study: Study) -> list[TrueRow]:
    """A row per (method, architecture name) that a table was asked about, in the order of the trials."""
    groups: dict[tuple[str, str], list[TrueCell]] = {}
    for trial in study.trials:
        for cell in trial.table.cells if trial.table else ():
            groups.setdefault((trial.method, cell.name), []).append(cell)
    methods = [method for method, _ in groups]
    return [
        _row(method if methods.count(method) == 1 else f"{method} {name}", method, name, cells)
        for (method, name), cells in groups.items()
    ]


def _row(label: str, method: str, name: str, cells: list[TrueCell]) -> TrueRow:
    columns = {figure: [cell.figures[figure] for cell in cells] for figure in cells[0].figures}
    return TrueRow(
        label=label,
        method=method,
        architecture=name,
        searches=len(cells),
        means={figure: fmean(values) for figure, values in columns.items()},
        stds={figure: stdev(values) if len(values) > 1 else None for figure, values in columns.items()},
        params_m=fmean(cell.params_m for cell in cells),
        macs_m=fmean(cell.macs_m for cell in cells),
    )
