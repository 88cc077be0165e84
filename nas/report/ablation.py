"""The table of an ablation: one row per variant, from the metrics files of its trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from pydantic import BaseModel, ConfigDict

from nas.report.sheet import DASH, duration, pipes, plus_minus, span
from nas.report.titles import label_title

ERROR, TRUTH, PERCENTILE = "Test error, %", "True test accuracy, %", "Percentile"
COST, MACS = "Search cost", "Search MACs, 10¹²"
OPTIONAL = (ERROR, TRUTH, PERCENTILE, MACS)  # columns that are left out if no row has a value
NOTES = (  # (column, note): shown if the table has the column
    (
        "Searches",
        f"Mean ± standard deviation (divisor n − 1) over search seeds; {DASH} if n = 1. "
        f"Sizes: lowest{DASH}highest if the networks of a row differ.",
    ),
    (ERROR, "Test error: the mean over the retrain seeds of each search."),
    (
        TRUTH,
        "True test accuracy: of the derived cells on CIFAR-10 in the benchmark table; Percentile: among all its cells.",
    ),
    ("Searches", "Differences within the deviations, or of a few test images, may be due to chance."),
    (COST, "Search cost: mean wall time of one search. It depends on the device and varies from run to run."),
)


class _Part(BaseModel):
    """The part of a metrics file that the table reads; other keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Judged(_Part):
    """One derived architecture: its size in millions, and its results (retrained, in a table, or both)."""

    params_m: float
    macs_m: float
    test_error: float | None = None  # percent, mean over retrain seeds
    table_cifar10_test_acc: float | None = None  # percent
    table_cifar10_test_percentile: float | None = None


class Searched(_Part):
    """The cost of a search; `macs_t` (10¹² multiply-adds) is None if it does not count them."""

    seconds: float
    macs_t: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A trial; `judged` maps the names of its architectures to their results."""

    method: str
    searched: Searched
    judged: Mapping[str, Judged]


@dataclass(frozen=True)
class Line:
    """The trials of a variant with one method, and their architectures of one name."""

    variant: str
    label: str
    searched: Sequence[Searched]
    judged: Sequence[Judged]


def table(variants: Mapping[str, Sequence[Outcome]]) -> str:
    """Markdown: a row per variant, method and architecture name, and notes below.

    Args:
        variants: label -> the trials of the variant; each has at least one.
    """
    rows = [texts(line) for variant, outcomes in variants.items() for line in lines(variant, outcomes)]
    head = [title for title in rows[0] if title not in OPTIONAL or any(row[title] != DASH for row in rows)]
    body = [[row[title] for title in head] for row in rows]
    right = [title not in ("Variant", "Method") for title in head]
    notes = [note for title, note in NOTES if title in head]
    return "\n".join([*pipes([head, *body], right), "", *(f"- {note}" for note in notes)]) + "\n"


def lines(variant: str, outcomes: Sequence[Outcome]) -> list[Line]:
    """By method and architecture name, in the order of the trials; labels have the name if a method has several."""
    rows = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.method == method]
        names = dict.fromkeys(name for outcome in own for name in outcome.judged)
        for name in names:
            holders = [outcome for outcome in own if name in outcome.judged]
            label = label_title(method, name if len(names) > 1 else "")
            cells = [outcome.judged[name] for outcome in holders]
            rows.append(Line(variant, label, [outcome.searched for outcome in holders], cells))
    return rows


def texts(line: Line) -> dict[str, str]:
    """The cells of a row by their titles."""
    params = [one.params_m for one in line.judged]
    macs = [one.macs_m for one in line.judged]
    return {
        "Variant": line.variant,
        "Method": line.label,
        "Searches": str(len(line.judged)),
        ERROR: spread([one.test_error for one in line.judged]),
        TRUTH: spread([one.table_cifar10_test_acc for one in line.judged]),
        PERCENTILE: spread([one.table_cifar10_test_percentile for one in line.judged]),
        "Params, M": span(fmean(params), min(params), max(params), 3),
        "Multiply-adds, M": span(fmean(macs), min(macs), max(macs), 2),
        COST: duration(fmean(searched.seconds for searched in line.searched)),
        MACS: figure(mean([searched.macs_t for searched in line.searched])),
    }


def spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation; a dash unless every search has a value."""
    middle = mean(values)
    known = [value for value in values if value is not None]
    return DASH if middle is None else plus_minus(middle, stdev(known) if len(known) > 1 else None)


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def figure(value: float | None) -> str:
    return DASH if value is None else f"{value:.3g}"
