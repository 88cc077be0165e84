"""The curves of a search and of its retrainings over their epochs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.report.chart import Axes, Bar, Line, figure
from nas.report.collect import History, TrialRecords
from nas.report.style import DASHES, OPS, SERIES, colour
from nas.report.svg import Point

NOT_FIGURES = {"epoch", "lr", "candidate", "iteration", "search"}  # columns of a history that are no results
TITLES = {  # of columns that are not in PAIRS; other columns are shown by their name
    "parameterless": "Edges without parameters, %",
    "params_m": "Parameters, M",
    "macs_m": "Multiply-adds, M",
    "gates": "Open gates",
    "alive": "Operations left",
    "complexity_m": "Expected parameters, M",
    "mode_complexity_m": "Parameters of the likeliest, M",
    "certainty": "Probability of the likeliest",
    "ess": "Effective sample size",
    "signal": "Signal over noise",
    "Delta": "Delta, inverse step length",
}
PAIRS = {"loss": "Loss, nats", "acc": "Accuracy, %"}
PARTS = {"train": (SERIES[0], "-"), "valid": (SERIES[1], "--")}  # distinct without colour too


def search(trial: TrialRecords, path: Path) -> None:
    """Draw a search over its epochs, or over its candidates if it trains several."""
    rows = trial.search_history
    sampled = any("candidate" in row for row in rows)
    panels = [_candidate_curves(rows), _candidate_dots(rows)] if sampled else _search_panels(rows)
    figure(panels, f"Search: {trial.title}").save(path)


def retrain(trial: TrialRecords, path: Path) -> None:
    """Draw loss and accuracy of every retrained network over its epochs."""
    rows = trial.retrain_history
    panels = [
        _network_panel(rows, "train_loss", "Train loss, nats"),
        _network_panel(rows, "train_acc", "Train accuracy, %"),
    ]
    figure(panels, f"Retraining: {trial.title}").save(path)


def _search_panels(rows: History) -> list[Axes]:
    """Losses, accuracies and entropy, then the method's own columns, then the operations by cell type."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if _numeric(rows, name)]
    plain = [name for name in names if name not in NOT_FIGURES and not name.startswith("ops.")]
    paired = {f"{part}_{quantity}" for part in PARTS for quantity in PAIRS}
    panels = [
        _pair_panel(rows, quantity, title)
        for quantity, title in PAIRS.items()
        if any(f"{part}_{quantity}" in plain for part in PARTS)
    ]
    if "entropy" in plain:
        panels.append(_line_panel(rows, "entropy", "Architecture entropy, nats"))
    groups: dict[str, list[str]] = {}  # `ess.eps=0` and `ess.eps=0.3` are one quantity of several architectures
    for name in plain:
        if name not in paired and name != "entropy":
            groups.setdefault(name.partition(".")[0], []).append(name)
    panels += [_lines_panel(rows, members, TITLES.get(name) or _readable(name)) for name, members in groups.items()]
    cell_types = list(dict.fromkeys(name.split(".")[1] for name in names if name.startswith("ops.")))
    operations = _ordered({name.split(".", 2)[2] for name in names if name.startswith("ops.")})
    panels += [_ops_panel(rows, cell_type, operations) for cell_type in cell_types]
    if cell_types:
        keys = [(name, colour(operations, name)) for name in reversed(operations)]  # as stacked
        panels.append(Axes(keys=keys, keys_title="Operation"))
    return panels or [Axes(note="no results over epochs")]


def _readable(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _ordered(operations: set[str]) -> list[str]:
    """In the order of the palette, unknown operations last; the order of keys in the record does not matter."""
    return [name for name in OPS if name in operations] + sorted(operations - set(OPS))


def _numeric(rows: History, name: str) -> bool:
    return any(isinstance(row.get(name), int | float) for row in rows)


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """One column of every row; NaN where it is missing or null."""
    return [float(row[name]) if isinstance(row.get(name), int | float) else math.nan for row in rows]


def _epochs(title: str) -> Axes:
    # Records count epochs from 0, the log counts from 1.
    return Axes("Epoch", title, whole_x=True, shown=lambda epoch: f"{epoch + 1:.0f}")


def _add(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, **looks: Any) -> None:
    """A column as a line over all epochs, also those without a value; isolated values as dots."""
    epochs, values = _column(rows, "epoch"), _column(rows, name)
    axes.x_values += epochs
    axes.lines.append(Line(list(zip(epochs, values, strict=True)), **looks))
    if isolated := [(epochs[at], values[at]) for at in _isolated(values)]:
        axes.lines.append(_dots(isolated, looks["colour"]))


def _dots(points: Sequence[Point], shade: str, shape: str = "o", size: float = 5.0) -> Line:
    return Line(points, shade, width=0, marker=shape, size=size)


def _isolated(values: Sequence[float]) -> list[int]:
    """The points that a line hardly shows: those with a gap on either side, and all of one or two."""
    there = [not math.isnan(value) for value in [math.nan, *values, math.nan]]
    alone = [at for at in range(len(values)) if there[at + 1] and not (there[at] or there[at + 2])]
    return list(range(len(values))) if len(values) < 3 else alone


def _pair_panel(rows: History, quantity: str, title: str) -> Axes:
    axes = _epochs(title)
    for part, (shade, dash) in PARTS.items():
        if _numeric(rows, f"{part}_{quantity}"):
            _add(axes, rows, f"{part}_{quantity}", colour=shade, dash=dash, label=part)
    return axes


def _line_panel(rows: History, name: str, title: str) -> Axes:
    axes = _epochs(title)
    _add(axes, rows, name, colour=SERIES[2])
    return axes


def _lines_panel(rows: History, names: Sequence[str], title: str) -> Axes:
    """One quantity: a line, or a line for each name, labelled with what follows the first dot."""
    if len(names) == 1:
        return _line_panel(rows, names[0], title)
    axes = _epochs(title)
    for at, name in enumerate(names):
        looks = {"colour": SERIES[at % len(SERIES)], "dash": DASHES[at % len(DASHES)]}
        _add(axes, rows, name, label=name.partition(".")[2], **looks)
    return axes


def _ops_panel(rows: History, cell_type: str, operations: Sequence[str]) -> Axes:
    """A bar per epoch, stacked by operation, without gaps between the bars."""
    axes = _epochs(f"Edges of the {cell_type} cell" if cell_type != "cell" else "Edges of the cell")
    axes.x_margin = axes.y_margin = 0.0
    axes.y_low, axes.whole_y, axes.grid = 0.0, True, False
    epochs, base = _column(rows, "epoch"), [0.0] * len(rows)
    axes.x_values = [epochs[0] - 0.5, epochs[-1] + 0.5]
    for name in operations:
        for at, count in enumerate(_column(rows, f"ops.{cell_type}.{name}")):
            if count > 0:
                shade = colour(operations, name)
                axes.bars.append(Bar(epochs[at] - 0.5, epochs[at] + 0.5, base[at], base[at] + count, shade))
                base[at] += count
    return axes


def _by_candidate(rows: History) -> dict[int, list[Mapping[str, Any]]]:
    candidates: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        candidates.setdefault(int(row["candidate"]), []).append(row)
    return candidates


def _best(candidates: Mapping[int, Sequence[Mapping[str, Any]]]) -> int:
    """The first candidate with the highest accuracy at its last epoch."""
    return max(candidates, key=lambda index: (_accuracy(candidates[index][-1]), -index))


def _accuracy(row: Mapping[str, Any]) -> float:
    """`valid_acc` in percent; below every accuracy if absent."""
    value = row.get("valid_acc")
    return float(value) if value is not None else -1.0


def _candidate_curves(rows: History) -> Axes:
    axes, candidates = _epochs("Valid accuracy, %"), _by_candidate(rows)
    best = _best(candidates)
    for index, course in candidates.items():
        if index != best:
            _add(axes, course, "valid_acc", colour="#a9b1ba", width=1.2)
    _add(axes, candidates[best], "valid_acc", colour=SERIES[0], label=f"candidate {best}, the best")
    return axes


def _candidate_dots(rows: History) -> Axes:
    candidates = _by_candidate(rows)
    best = _best(candidates)
    axes = Axes("Candidate", "Last valid accuracy, %", whole_x=True, x_margin=0.08, y_margin=0.08)
    for index, course in candidates.items():
        shade, shape = (SERIES[0], "D") if index == best else ("#8b95a1", "o")
        axes.lines.append(_dots([(index, _column(course[-1:], "valid_acc")[0])], shade, shape, 7.0))
    return axes


def _network_panel(rows: History, name: str, title: str) -> Axes:
    """A colour per architecture, a dash pattern per retrain seed."""
    axes = _epochs(title)
    names = list(dict.fromkeys(str(row["architecture"]) for row in rows))
    seeds = list(dict.fromkeys(int(row["seed"]) for row in rows))
    for at, architecture in enumerate(names):
        for turn, seed in enumerate(seeds):
            course = [row for row in rows if (row["architecture"], row["seed"]) == (architecture, seed)]
            looks = {"colour": SERIES[at % len(SERIES)], "dash": DASHES[turn % len(DASHES)]}
            _add(axes, course, name, label=f"{architecture}, seed {seed}", **looks)
    return axes
