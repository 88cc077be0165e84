"""The main table of the report, and the result files, which hold no times and no devices."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

from nas.report.collect import Study, Tested, TrialRecords
from nas.report.sheet import DASH, Sheet, duration, plus_minus, span
from nas.report.titles import label_title

BEST = [
    "Best epoch: the lowest test error of each network among its last retrain.best_of_last epochs. This epoch is "
    "chosen on test data, as in the scripts of many papers, so this column is for comparison and is not a result."
]


@dataclass(frozen=True)
class Row:
    """One method, or one architecture name of a method that derives several. Units: percent, millions, seconds.

    `label` uses the method's name, `title` its title. `searches` and `retrains` count search seeds and retrained
    networks. `test_error_std` is the deviation over search seeds of the means over retrain seeds; None with one search
    seed. `best_error_*`: the same for the best of the last epochs; None if they were not measured. `search_macs`: None
    if a search does not count them. `eps`: weight of the complexity in the first search, or None. `control`: the name
    of the control, or empty.
    """

    label: str
    method: str
    architecture: str
    eps: float | None
    control: str
    searches: int
    retrains: int
    test_error_mean: float
    test_error_std: float | None
    best_error_mean: float | None
    best_error_std: float | None
    params_m: float
    params_m_min: float
    params_m_max: float
    macs_m: float
    macs_m_min: float
    macs_m_max: float
    search_seconds: float
    retrain_seconds: float
    device: str
    search_macs: float | None

    @property
    def title(self) -> str:
        return label_title(self.method, self.label.removeprefix(self.method).strip())


@dataclass(frozen=True)
class Column:
    title: str
    text: Callable[[Row], str]
    right: bool = True


def summarise(study: Study) -> list[Row]:
    """One row per (method, architecture name), in the order of the trials."""
    rows = []
    for method in dict.fromkeys(trial.method for trial in study.trials):
        trials = [trial for trial in study.trials if trial.method == method and trial.results]
        if not trials:  # only looked up in a benchmark table
            continue
        if all(len(trial.derived) == 1 for trial in trials):
            rows.append(
                _row(method, trials, [list(trial.results) for trial in trials], trials[0].derived[0].name, method)
            )
            continue
        for name in dict.fromkeys(derived.name for trial in trials for derived in trial.derived):
            holders = [trial for trial in trials if name in {derived.name for derived in trial.derived}]
            results = [[tested for tested in trial.results if tested.name == name] for trial in holders]
            rows.append(_row(method, holders, results, name, f"{method} {name}"))
    return rows


def _row(method: str, trials: list[TrialRecords], results: list[list[Tested]], name: str, label: str) -> Row:
    """`results`: the tested networks of each trial that belong to this row."""
    errors = [fmean(tested.test_error for tested in group) for group in results]
    best = [fmean(t.best_error for t in group if t.best_error is not None) for group in results if measured_best(group)]
    params = [fmean(tested.params_m for tested in group) for group in results]
    macs = [fmean(tested.macs_m for tested in group) for group in results]
    derived = next(one for one in trials[0].derived if one.name == name)
    counted = [trial.counted["macs"] for trial in trials if "macs" in trial.counted]
    return Row(
        label=label,
        method=method,
        architecture=name,
        eps=derived.eps,
        control=derived.control,
        searches=len(trials),
        retrains=sum(len(group) for group in results),
        test_error_mean=fmean(errors),
        test_error_std=stdev(errors) if len(errors) > 1 else None,
        best_error_mean=fmean(best) if best else None,
        best_error_std=stdev(best) if len(best) > 1 else None,
        params_m=fmean(params),
        params_m_min=min(params),
        params_m_max=max(params),
        macs_m=fmean(macs),
        macs_m_min=min(macs),
        macs_m_max=max(macs),
        search_seconds=fmean(trial.search_cost.seconds for trial in trials),
        retrain_seconds=fmean(trial.retrain_cost.seconds / len(trial.results) for trial in trials),
        device=", ".join(dict.fromkeys(cost.device for t in trials for cost in (t.search_cost, t.retrain_cost))),
        search_macs=fmean(counted) if len(counted) == len(trials) else None,
    )


def measured_best(group: Iterable[Tested]) -> bool:
    """Whether earlier epochs than the last were measured too."""
    return any(tested.best_error is not None for tested in group)


def columns(rows: Sequence[Row]) -> list[Column]:
    """The columns; those of the best epoch and of counted searches only if a row has a value."""
    best = [Column("Best epoch, %", lambda row: plus_minus(row.best_error_mean, row.best_error_std))]
    counted = [
        Column("Search MACs, 10¹²", lambda row: DASH if row.search_macs is None else f"{row.search_macs / 1e12:.3g}")
    ]
    return [
        Column("Method", lambda row: row.title, right=False),
        Column("Searches", lambda row: str(row.searches)),
        Column("Retrains", lambda row: str(row.retrains)),
        Column("Test error, %", lambda row: plus_minus(row.test_error_mean, row.test_error_std)),
        *(best if any(row.best_error_mean is not None for row in rows) else []),
        Column("Params, M", lambda row: span(row.params_m, row.params_m_min, row.params_m_max, 3)),
        Column("Multiply-adds, M", lambda row: span(row.macs_m, row.macs_m_min, row.macs_m_max, 2)),
        Column("Search cost", lambda row: duration(row.search_seconds)),
        *(counted if any(row.search_macs is not None for row in rows) else []),
        Column("Retrain cost", lambda row: duration(row.retrain_seconds)),
        Column("Device", lambda row: row.device, right=False),
    ]


def sheet(study: Study, rows: Sequence[Row]) -> Sheet:
    shown = columns(rows)
    texts = [[column.title for column in shown], *([column.text(row) for column in shown] for row in rows)]
    return Sheet(texts, [column.right for column in shown], notes(study, rows))


def notes(study: Study, rows: Sequence[Row]) -> list[str]:
    """How to read the table, one or two sentences each."""
    shape = " × ".join(str(size) for size in study.data.shape)
    error = fmean(row.test_error_mean for row in rows)
    floor = (error * (100 - error) / study.images) ** 0.5
    return [
        f"Data: {study.data.name}, {study.data.classes} classes, images {shape} (channels × height × width). "
        f"Test error on {study.images} test images at the last epoch of each retraining; no epoch is selected.",
        "Searches: the number n of search seeds. Retrains: the number of networks trained from scratch. Test error: "
        "mean ± standard deviation (divisor n − 1) over search seeds of the means over retrain seeds; "
        f"{DASH} if n = 1.",
        f"Noise floor: one of {study.images} test images is {100 / study.images:.2f} points of error. The binomial "
        f"standard error of one test run at {error:.2f} % error is {floor:.2f} points, so smaller differences between "
        "single networks may be due to chance.",
        *(BEST if any(row.best_error_mean is not None for row in rows) else []),
        "Multiply-adds: of convolutions and linear layers, for one image. Parameters and multiply-adds exclude the "
        f"auxiliary head; lowest{DASH}highest if the networks of a row differ.",
        "Search cost: mean wall time of one search. Retrain cost: mean wall time of training one network from scratch. "
        "Both depend on the device and vary from run to run; results.csv holds only results that do not.",
    ]


def table_csv(rows: Sequence[Row]) -> str:
    """Every value of the table as a number; absent values are empty fields."""
    return _csv(asdict(row) for row in rows)


def results_csv(study: Study) -> str:
    """One line per retrained network. Holds no times and no devices, so equal results give equal bytes."""
    return _csv(
        {
            "method": trial.method,
            "search_seed": trial.seed,
            "architecture": tested.name,
            "id": tested.id,
            "retrain_seed": tested.seed,
            "test_error": tested.test_error,
            "test_loss": tested.test_loss,
            "best_error": tested.best_error,
            "best_epoch": tested.best_epoch,
            "params_m": tested.params_m,
            "macs_m": tested.macs_m,
        }
        for trial in study.trials
        for tested in sorted(trial.results, key=lambda tested: (position(trial, tested), tested.seed))
    )


def position(trial: TrialRecords, tested: Tested) -> int:
    """The position of a network's architecture in the derive record."""
    return [derived.name for derived in trial.derived].index(tested.name)


def results_metrics(rows: Sequence[Row], others: Mapping[str, Mapping[str, float | int]] = MappingProxyType({})) -> str:
    """The rows and `others` for `dvc metrics show`, as `records.write_json` formats it; keys use names."""
    metrics = {row.label: _metrics(row) for row in rows} | dict(others)
    return json.dumps(metrics, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _metrics(row: Row) -> dict[str, float | int]:
    std = {} if row.test_error_std is None else {"test_error_std": round(row.test_error_std, 4)}
    chosen = {"best_error_mean": row.best_error_mean, "best_error_std": row.best_error_std}
    best = {name: round(value, 4) for name, value in chosen.items() if value is not None}
    mean = round(row.test_error_mean, 4)
    return {
        "test_error_mean": mean,
        **std,
        **best,
        "n": row.searches,
        "params_m": round(row.params_m, 6),
        "macs_m": round(row.macs_m, 6),
    }


def _csv(rows: Iterable[dict[str, Any]]) -> str:
    lines = list(rows)
    if not lines:
        return ""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()
