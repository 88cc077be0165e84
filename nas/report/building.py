"""From records to files: everything is made in a fresh folder and moved into place when all of it is there."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nas.architectures.channel import ChannelArchitecture
from nas.records import write_text
from nas.report import channels, drawing, fronts, plots, table, truth
from nas.report.collect import Run, Study, collect
from nas.report.page import cell_name, channels_name, page
from nas.report.sheet import Sheet, latex, markdown
from nas.report.table import Row, results_csv, results_metrics, summarise, table_csv


def build(runs: Sequence[Run], folder: Path, spec: Path, out: Path) -> list[dict[str, Any]]:
    """Write tables, figures and the page of the expected trials into `out`; a figure of an earlier study goes.

    Args:
        runs: (key, method, search seed) of every expected trial, in the order of the table.
        folder: the folder of the run folders.
        spec: the data record that `prepare` writes.
        out: folder of the report; what else lies in it stays.

    Returns:
        The rows of the table, as table.csv has them.

    Raises:
        RecordError: a record is missing, malformed or belongs to another trial.
    """
    study = collect(runs, folder, spec)
    rows = summarise(study)
    shown = sheets(study, rows)
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=".fresh-") as name:
        fresh = Path(name)
        _draw(study, rows, fresh / "figures")
        texts = {
            **_repeatable(study, rows),
            "table.md": markdown(shown),
            "table.csv": table_csv(rows),
            "table.tex": latex(shown),
            "index.html": page(study, rows, shown, fresh / "figures"),
        }
        for file, text in texts.items():
            write_text(fresh / file, text)
        for file in ("figures", *texts):
            _swap(fresh / file, out / file)
    return [asdict(row) for row in rows]


def difference(runs: Sequence[Run], folder: Path, spec: Path, out: Path) -> str | None:
    """The first line in which the results on disk are not those of the records; None when there is none.

    Raises:
        RecordError: a record is missing, malformed or belongs to another trial.
    """
    study = collect(runs, folder, spec)
    for name, text in _repeatable(study, summarise(study)).items():
        path = out / name
        if not path.is_file():
            return f"{path}: no such file"
        pairs = zip_longest(path.read_text(encoding="utf-8").splitlines(), text.splitlines())
        for number, (found, expected) in enumerate(pairs, start=1):
            if found != expected:
                return f"{path}, line {number}: found {found!r}, the records give {expected!r}"
    return None


def sheets(study: Study, rows: Sequence[Row]) -> list[Sheet]:
    """The table of all rows; of true figures, where a table of cells was named; of fronts, where there are some."""
    judged, found = truth.truths(study), fronts.fronts(study)
    return [
        *([table.sheet(study, rows)] if rows or not judged else []),
        *([truth.sheet(judged)] if judged else []),
        *([fronts.sheet(found)] if found else []),
    ]


def _repeatable(study: Study, rows: Sequence[Row]) -> dict[str, str]:
    """The files that hold no clock and no device."""
    others = {f"true {one.label}": truth.metrics(one) for one in truth.truths(study)}
    others |= {f"front {one.label}": one.metrics for one in fronts.fronts(study)}
    return {"results.csv": results_csv(study), "results.metrics.json": results_metrics(rows, others)}


def _draw(study: Study, rows: Sequence[Row], figures: Path) -> None:
    figures.mkdir()
    if rows:
        plots.front(study, rows, figures / "front")
    truth.curves(study, figures / "regret")
    for trial in study.trials:
        if trial.search_history:
            plots.search(trial, figures / f"search-{trial.key}")
        if trial.results:
            plots.retrain(trial, figures / f"retrain-{trial.key}")
        for kind in plots.slimmed(trial):
            plots.slimming(trial, kind, figures / f"slimming-{trial.key}-{kind}")
        for found in trial.found:
            several = f", {found.name}" if len(trial.found) > 1 else ""
            if isinstance(found.parsed, ChannelArchitecture):
                channels.kept(found.parsed, f"{trial.key}{several}", figures / channels_name(trial, found))
            for name, graphs in found.parsed.sheets().items():
                kind = name if name == "cell" else f"{name} {'cells' if len(graphs) > 1 else 'cell'}"
                title = f"{trial.key}{several}: {kind}"
                drawing.draw(graphs, figures / cell_name(trial, found, name), title)


def _swap(fresh: Path, old: Path) -> None:
    """A folder cannot be replaced by one that holds something, so the old one makes room first."""
    if old.is_dir() and not old.is_symlink():
        aside = fresh.with_name(f"{fresh.name}.old")
        old.rename(aside)
        fresh.rename(old)
        shutil.rmtree(aside)
    else:
        fresh.replace(old)
