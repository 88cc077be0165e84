"""The project's experiment, trials and stage runs in MLflow.

There is one experiment per project, a parent run per trial and a child run per stage execution. Runs are looked up by
tags; no run id is stored. Only MlflowClient is used, as the fluent API keeps state per process. MLflow is imported when
a View is created.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from nas.config.params import parse_run_key
from nas.records import content_id
from nas.tracking.names import epoch_metrics, figures, flat, legal, numbers

SQLITE = "sqlite:///"
DEFAULTS = {  # the user's own setting wins
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds
}
METRICS, PARAMS = 1000, 100  # the most that MLflow accepts per call
SHARED = ("git.commit", "dvc.exp")  # tags of the last stage that ran, copied to its trial


class TrackingError(ValueError):
    """The view cannot be opened. The message says what to do."""


def home(root: Path) -> Path:
    """Folder of the database and the artifacts: the main repository, also under `dvc exp run --temp`."""
    return Path(os.environ.get("DVC_ROOT", root)).resolve()


def tracking_uri(root: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{home(root) / 'mlflow.db'}"


def execution_lock(root: Path, *execution: str) -> Path:
    """The lock that serialises the writers of one (key, stage, fingerprint)."""
    return home(root) / ".nas" / "tracking" / f"{content_id(execution)}.lock"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file lock. The kernel releases it if the process dies; the empty file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def connect(uri: str, lock: Path) -> Any:
    """A client for `uri`. A missing or outdated SQLite database is built in a temporary file and moved into place, so
    that neither a race nor a kill leaves a half-made one."""
    path = Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None
    if path is not None and not path.exists():
        with locked(lock):
            if not path.exists():
                _make(path)
    try:
        return _open(uri)
    except Exception as error:
        if path is None or "out-of-date database schema" not in str(error):
            raise
    with locked(lock):
        _upgrade(path)
    return _open(uri)


def _open(uri: str) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    client.search_experiments(max_results=1)  # the first call makes, or checks, the tables
    return client


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)  # left by a killed process
    _open(f"{SQLITE}{beside}")
    os.replace(beside, path)


def _upgrade(path: Path) -> None:
    beside = path.with_name(path.name + ".new")
    shutil.copyfile(path, beside)
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"{SQLITE}{beside}"]
    subprocess.run(command, check=True, capture_output=True)
    os.replace(beside, path)


class View:
    """The experiment MLFLOW_EXPERIMENT_NAME (default: nas) at MLFLOW_TRACKING_URI (default: <home>/mlflow.db)."""

    def __init__(self, root: Path) -> None:
        """Raises TrackingError if MLflow is not installed, and MLflow's own errors if no database or server answers."""
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        self.root, self.uri = root, tracking_uri(root)
        self.lock = home(root) / ".nas" / "mlflow.lock"
        try:
            self.client = connect(self.uri, self.lock)
        except ModuleNotFoundError as error:
            raise TrackingError(
                f"{error}; run `make setup`, or pip install '.[pipeline]' in the project's folder"
            ) from None
        with self.alone():
            self.experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or "nas")

    def alone(self) -> Any:
        """A lock for "find or create", so that two processes do not both create."""
        return locked(self.lock)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # A server chooses where artifacts go. For a local database the default would be the working folder.
        place = (home(self.root) / "mlartifacts").as_uri() if self.uri.startswith(SQLITE) else None
        return str(self.client.create_experiment(name, artifact_location=place))

    def find(self, tags: Mapping[str, str]) -> Any:
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self.client.search_runs([self.experiment], wanted, max_results=1, order_by=["start_time DESC"])
        return found[0] if found else None

    def shows(self, key: str, stage: str, digest: str) -> bool:
        """Whether some run holds exactly these records, logged live or rebuilt."""
        return self.find({"nas.key": key, "nas.stage": stage, "nas.records": digest}) is not None

    def run(
        self, name: str, identity: Mapping[str, str], tags: Mapping[str, str], once: Mapping[str, str] | None = None
    ) -> "RunView":
        """The run with the tags `identity`, set to RUNNING; or a new run, which also gets the tags `once`."""
        with self.alone():
            found = self.find(identity)
            if found is None:
                made = self.client.create_run(self.experiment, tags={**tags, **(once or {}), **identity}, run_name=name)
                return RunView(self.client, made)
        self.client.update_run(found.info.run_id, status="RUNNING")
        opened = RunView(self.client, found)
        opened.set_tags(tags)
        return opened


class RunView:
    """One run. Values that it already holds are not logged again."""

    def __init__(self, client: Any, run: Any) -> None:
        self.client, self.id = client, str(run.info.run_id)
        self._params = set(run.data.params)
        self._latest: dict[str, float] = dict(run.data.metrics)
        self._steps: dict[str, int] = {}

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.id, tags=[RunTag(legal(name), str(value)) for name, value in tags.items()])

    def log_params(self, tree: Mapping[str, Any]) -> None:
        """Log parameters. MLflow's are immutable, so those that the run already has are skipped."""
        from mlflow.entities import Param

        new = {name: value for name, value in flat(tree).items() if name not in self._params}
        for part in parts([Param(name, str(value)) for name, value in new.items()], PARAMS):
            self.client.log_batch(self.id, params=part)
        self._params |= set(new)

    def log_series(self, points: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Log (step, values) in ascending order. Points at or below the last step of a name are skipped."""
        from mlflow.entities import Metric

        now, new = int(time.time() * 1000), []
        for step, values in points:
            for name, value in values.items():
                if step > self.last_step(name):
                    new.append(Metric(name, value, now, step))
                    self._steps[name], self._latest[name] = step, value
        for part in parts(new, METRICS):
            self.client.log_batch(self.id, metrics=part)

    def log_values(self, values: Mapping[str, float]) -> None:
        """Log values that have no step: each one that differs from the latest is appended."""
        changed = {name: value for name, value in values.items() if self._latest.get(name) != value}
        self.log_series((self.last_step(name) + 1, {name: value}) for name, value in changed.items())

    def last_step(self, name: str) -> int:
        if name not in self._steps:
            history = self.client.get_metric_history(self.id, name) if name in self._latest else []
            self._steps[name] = max((point.step for point in history), default=-1)
        return self._steps[name]

    def log_artifacts(self, paths: Iterable[Path], folder: str | None = None) -> None:
        for path in paths:
            if path.is_dir():
                self.client.log_artifacts(self.id, str(path), folder)
            elif path.is_file():
                self.client.log_artifact(self.id, str(path), folder)

    def end(self, status: str) -> None:
        self.client.set_terminated(self.id, status)


class TrialRun:
    """The parent run of one run key under one protocol: the row by which MLflow's table compares trials.

    `params` are the parameters that the trial depends on. The same key with other parameters is another trial, so
    presets and experiments get rows of their own.
    """

    def __init__(self, view: View, key: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self.view, self.key = view, key
        own = {"nas.key": key, "nas.role": "trial", "nas.protocol": content_id(params)}
        self.run = view.run(key, own, {name: tags[name] for name in SHARED if name in tags})
        method, seed = parse_run_key(key)
        self.run.log_params({"method": method, "seed": seed, **params})

    def show_stage(self, stage: str, metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> None:
        """Show the figures and costs of a stage, from its records, on the trial's run."""
        prefix = "" if stage == "evaluate" else f"{stage}."  # the figures of evaluate are the trial's result
        self.run.log_values({prefix + name: value for name, value in figures(metrics).items()})
        self.run.log_values(numbers(flat(cost, f"cost.{stage}.")))

    def stage(self, stage: str, tags: Mapping[str, str], identity: str = "nas.fingerprint") -> "StageView":
        """The child run of this stage whose tag `identity` has the value in `tags`."""
        own = {"nas.key": self.key, "nas.stage": stage, "nas.role": "stage", identity: tags[identity]}
        run = self.view.run(f"{stage} {self.key}", own, tags, {"mlflow.parentRunId": self.run.id})
        return StageView(self, stage, run)


class StageView:
    """The child run of one stage execution. Its figures and costs are also shown on the parent."""

    def __init__(self, trial: TrialRun, stage: str, run: RunView) -> None:
        self.trial, self.stage, self.run = trial, stage, run

    def log_epoch(self, row: Mapping[str, Any], step: int) -> None:
        self.run.log_series([(step, epoch_metrics(row))])

    def log_figures(self, metrics: Mapping[str, Any]) -> None:
        self.run.log_values(figures(metrics))
        self.trial.show_stage(self.stage, metrics, {})

    def log_cost(self, cost: Mapping[str, Any]) -> None:
        values = flat(cost, "cost.")
        measured = numbers(values)
        self.run.log_values(measured)
        self.run.set_tags({name: str(value) for name, value in values.items() if name not in measured})
        self.trial.show_stage(self.stage, {}, cost)

    def end(self, status: str, digest: str | None) -> None:
        """End both runs. `digest` marks a run that holds all records of its stage."""
        if digest is not None:
            self.run.set_tags({"nas.records": digest})
        self.run.end(status)
        self.trial.run.end(status)


def parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def surroundings(root: Path) -> dict[str, str]:
    """Tags for the commit, the DVC stage and experiment, and the checksums of the prepared data, as far as known."""
    known = {"dvc.stage": os.environ.get("DVC_STAGE"), "dvc.exp": os.environ.get("DVC_EXP_NAME")}
    found = {"git.commit": git_commit(root), **known}
    return {**{name: value for name, value in found.items() if value}, **data_checksums(root)}


def git_commit(root: Path) -> str | None:
    with suppress(OSError):
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
        return asked.stdout.strip() if asked.returncode == 0 else None
    return None


def data_checksums(root: Path) -> dict[str, str]:
    """`data.md5.<file>`: the checksums of the outputs of `prepare` in dvc.lock."""
    with suppress(OSError, yaml.YAMLError, KeyError, TypeError):
        text = (root / "dvc.lock").read_text()
        block = re.search(r"^  prepare:\n(?:   .*\n)+", text, re.MULTILINE)  # parsing the whole file takes seconds
        outs = yaml.safe_load(block[0])["prepare"]["outs"] if block else []
        return {f"data.md5.{Path(out['path']).name}": str(out["md5"]) for out in outs}
    return {}
