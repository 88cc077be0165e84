"""Experiment, trials and stage runs in MLflow, by MlflowClient alone: the fluent API keeps state per process.

One experiment per project, a parent run per trial, a child run per stage execution. Runs are found again by their
tags; no run id is kept anywhere. MLflow is imported here, when a View is made.
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
METRICS, PARAMS = 1000, 100  # most that MLflow takes in one call
SHARED = ("git.commit", "dvc.exp")  # tags of a stage that its trial has, too: those of the last one that ran


class TrackingError(ValueError):
    """The view cannot be opened; the message says what to do."""


def home(root: Path) -> Path:
    """Folder of the database and the artefacts: under `dvc exp run --temp` the main repository, not the copy."""
    return Path(os.environ.get("DVC_ROOT", root)).resolve()


def tracking_uri(root: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{home(root) / 'mlflow.db'}"


def execution_lock(root: Path, *execution: str) -> Path:
    """Of one (key, stage, fingerprint): its writers come one after the other."""
    return home(root) / ".nas" / "tracking" / f"{content_id(execution)}.lock"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time; the kernel frees the lock of one that dies, and the empty file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def connect(uri: str, lock: Path) -> Any:
    """A client of `uri`. A missing or outdated SQLite database is made beside and moved into place, so that neither
    a race nor a kill leaves a half-made one."""
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
    beside.unlink(missing_ok=True)  # of one that was killed
    _open(f"{SQLITE}{beside}")
    os.replace(beside, path)


def _upgrade(path: Path) -> None:
    beside = path.with_name(path.name + ".new")
    shutil.copyfile(path, beside)
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"{SQLITE}{beside}"]
    subprocess.run(command, check=True, capture_output=True)
    os.replace(beside, path)


class View:
    """The project's experiment: MLFLOW_EXPERIMENT_NAME, else `nas`, in MLFLOW_TRACKING_URI, else <home>/mlflow.db."""

    def __init__(self, root: Path) -> None:
        """Raises TrackingError without MLflow, and MLflow's errors when there is no database or server to talk to."""
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
        """For "find, else make": without it two processes both find nothing."""
        return locked(self.lock)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # A server keeps artefacts where it likes; beside a local database we say where, or it is the working folder.
        place = (home(self.root) / "mlartifacts").as_uri() if self.uri.startswith(SQLITE) else None
        return str(self.client.create_experiment(name, artifact_location=place))

    def find(self, tags: Mapping[str, str]) -> Any:
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self.client.search_runs([self.experiment], wanted, max_results=1, order_by=["start_time DESC"])
        return found[0] if found else None

    def shows(self, key: str, stage: str, digest: str) -> bool:
        """Whether a run holds all of these records, logged live or rebuilt."""
        return self.find({"nas.key": key, "nas.stage": stage, "nas.records": digest}) is not None

    def run(
        self, name: str, identity: Mapping[str, str], tags: Mapping[str, str], once: Mapping[str, str] | None = None
    ) -> "RunView":
        """The run with the tags of `identity`, RUNNING again; if there is none a new one, with those of `once` too."""
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
    """One run: what it holds already is not logged again."""

    def __init__(self, client: Any, run: Any) -> None:
        self.client, self.id = client, str(run.info.run_id)
        self._params = set(run.data.params)
        self._latest: dict[str, float] = dict(run.data.metrics)
        self._steps: dict[str, int] = {}

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.id, tags=[RunTag(legal(name), str(value)) for name, value in tags.items()])

    def log_params(self, tree: Mapping[str, Any]) -> None:
        """MLflow's parameters never change: those that the run has stay as they are."""
        from mlflow.entities import Param

        new = {name: value for name, value in flat(tree).items() if name not in self._params}
        for part in parts([Param(name, str(value)) for name, value in new.items()], PARAMS):
            self.client.log_batch(self.id, params=part)
        self._params |= set(new)

    def log_series(self, points: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """(step, values) in rising order; points at or below the last step of a name are passed over."""
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
        """Values without a step: each that differs from the latest becomes the latest."""
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


class Trial:
    """The parent run of one run key under one protocol, where MLflow's table compares trials.

    `params` are those that bear on the trial: with others the same key is another trial, so that presets and
    experiments stand side by side.
    """

    def __init__(self, view: View, key: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self.view, self.key = view, key
        own = {"nas.key": key, "nas.role": "trial", "nas.protocol": content_id(params)}
        self.run = view.run(key, own, {name: tags[name] for name in SHARED if name in tags})
        method, seed = parse_run_key(key)
        self.run.log_params({"method": method, "seed": seed, **params})

    def show_stage(self, stage: str, metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> None:
        """What the trial shows of a stage, from its records: a stage that was up to date has no run under this one."""
        prefix = "" if stage == "evaluate" else f"{stage}."  # what evaluate finds is the trial's own result
        self.run.log_values({prefix + name: value for name, value in figures(metrics).items()})
        self.run.log_values(numbers(flat(cost, f"cost.{stage}.")))

    def stage(self, stage: str, tags: Mapping[str, str], identity: str = "nas.fingerprint") -> "StageView":
        """The child run of this stage whose tag `identity` is the one given in `tags`."""
        own = {"nas.key": self.key, "nas.stage": stage, "nas.role": "stage", identity: tags[identity]}
        run = self.view.run(f"{stage} {self.key}", own, tags, {"mlflow.parentRunId": self.run.id})
        return StageView(self, stage, run)


class StageView:
    """The child run of one stage execution, and what of it the parent shows."""

    def __init__(self, trial: Trial, stage: str, run: RunView) -> None:
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
        """Both runs end. `digest` marks a run that shows all of its records."""
        if digest is not None:
            self.run.set_tags({"nas.records": digest})
        self.run.end(status)
        self.trial.run.end(status)


def parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def surroundings(root: Path) -> dict[str, str]:
    """Tags: the commit, the DVC stage and experiment, the checksums of the prepared data; each when there is one."""
    known = {"dvc.stage": os.environ.get("DVC_STAGE"), "dvc.exp": os.environ.get("DVC_EXP_NAME")}
    found = {"git.commit": git_commit(root), **known}
    return {**{name: value for name, value in found.items() if value}, **data_checksums(root)}


def git_commit(root: Path) -> str | None:
    with suppress(OSError):
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
        return asked.stdout.strip() if asked.returncode == 0 else None
    return None


def data_checksums(root: Path) -> dict[str, str]:
    """`data.md5.<file>`: what dvc.lock says that `prepare` wrote."""
    with suppress(OSError, yaml.YAMLError, KeyError, TypeError):
        text = (root / "dvc.lock").read_text()
        block = re.search(r"^  prepare:\n(?:   .*\n)+", text, re.MULTILINE)  # parsing the whole file takes seconds
        outs = yaml.safe_load(block[0])["prepare"]["outs"] if block else []
        return {f"data.md5.{Path(out['path']).name}": str(out["md5"]) for out in outs}
    return {}
