"""Build the report: everything is written to a new folder, which is moved into place when it is complete."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nas.records import write_text
from nas.report import fronts, results_table, truth
from nas.report.collect import Run, Study, collect
from nas.report.figures import draw_study
from nas.report.page import page
from nas.report.results_table import Row, results_csv, results_metrics, summarise, table_csv
from nas.report.sheet import Sheet, latex, markdown


def build(runs: Sequence[Run], folder: Path, spec: Path, out: Path) -> list[dict[str, Any]]:
    """Write tables, figures and the page of the expected trials into `out`, and remove figures of earlier studies.

    Args:
        runs: (key, method, search seed) of every expected trial, in the order of the table.
        folder: the folder of the run folders.
        spec: the data record that `prepare` writes.
        out: folder of the report; other files in it are kept.

    Returns:
        The rows of the table, as in table.csv.

    Raises:
        RecordError: a record is missing, malformed or belongs to another trial.
    """
    study = collect(runs, folder, spec)
    rows = summarise(study)
    shown = sheets(study, rows)
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=".fresh-") as name:
        fresh = Path(name)
        (fresh / "figures").mkdir()
        draw_study(study, rows, fresh / "figures")
        texts = {
            **result_files(study, rows),
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
    """The first line in which the results on disk differ from the records; None if they match.

    Raises:
        RecordError: a record is missing, malformed or belongs to another trial.
    """
    study = collect(runs, folder, spec)
    for name, text in result_files(study, summarise(study)).items():
        path = out / name
        if not path.is_file():
            return f"{path}: no such file"
        pairs = zip_longest(path.read_text(encoding="utf-8").splitlines(), text.splitlines())
        for number, (actual, expected) in enumerate(pairs, start=1):
            if actual != expected:
                return f"{path}, line {number}: {actual!r}, expected {expected!r} by the records"
    return None


def sheets(study: Study, rows: Sequence[Row]) -> list[Sheet]:
    """The main table, then those of true accuracies and of fronts, each only if it has rows."""
    judged, several = truth.truths(study), fronts.fronts(study)
    return [
        *([results_table.sheet(study, rows)] if rows or not judged else []),
        *([truth.sheet(judged)] if judged else []),
        *([fronts.sheet(several)] if several else []),
    ]


def result_files(study: Study, rows: Sequence[Row]) -> dict[str, str]:
    """The files that hold no times and no devices: name -> content."""
    others = {f"true {one.label}": truth.metrics(one) for one in truth.truths(study)}
    others |= {f"front {one.label}": one.metrics for one in fronts.fronts(study)}
    return {"results.csv": results_csv(study), "results.metrics.json": results_metrics(rows, others)}


def _swap(fresh: Path, old: Path) -> None:
    """Replace a file or folder. A folder that is not empty cannot be replaced in one step, so it is renamed first."""
    if old.is_dir() and not old.is_symlink():
        aside = fresh.with_name(f"{fresh.name}.old")
        old.rename(aside)
        fresh.rename(old)
        shutil.rmtree(aside)
    else:
        fresh.replace(old)
