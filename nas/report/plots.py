"""Curves of a search and of its retrainings, and the front of all networks."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.report.collect import History, Study, Tested, Trial
from nas.report.style import DASHES, INK, MARKERS, OPS, PAPER, SERIES, SOFT, colour, grid, look, save, short
from nas.report.table import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOT_FIGURES = {
    "epoch",
    "lr",
    "candidate",
    "iteration",
    "search",
}  # of a search history: what the others are drawn over, or settings
TITLES = {  # of other figures than those of PAIRS; a name that is not here is told as it is
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
PARTS = {"train": (SERIES[0], "-"), "valid": (SERIES[1], "--")}  # told apart without colour too
Panel = Callable[["Axes"], None]


def search(trial: Trial, path_without_suffix: Path) -> None:
    """The course of a search over its epochs, as .svg and .png; candidate by candidate where the search has them."""
    with look():
        rows = trial.search_history
        sampled = any("candidate" in row for row in rows)
        panels = _candidate_panels(rows) if sampled else _search_panels(rows)
        save(_compose(panels, f"Search {trial.key}"), path_without_suffix)


def retrain(trial: Trial, path_without_suffix: Path) -> None:
    """Loss and accuracy of every retrained network over its epochs, as .svg and .png."""
    with look():
        rows = trial.retrain_history
        panels = [
            _network_panel(rows, "train_loss", "Train loss, nats"),
            _network_panel(rows, "train_acc", "Train accuracy, %"),
        ]
        save(_compose(panels, f"Retrain {trial.key}"), path_without_suffix)


QUANTITIES = {  # of a slimming point: key in the record -> what the row of panels is called
    "share": "p, share of alpha",
    "accuracy": "A, accuracy, %",
    "drawn": "F, draws",
    "indicator": "I, indicator",
}


def slimmed(trial: Trial) -> list[str]:
    """The cell types whose operations went one by one, if any."""
    return list(trial.slimming[0]["cells"]) if trial.slimming else []


def slimming(trial: Trial, kind: str, path_without_suffix: Path) -> None:
    """Why each operation went: a column per slimming point, a row per quantity, edges down, operations across.

    Every table has shades of its own, from its lowest value to its highest. A cross on what went; nothing where nothing
    was left.
    """
    with look():
        cells = [point["cells"][kind] for point in trial.slimming]
        names = [short(name) for name in trial.operations]
        width = len(names) + 1  # and a gap
        figure, axes = grid(len(QUANTITIES), 1, 1.6 * len(cells), 2.2)
        for place, (key, title) in zip(axes, QUANTITIES.items(), strict=True):
            tables = [_shades(cell, key) for cell in cells]
            side_by_side = [[value for row in rows for value in [*row, math.nan]] for rows in zip(*tables, strict=True)]
            place.imshow(side_by_side, aspect="auto", cmap="viridis", interpolation="nearest")
            crosses = [(at * width + op, e) for at, cell in enumerate(cells) for e, op in enumerate(cell["dropped"])]
            place.plot(*zip(*crosses, strict=True), "x", color="#d55e00", markersize=4, markeredgewidth=1.2)
            place.grid(False)
            place.spines[:].set_visible(False)
            place.set_ylabel(f"{title}\nedge", fontsize=9)
            place.set_yticks([0, len(side_by_side) - 1])
            place.set_xticks([])
        for at, point in enumerate(trial.slimming):
            axes[0].text(at * width - 0.5, -1, f"epoch {point['epoch'] + 1}", fontsize=9)
        ticks = [at * width + op for at in range(len(cells)) for op in range(width - 1)]
        axes[-1].set_xticks(ticks, names * len(cells), rotation=90, fontsize=6)
        figure.suptitle(f"Slimming {trial.key}, {kind} cell", fontsize=11, color=SOFT, ha="left", x=0.01)
        save(figure, path_without_suffix)


def _shades(cell: Mapping[str, Any], key: str) -> list[list[float]]:
    """A table of a slimming point scaled to 0 .. 1; NaN where an operation was gone, or its value unbounded."""
    table = [
        [float(value) if alive and value is not None else math.nan for value, alive in zip(*rows, strict=True)]
        for rows in zip(cell[key], cell["alive"], strict=True)
    ]
    values = [value for row in table for value in row if not math.isnan(value)]
    low, span = min(values, default=0.0), max(values, default=0.0) - min(values, default=0.0)
    return [[(value - low) / span if span else value - low for value in row] for row in table]


def front(study: Study, rows: Sequence[Row], path_without_suffix: Path) -> None:
    """Test error against parameters and multiply-adds: every network small, the mean of every row large."""
    with look():
        save(_front(study, rows), path_without_suffix)


def _compose(panels: Sequence[Panel], title: str) -> "Figure":
    columns = min(len(panels), 3)
    figure, axes = grid(-(-len(panels) // columns), columns)
    for panel, place in zip(panels, axes, strict=False):
        panel(place)
    for place in axes[len(panels) :]:
        place.set_axis_off()
    figure.suptitle(title, fontsize=11, color=SOFT, ha="left", x=0.01)
    return figure


def _search_panels(rows: History) -> list[Panel]:
    """Losses, accuracies and entropy first, then what else the method wrote down, then the operations by cell type."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if _numeric(rows, name)]
    plain = [name for name in names if name not in NOT_FIGURES and not name.startswith("ops.")]
    paired = {f"{part}_{figure}" for part in PARTS for figure in PAIRS}
    panels: list[Panel] = [
        _pair_panel(rows, figure, title)
        for figure, title in PAIRS.items()
        if any(f"{part}_{figure}" in plain for part in PARTS)
    ]
    if "entropy" in plain:
        panels.append(_line_panel(rows, "entropy", "Architecture entropy, nats"))
    others = [name for name in plain if name not in paired and name != "entropy"]
    groups: dict[str, list[str]] = {}  # `ess.eps=0` and `ess.eps=0.3` are the same figure of several things
    for name in others:
        groups.setdefault(name.partition(".")[0], []).append(name)
    panels += [_lines_panel(rows, found, TITLES.get(name) or _told(name)) for name, found in groups.items()]
    cell_types = list(dict.fromkeys(name.split(".")[1] for name in names if name.startswith("ops.")))
    operations = _ordered({name.split(".", 2)[2] for name in names if name.startswith("ops.")})
    panels += [_ops_panel(rows, cell_type, operations) for cell_type in cell_types]
    if cell_types:
        panels.append(_ops_legend(operations))
    return panels or [_empty_panel]


def _told(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _ordered(operations: set[str]) -> list[str]:
    """In the order of the palette, whatever the order of the keys in the record; unknown ones behind."""
    return [name for name in OPS if name in operations] + sorted(operations - set(OPS))


def _candidate_panels(rows: History) -> list[Panel]:
    return [_candidate_curves(rows), _candidate_dots(rows)]


def _numeric(rows: History, name: str) -> bool:
    return any(isinstance(row.get(name), int | float) for row in rows)


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """One figure of every row; a gap (NaN) where it is missing or null."""
    return [float(row[name]) if isinstance(row.get(name), int | float) else float("nan") for row in rows]


def _epochs(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="Epoch", ylabel=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda epoch, _: f"{epoch + 1:.0f}")  # records count from 0, the log from 1


def _line(axes: "Axes", rows: Sequence[Mapping[str, Any]], name: str, **looks: Any) -> None:
    epochs, values = _column(rows, "epoch"), _column(rows, name)
    (line,) = axes.plot(epochs, values, **looks)
    lonely = _lonely(values)
    axes.plot([epochs[at] for at in lonely], [values[at] for at in lonely], "o", color=line.get_color())
    axes.dataLim.update_from_data_x(epochs, ignore=False)  # all epochs, also those without this figure
    axes.autoscale_view()


def _lonely(values: Sequence[float]) -> list[int]:
    """The points that a line hardly shows: with a gap on either side, and those of a very short course."""
    there = [not math.isnan(value) for value in [math.nan, *values, math.nan]]
    alone = [at for at in range(len(values)) if there[at + 1] and not (there[at] or there[at + 2])]
    return list(range(len(values))) if len(values) < 3 else alone


def _pair_panel(rows: History, figure: str, title: str) -> Panel:
    def panel(axes: "Axes") -> None:
        for part, (shade, dash) in PARTS.items():
            if _numeric(rows, f"{part}_{figure}"):
                _line(axes, rows, f"{part}_{figure}", color=shade, linestyle=dash, label=part)
        _epochs(axes, title)
        axes.legend()

    return panel


def _line_panel(rows: History, name: str, title: str) -> Panel:
    def panel(axes: "Axes") -> None:
        _line(axes, rows, name, color=SERIES[2])
        _epochs(axes, title)

    return panel


def _lines_panel(rows: History, names: Sequence[str], title: str) -> Panel:
    """One figure, or several of the same kind that are told apart by what stands behind the first dot."""
    if len(names) == 1:
        return _line_panel(rows, names[0], title)

    def panel(axes: "Axes") -> None:
        for at, name in enumerate(names):
            looks = {"color": SERIES[at % len(SERIES)], "linestyle": DASHES[at % len(DASHES)]}
            _line(axes, rows, name, label=name.partition(".")[2], **looks)
        _epochs(axes, title)
        axes.legend()

    return panel


def _ops_panel(rows: History, cell_type: str, operations: Sequence[str]) -> Panel:
    """One bar per epoch, stacked by operation, without gaps between the bars."""

    def panel(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        present = [name for name in operations if _numeric(rows, f"ops.{cell_type}.{name}")]
        epochs, base = _column(rows, "epoch"), [0.0] * len(rows)
        borders = [epochs[0] - 0.5, *(epoch + 0.5 for epoch in epochs)]
        for name in present:
            heights = [0.0 if value != value else value for value in _column(rows, f"ops.{cell_type}.{name}")]
            tops = [low + height for low, height in zip(base, heights, strict=True)]
            axes.stairs(tops, borders, baseline=base, fill=True, color=colour(operations, name), linewidth=0)
            base = tops
        _epochs(axes, f"Edges of the {cell_type} cell" if cell_type != "cell" else "Edges of the cell")
        axes.grid(False)
        axes.margins(x=0)
        axes.set_ylim(0, max(base))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    return panel


def _ops_legend(operations: Sequence[str]) -> Panel:
    def panel(axes: "Axes") -> None:
        from matplotlib.patches import Patch

        axes.set_axis_off()
        patches = [Patch(color=colour(operations, name), label=name) for name in reversed(operations)]  # as stacked
        axes.legend(handles=patches, loc="center left", title="Operation", alignment="left", fontsize=10)

    return panel


def _empty_panel(axes: "Axes") -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "no figures over epochs", ha="center", color=SOFT)


def _by_candidate(rows: History) -> dict[int, list[Mapping[str, Any]]]:
    candidates: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        candidates.setdefault(int(row["candidate"]), []).append(row)
    return candidates


def _best(candidates: Mapping[int, Sequence[Mapping[str, Any]]]) -> int:
    """The first candidate with the highest accuracy at its last epoch."""
    return max(candidates, key=lambda index: (row_accuracy(candidates[index][-1]), -index))


def row_accuracy(row: Mapping[str, Any]) -> float:
    """`valid_acc` in percent; below every accuracy when there is none."""
    value = row.get("valid_acc")
    return float(value) if value is not None else -1.0


def _candidate_curves(rows: History) -> Panel:
    def panel(axes: "Axes") -> None:
        candidates = _by_candidate(rows)
        best = _best(candidates)
        for index, course in candidates.items():
            if index != best:
                _line(axes, course, "valid_acc", color="#a9b1ba", linewidth=1.2)
        _line(axes, candidates[best], "valid_acc", color=SERIES[0], label=f"candidate {best}, the best")
        _epochs(axes, "Valid accuracy, %")
        axes.legend(loc="lower right")

    return panel


def _candidate_dots(rows: History) -> Panel:
    def panel(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        candidates = _by_candidate(rows)
        best = _best(candidates)
        for index, course in candidates.items():
            shade, marker = (SERIES[0], "D") if index == best else ("#8b95a1", "o")
            axes.plot([index], _column(course[-1:], "valid_acc"), marker, color=shade, markersize=7)
        axes.set(xlabel="Candidate", ylabel="Last valid accuracy, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(0.08)

    return panel


def _network_panel(rows: History, name: str, title: str) -> Panel:
    """A colour per architecture, a dash pattern per retrain seed."""

    def panel(axes: "Axes") -> None:
        names = list(dict.fromkeys(str(row["architecture"]) for row in rows))
        seeds = list(dict.fromkeys(int(row["seed"]) for row in rows))
        for at, architecture in enumerate(names):
            for turn, seed in enumerate(seeds):
                course = [row for row in rows if (row["architecture"], row["seed"]) == (architecture, seed)]
                looks = {"color": SERIES[at % len(SERIES)], "linestyle": DASHES[turn % len(DASHES)]}
                _line(axes, course, name, label=f"{architecture}, seed {seed}", **looks)
        _epochs(axes, title)
        axes.legend()

    return panel


def _joined(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """(method, control) -> its rows by growing eps, where it has several."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted((row for row in rows if row.eps is not None), key=lambda row: row.eps or 0.0):
        groups.setdefault((row.method, row.control), []).append(row)
    return {key: members for key, members in groups.items() if len(members) > 1}


def _names(rows: Sequence[Row]) -> list[str]:
    """What stands at each mean; of rows that are joined the rest is in the legend."""
    groups = _joined(rows)
    return [f"{row.eps:g}" if (row.method, row.control) in groups else row.label for row in rows]


SIZES: dict[str, tuple[Callable[[Tested], float], Callable[[Row], float]]] = {  # of a network, of the mean of a row
    "Parameters, millions": (lambda tested: tested.params_m, lambda row: row.params_m),
    "Multiply-adds, millions": (lambda tested: tested.macs_m, lambda row: row.macs_m),
}


def _front(study: Study, rows: Sequence[Row]) -> "Figure":
    figure, panels = grid(1, 2, 6.4, 4.6)
    methods = list(dict.fromkeys(row.method for row in rows))
    looks = {name: (SERIES[at % 7], MARKERS[at % 7]) for at, name in enumerate(methods)}
    for axes, (title, (of_one, of_row)) in zip(panels, SIZES.items(), strict=True):
        _networks(axes, study, looks, of_one)
        _means(axes, rows, looks, of_row)
        axes.set(xlabel=title, ylabel=f"Test error, % of {study.images} images")
        axes.margins(0.12)
        if _joined(rows):
            axes.legend()
    figure.draw_without_rendering()  # settles the layout, so that the labels can look for free places
    for axes, (of_one, of_row) in zip(panels, SIZES.values(), strict=True):
        dots = [(of_one(tested), tested.test_error) for trial in study.trials for tested in trial.results]
        _label_means(axes, dots, rows, of_row, {name: shade for name, (shade, _) in looks.items()})
    return figure


def _networks(
    axes: "Axes", study: Study, looks: Mapping[str, tuple[str, str]], size: Callable[[Tested], float]
) -> None:
    """Every network as a small mark, hollow where it is a control."""
    for trial in study.trials:
        shade, marker = looks[trial.method]
        controls = {found.name for found in trial.found if found.control}
        for hollow in (False, True):
            dots = [(size(one), one.test_error) for one in trial.results if (one.name in controls) == hollow]
            if dots:
                _dots(axes, dots, marker, shade, hollow, markersize=4.5, alpha=0.55)


def _dots(axes: "Axes", dots: Sequence[tuple[float, float]], marker: str, shade: str, hollow: bool, **k: Any) -> None:
    face = "none" if hollow else shade
    axes.plot(*zip(*dots, strict=True), marker, color=shade, markerfacecolor=face, markeredgewidth=float(hollow), **k)


def _means(
    axes: "Axes", rows: Sequence[Row], looks: Mapping[str, tuple[str, str]], size: Callable[[Row], float]
) -> None:
    """The mean of every row with its deviation; what one search found at several complexities is joined by a line."""
    for (method, control), members in _joined(rows).items():
        shade, marker = looks[method]
        course = [(size(row), row.test_error_mean) for row in members]
        looks_of_line: dict[str, Any] = {
            "color": shade,
            "linestyle": "--" if control else "-",
            "linewidth": 1,
            "markerfacecolor": PAPER if control else shade,
            "label": f"{method} {control}".strip() + ", by eps",
        }
        axes.plot(*zip(*course, strict=True), marker, **looks_of_line)
    for row in rows:
        shade, marker = looks[row.method]
        looks_of_mean: dict[str, Any] = {
            "color": shade,
            "markersize": 9,
            "markeredgecolor": shade if row.control else PAPER,
            "markerfacecolor": PAPER if row.control else shade,
            "capsize": 4,
            "elinewidth": 1.4,
        }
        axes.errorbar(size(row), row.test_error_mean, row.test_error_std, fmt=marker, **looks_of_mean)


def _label_means(
    axes: "Axes",
    networks: Sequence[tuple[float, float]],
    rows: Sequence[Row],
    size: Callable[[Row], float],
    shades: Mapping[str, str],
) -> None:
    """Each label at the first of several places around its mean that covers least of what is there."""
    from matplotlib.transforms import Bbox

    to_pixels = axes.transData.transform
    dots = [to_pixels(network) for network in networks]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in dots]
    for row in rows:
        std = row.test_error_std or 0.0
        ends = [to_pixels((size(row), row.test_error_mean + side * std)) for side in (-1, 1)]
        taken.append(Bbox.from_extents(ends[0][0] - 6, ends[0][1] - 7, ends[1][0] + 6, ends[1][1] + 7))
    frame = axes.get_window_extent()
    for row, name in zip(rows, _names(rows), strict=True):
        tries = []
        for turn, (dx, dy, ha, va) in enumerate(_PLACES):
            text = axes.annotate(name, (size(row), row.test_error_mean), (dx, dy), textcoords="offset points",
                                 ha=ha, va=va, fontsize=10, color=INK)  # fmt: skip
            extent = text.get_window_extent()
            outside = extent.x0 < frame.x0 or extent.x1 > frame.x1 or extent.y0 < frame.y0 or extent.y1 > frame.y1
            covered = sum(extent.overlaps(box) for box in taken)
            tries.append((covered + 2 * outside, turn, text, extent))
        tries.sort(key=lambda entry: entry[:2])
        _, _, chosen, extent = tries[0]
        for _, _, text, _ in tries[1:]:
            text.remove()
        taken.append(extent)
        chosen.set_color(shades[row.method])
        chosen.set_fontweight("bold")


_PLACES = (
    (10, 0, "left", "center"),
    (-10, 0, "right", "center"),
    (8, 8, "left", "bottom"),
    (8, -8, "left", "top"),
    (-8, 8, "right", "bottom"),
    (-8, -8, "right", "top"),
    (10, 22, "left", "bottom"),
    (10, -22, "left", "top"),
    (-10, 22, "right", "bottom"),
    (-10, -22, "right", "top"),
)
