"""The whole view again, from the records: after a lost database, a clone, or a stage that ran without MLflow."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.records import content_id, file_sha256, read_json
from nas.tracking.names import histories

if TYPE_CHECKING:
    from nas.tracking.view import Trial

RECORDS = {  # stage -> its main record, in the order of the pipeline
    "search": "search.json",
    "derive": "architectures.json",
    "retrain": "retrain.json",
    "evaluate": "evaluate.json",
}


def record_files(folder: Path, stage: str) -> list[Path]:
    """Main record, history, metrics and cost of a stage, as far as they exist; none without the main record."""
    names = [RECORDS[stage], *(f"{stage}.{part}.json" for part in ("history", "metrics", "cost"))]
    found = [folder / name for name in names if (folder / name).is_file()]
    return found if found[:1] == [folder / RECORDS[stage]] else []


def record_digest(folder: Path, stage: str) -> str | None:
    """One hash over the content of these files; None when there is no record."""
    files = record_files(folder, stage)
    return content_id({path.name: file_sha256(path) for path in files}) if files else None


def rebuild(
    runs: Sequence[tuple[str, str, int]],
    folder: Path,
    params: Mapping[str, Mapping[str, Any]],
    root: Path,
    say: Callable[[str], None] = print,
) -> int:
    """Log every stage of `runs` (key, method, seed) whose records in `folder`/<key> the view does not show yet.

    Args:
        params: method -> the parameters that bear on its trials.
        say: gets a line per stage that has no record.

    Returns:
        the number of stage runs added; 0 when it is called a second time.

    Raises:
        TrackingError: there is no MLflow. RecordError: a record is damaged.
    """
    from nas.tracking.view import Trial, View

    view, added, keys = View(root), 0, [key for key, _, _ in runs]
    for key, method, _ in runs:
        digests = {stage: record_digest(folder / key, stage) for stage in RECORDS}
        for stage in (stage for stage, digest in digests.items() if digest is None):
            say(f"{key}: no record of {stage}, skipped")
        new = {stage: digest for stage, digest in digests.items() if digest and not view.shows(key, stage, digest)}
        if new:
            trial = Trial(view, key, params[method], {})
            for stage, digest in new.items():
                _show(trial, folder / key, stage, params[method], digest)
            show_done(trial, folder / key)
            drawn = sorted((root / "report" / "figures").glob(f"*{key}*"))
            trial.run.log_artifacts([path for path in drawn if owner(path.name, keys) == key], "figures")
        added += len(new)
    return added


def _show(trial: "Trial", folder: Path, stage: str, params: Mapping[str, Any], digest: str) -> None:
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


def show_done(trial: "Trial", folder: Path, before: str | None = None) -> None:
    """The trial's own figures and costs of all stages that have records, or of those before a stage: DVC runs none
    that is up to date, also where other parameters made the trial a new one."""
    for stage in RECORDS:
        if stage == before:
            return
        parts = (folder / f"{stage}.{part}.json" for part in ("metrics", "cost"))
        trial.show_stage(stage, *(read_json(path) if path.is_file() else {} for path in parts))


def owner(name: str, keys: Sequence[str]) -> str | None:
    """The key that a file name speaks of: `cell-lfr_darts-1.png` is neither of darts-1 nor of lfr_darts-10."""
    found = [key for key in keys if re.search(rf"{re.escape(key)}(?!\d)", name)]
    return max(found, key=len, default=None)
