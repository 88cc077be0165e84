"""The table of an ablation: its variants side by side, from the metrics files of their trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from pydantic import BaseModel, ConfigDict

from nas.report.sheet import DASH, duration, pipes, plus_minus, span

ERROR, TRUTH, PERCENTILE = "Test error, %", "True test accuracy, %", "Percentile"
COST, MACS = "Search cost", "Search MACs, 10¹²"
OPTIONAL = (ERROR, TRUTH, PERCENTILE, MACS)  # columns that go where no row has anything to state
NOTES = (  # each below the table that has the column
    (
        "Searches",
        f"Mean ± standard deviation (n − 1 in the divisor) over search seeds; {DASH} where n = 1 leaves no deviation. "
        f"Sizes: lowest{DASH}highest where the networks of a row differ.",
    ),
    (ERROR, "Test error: of each search the mean over its retrain seeds."),
    (
        TRUTH,
        "True test accuracy on CIFAR-10, and its percentile among all cells: what the table says of the found cells.",
    ),
    ("Searches", "A difference no larger than the deviations, or of a few test images, may be chance alone."),
    (COST, "Search cost: mean wall time of one search. It belongs to the device, and varies from run to run."),
)


class _Part(BaseModel):
    """What the table needs of a metrics file; a file may hold more."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Found(_Part):
    """One found architecture: its size in millions, and what judged it: means over retrain seeds, a table, or both."""

    params_m: float
    macs_m: float
    test_error: float | None = None  # percent
    table_cifar10_test_acc: float | None = None  # percent
    table_cifar10_test_percentile: float | None = None


class Searched(_Part):
    """What a search cost; `macs_t` (10¹² multiply-adds) where it counts them."""

    seconds: float
    macs_t: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A trial; `found` by the name of the architecture."""

    method: str
    searched: Searched
    found: Mapping[str, Found]


@dataclass(frozen=True)
class Line:
    """A variant's trials that found an architecture of one name by one method."""

    variant: str
    label: str
    searched: Sequence[Searched]
    found: Sequence[Found]


def table(variants: Mapping[str, Sequence[Outcome]]) -> str:
    """Markdown: a row per variant, or several for one of several methods or architectures, and what to know of them.

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
    """By method and architecture name, in the order of the trials; the name is told where a method has several."""
    found = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.method == method]
        names = dict.fromkeys(name for outcome in own for name in outcome.found)
        for name in names:
            holders = [outcome for outcome in own if name in outcome.found]
            label = f"{method} {name}" if len(names) > 1 else method
            cells = [outcome.found[name] for outcome in holders]
            found.append(Line(variant, label, [outcome.searched for outcome in holders], cells))
    return found


def texts(line: Line) -> dict[str, str]:
    """The cells of a row by their titles."""
    params = [found.params_m for found in line.found]
    macs = [found.macs_m for found in line.found]
    return {
        "Variant": line.variant,
        "Method": line.label,
        "Searches": str(len(line.found)),
        ERROR: spread([found.test_error for found in line.found]),
        TRUTH: spread([found.table_cifar10_test_acc for found in line.found]),
        PERCENTILE: spread([found.table_cifar10_test_percentile for found in line.found]),
        "Params, M": span(fmean(params), min(params), max(params), 3),
        "Multiply-adds, M": span(fmean(macs), min(macs), max(macs), 2),
        COST: duration(fmean(searched.seconds for searched in line.searched)),
        MACS: figure(mean([searched.macs_t for searched in line.searched])),
    }


def spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation where every search has the figure."""
    middle = mean(values)
    known = [value for value in values if value is not None]
    return DASH if middle is None else plus_minus(middle, stdev(known) if len(known) > 1 else None)


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def figure(value: float | None) -> str:
    return DASH if value is None else f"{value:.3g}"
