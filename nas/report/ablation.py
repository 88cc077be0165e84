"""The table of an ablation: its variants side by side, from the metrics files of their trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from pydantic import BaseModel, ConfigDict

from nas.report.sheet import DASH, duration, pipes, plus_minus, span

NOTES = (
    "Test error: mean ± standard deviation (n − 1 in the divisor) over search seeds, of the means over retrain seeds; "
    f"{DASH} where n = 1 leaves no deviation. Sizes: lowest{DASH}highest where the networks of a row differ.",
    "A difference no larger than the deviations, or of a few test images, may be chance alone.",
    "Search cost: mean wall time of one search. It belongs to the device, and varies from run to run.",
)


class _Part(BaseModel):
    """What the table needs of a metrics file; a file may hold more."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Retrained(_Part):
    """The networks of one found architecture: percent and millions, means over retrain seeds."""

    test_error: float
    params_m: float
    macs_m: float


class Searched(_Part):
    """What a search cost; `macs_t` (10¹² multiply-adds) where it counts them."""

    seconds: float
    macs_t: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A trial; `tested` by the name of the architecture."""

    method: str
    searched: Searched
    tested: Mapping[str, Retrained]


@dataclass(frozen=True)
class Line:
    """A variant's trials that found an architecture of one name by one method."""

    variant: str
    label: str
    searched: Sequence[Searched]
    tested: Sequence[Retrained]


def table(variants: Mapping[str, Sequence[Outcome]]) -> str:
    """Markdown: a row per variant, or several for one of several methods or architectures, and what to know of them.

    Args:
        variants: label -> the trials of the variant; each has at least one.
    """
    rows = [line for variant, outcomes in variants.items() for line in lines(variant, outcomes)]
    counted = any(searched.macs_t is not None for row in rows for searched in row.searched)
    titles = ["Variant", "Method", "Searches", "Test error, %", "Params, M", "Multiply-adds, M", "Search cost"]
    head = [*titles, "Search MACs, 10¹²"] if counted else titles
    body = [texts(row)[: len(head)] for row in rows]
    right = [title not in ("Variant", "Method") for title in head]
    return "\n".join([*pipes([head, *body], right), "", *(f"- {note}" for note in NOTES)]) + "\n"


def lines(variant: str, outcomes: Sequence[Outcome]) -> list[Line]:
    """By method and architecture name, in the order of the trials; the name is told where a method has several."""
    found = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.method == method]
        names = dict.fromkeys(name for outcome in own for name in outcome.tested)
        for name in names:
            holders = [outcome for outcome in own if name in outcome.tested]
            label = f"{method} {name}" if len(names) > 1 else method
            tested = [outcome.tested[name] for outcome in holders]
            found.append(Line(variant, label, [outcome.searched for outcome in holders], tested))
    return found


def texts(line: Line) -> list[str]:
    """The cells of a row."""
    errors = [tested.test_error for tested in line.tested]
    params = [tested.params_m for tested in line.tested]
    macs = [tested.macs_m for tested in line.tested]
    counted = [searched.macs_t for searched in line.searched if searched.macs_t is not None]
    return [
        line.variant,
        line.label,
        str(len(errors)),
        plus_minus(fmean(errors), stdev(errors) if len(errors) > 1 else None),
        span(fmean(params), min(params), max(params), 3),
        span(fmean(macs), min(macs), max(macs), 2),
        duration(fmean(searched.seconds for searched in line.searched)),
        f"{fmean(counted):.3g}" if len(counted) == len(errors) else DASH,
    ]
