"""Rebuilds the view from the records: after losing the database, in a clone, or for stages that ran without MLflow."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.records import content_id, file_sha256, read_json
from nas.tracking.names import histories

if TYPE_CHECKING:
    from nas.tracking.view import TrialRun

RECORDS = {  # stage -> its main record, in the order of the pipeline
    "search": "search.json",
    "derive": "architectures.json",
    "retrain": "retrain.json",
    "evaluate": "evaluate.json",
}


def record_files(folder: Path, stage: str) -> list[Path]:
    """The existing files of a stage: main record, history, metrics, cost. Empty without the main record."""
    names = [RECORDS[stage], *(f"{stage}.{part}.json" for part in ("history", "metrics", "cost"))]
    found = [folder / name for name in names if (folder / name).is_file()]
    return found if found[:1] == [folder / RECORDS[stage]] else []


def record_digest(folder: Path, stage: str) -> str | None:
    """One hash over the content of these files; None if the stage has no record."""
    files = record_files(folder, stage)
    return content_id({path.name: file_sha256(path) for path in files}) if files else None


def rebuild(
    runs: Sequence[tuple[str, str, int]],
    folder: Path,
    params: Mapping[str, Mapping[str, Any]],
    root: Path,
    say: Callable[[str], None] = print,
) -> int:
    """Log each stage of `runs` (key, method, seed) whose records in `folder`/<key> are not in the view yet.

    Args:
        params: method -> the parameters that its trials depend on.
        say: called with one line per stage that has no record.

    Returns:
        The number of stage runs added. A second call adds none.

    Raises:
        TrackingError: MLflow is not installed.
        RecordError: a record is damaged.
    """
    from nas.tracking.view import TrialRun, View

    view, added, keys = View(root), 0, [key for key, _, _ in runs]
    for key, method, _ in runs:
        digests = {stage: record_digest(folder / key, stage) for stage in RECORDS}
        for stage in (stage for stage, digest in digests.items() if digest is None):
            say(f"{key}: skipped {stage}, which has no record")
        new = {stage: digest for stage, digest in digests.items() if digest and not view.shows(key, stage, digest)}
        if new:
            trial = TrialRun(view, key, params[method], {})
            for stage, digest in new.items():
                _show(trial, folder / key, stage, params[method], digest)
            show_done(trial, folder / key)
            drawn = sorted((root / "report" / "figures").glob(f"*{key}*"))
            trial.run.log_artifacts([path for path in drawn if owner(path.name, keys) == key], "figures")
        added += len(new)
    return added


def _show(trial: "TrialRun", folder: Path, stage: str, params: Mapping[str, Any], digest: str) -> None:
    shown = trial.stage(stage, {"nas.records": digest, "nas.rebuilt": "true"}, identity="nas.records")
    shown.run.log_params(params)
    files = {path.name: path for path in record_files(folder, stage)}
    if history := files.get(f"{stage}.history.json"):
        shown.run.log_series(histories(read_json(history)))
    if metrics := files.get(f"{stage}.metrics.json"):
        shown.log_figures(read_json(metrics))
    if cost := files.get(f"{stage}.cost.json"):
        shown.log_cost(read_json(cost))
    if stage == "derive":
        shown.run.log_artifacts([files[RECORDS["derive"]]])
    shown.end("FINISHED", digest)


def show_done(trial: "TrialRun", folder: Path, before: str | None = None) -> None:
    """Show the figures and costs of all recorded stages on the trial's run, or of those before a given stage.

    DVC does not run stages that are up to date, even if changed parameters made this a new trial.
    """
    for stage in RECORDS:
        if stage == before:
            return
        parts = (folder / f"{stage}.{part}.json" for part in ("metrics", "cost"))
        trial.show_stage(stage, *(read_json(path) if path.is_file() else {} for path in parts))


def owner(name: str, keys: Sequence[str]) -> str | None:
    """The key in a file name: `cell-lfr_darts-1.png` belongs to lfr_darts-1, not to darts-1 or lfr_darts-10."""
    found = [key for key in keys if re.search(rf"{re.escape(key)}(?!\d)", name)]
    return max(found, key=len, default=None)
