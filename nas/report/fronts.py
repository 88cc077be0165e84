"""Trials that derive architectures of several complexities: the quality of each set, and the cost of its search."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev

from nas.report.collect import Derived, Study, Tested, TrialRecords
from nas.report.sheet import DASH, Sheet, duration, plus_minus
from nas.report.titles import label_title

MARGIN = 1.1  # areas are measured up to this multiple of the largest network's size
Point = tuple[float, float]  # size, error: lower is better
BACKWARD = 3  # the cost of a forward and a backward pass, in forward passes


@dataclass(frozen=True)
class Front:
    """The sets of a method, or of one of its controls; each trial has one set, with a member per eps.

    Areas are hypervolumes: means and deviations (n - 1) over search seeds, in percent of the rectangle from zero size
    and zero error to MARGIN times the largest network of all fronts and the error of chance. `falls` of `pairs`: pairs
    of neighbouring eps in which the larger eps has fewer parameters. `passes_m`: forward passes of one search in
    millions of images, where an image with a backward pass counts BACKWARD times; None if the search does not count
    them, or for a control.
    """

    label: str  # with the method's name
    title: str  # with the method's title
    searches: int
    networks: int
    params_area: float
    params_area_std: float | None
    macs_area: float
    macs_area_std: float | None
    falls: int
    pairs: int
    passes_m: float | None
    seconds: float | None

    @property
    def metrics(self) -> dict[str, float | int]:
        """The values that do not depend on time or device."""
        deviations = {"params_area_std": self.params_area_std, "macs_area_std": self.macs_area_std}
        return {
            "params_area_mean": round(self.params_area, 4),
            "macs_area_mean": round(self.macs_area, 4),
            **{name: round(value, 4) for name, value in deviations.items() if value is not None},
            "n": self.searches,
            "falls": self.falls,
            "pairs": self.pairs,
        }


Set = list[tuple[float, list[Tested]]]  # eps, its retrained networks; eps grows


def sets(study: Study) -> dict[tuple[str, str], list[tuple[TrialRecords, Set]]]:
    """(method, control or "") -> the sets of its trials, if retrained; sets of one member are left out."""
    groups: dict[tuple[str, str], list[tuple[TrialRecords, Set]]] = {}
    for trial in study.trials:
        for control in dict.fromkeys(one.control for one in trial.derived):
            own = [one for one in trial.derived if one.control == control]
            members = [(one.eps, results) for one in own if one.eps is not None and (results := tested(trial, one))]
            if len(members) > 1:
                groups.setdefault((trial.method, control), []).append((trial, sorted(members, key=lambda m: m[0])))
    return groups


def tested(trial: TrialRecords, derived: Derived) -> list[Tested]:
    return [one for one in trial.results if one.name == derived.name]


def fronts(study: Study) -> list[Front]:
    """In the order of the trials; empty if no trial retrained several architectures."""
    groups = sets(study)
    every = [results for group in groups.values() for _, members in group for _, results in members]
    if not every:
        return []
    chance = 100 * (1 - 1 / study.data.classes)
    params = MARGIN * max(one.params_m for results in every for one in results)
    macs = MARGIN * max(one.macs_m for results in every for one in results)
    return [_front(key, group, (params, chance), (macs, chance)) for key, group in groups.items()]


def _front(key: tuple[str, str], group: Sequence[tuple[TrialRecords, Set]], params: Point, macs: Point) -> Front:
    method, control = key
    by_params = [area([_point(r, lambda one: one.params_m) for _, r in members], params) for _, members in group]
    by_macs = [area([_point(r, lambda one: one.macs_m) for _, r in members], macs) for _, members in group]
    steps = [
        _point(large, lambda one: one.params_m)[0] > _point(small, lambda one: one.params_m)[0]
        for _, members in group
        for (_, large), (_, small) in pairwise(members)
    ]
    passes = [counted_passes(trial) for trial, _ in group]
    known = [value for value in passes if value is not None]
    return Front(
        label=f"{method} {control}".strip(),
        title=label_title(method, control),
        searches=len(group),
        networks=len(group[0][1]),
        params_area=fmean(by_params),
        params_area_std=stdev(by_params) if len(by_params) > 1 else None,
        macs_area=fmean(by_macs),
        macs_area_std=stdev(by_macs) if len(by_macs) > 1 else None,
        falls=sum(steps),
        pairs=len(steps),
        passes_m=fmean(known) if len(known) == len(group) and not control else None,
        seconds=None if control else fmean(trial.search_cost.seconds for trial, _ in group),
    )


def _point(results: Sequence[Tested], size: Callable[[Tested], float]) -> Point:
    return fmean(size(one) for one in results), fmean(one.test_error for one in results)


def counted_passes(trial: TrialRecords) -> float | None:
    """Forward passes of the search in millions of images; with a backward pass an image counts BACKWARD times."""
    counted = trial.counted
    if "train_images" not in counted:
        return None
    both = counted["train_images"] + counted.get("valid_images", 0)
    return (BACKWARD * both + counted.get("judged_images", 0)) / 1e6


def area(points: Sequence[Point], corner: Point) -> float:
    """Hypervolume: percent of the rectangle from the origin to `corner` that some point dominates."""
    covered, ceiling = 0.0, corner[1]
    for size, error in sorted(points):
        if size < corner[0] and error < ceiling:
            covered += (corner[0] - size) * (ceiling - error)
            ceiling = error
    return 100 * covered / (corner[0] * corner[1])


COLUMNS: dict[str, Callable[[Front], str]] = {
    "Front": lambda f: f.title,
    "Searches": lambda f: str(f.searches),
    "Networks each": lambda f: str(f.networks),
    "Area by params, %": lambda f: plus_minus(f.params_area, f.params_area_std),
    "Area by multiply-adds, %": lambda f: plus_minus(f.macs_area, f.macs_area_std),
    "Size falls with eps": lambda f: f"{f.falls} of {f.pairs}",
    "Passes, 10⁶ images": lambda f: DASH if f.passes_m is None else f"{f.passes_m:.3g}",
    "Search cost": lambda f: DASH if f.seconds is None else duration(f.seconds),
}


def sheet(rows: Sequence[Front]) -> Sheet:
    texts = [list(COLUMNS), *([text(one) for text in COLUMNS.values()] for one in rows)]
    return Sheet(texts, [title != "Front" for title in COLUMNS], notes(rows))


def notes(rows: Sequence[Front]) -> list[str]:
    return [
        "A front is the set of networks that one trial derived, ordered by eps. Area (hypervolume): the part of the "
        f"rectangle from zero size and error to {MARGIN} times the largest network and the error of chance that some "
        "network of the set dominates, in percent; higher is better. Mean ± standard deviation over search seeds.",
        "Size falls with eps: the number of pairs of neighbouring eps in which the larger eps has fewer parameters. "
        f"Passes: forward passes of the search; an image with a backward pass counts {BACKWARD} times. A control has "
        "no search of its own.",
        *ratios(rows),
    ]


def ratios(rows: Sequence[Front]) -> Iterator[str]:
    """The cost of each search relative to the search with the most passes."""
    searched = [(one, one.passes_m, one.seconds) for one in rows if one.passes_m and one.seconds]
    if len(searched) > 1:
        dearest, most, longest = max(searched, key=lambda entry: entry[1])
        for one, passes, seconds in searched:
            if one is not dearest:
                yield (
                    f"One search of {one.title} needs {passes / most:.2f} of the passes of {dearest.title}, and "
                    f"{seconds / longest:.2f} of its time."
                )
