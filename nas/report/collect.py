"""Read and check the records of the expected trials. Folders of other trials are not read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas.architectures.base import Architecture, ArchitectureError
from nas.records import RecordError, read_json, read_record
from nas.report.titles import method_title

Run = tuple[str, str, int]  # key, method, search seed
History = Sequence[Mapping[str, Any]]
WRITTEN_BY = {  # file -> the stage that writes it
    "search.json": "search",
    "search.history.json": "search",
    "search.cost.json": "search",
    "architectures.json": "derive",
    "retrain.history.json": "retrain",
    "retrain.cost.json": "retrain",
    "evaluate.json": "evaluate",
}
M = TypeVar("M", bound=BaseModel)


class _Part(BaseModel):
    """The part of a record that the report reads; other keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class DataSet(_Part):
    name: str
    shape: list[int]  # C, H, W
    classes: int = Field(ge=1)


class Derived(_Part):
    """One architecture of a derive record."""

    name: str
    id: str
    architecture: dict[str, Any]
    notes: dict[str, Any] = {}

    @property
    def parsed(self) -> Architecture:
        return Architecture.from_dict(self.architecture)

    @property
    def eps(self) -> float | None:
        """Weight of the complexity in its search; None if its method has no such weight."""
        eps = self.notes.get("eps")
        return float(eps) if isinstance(eps, int | float) else None

    @property
    def control(self) -> str:
        """The name of the control that it is; empty for an architecture that the search derived."""
        return str(self.notes.get("control", ""))


class Tested(_Part):
    """One retrained network on the test images: percent, millions."""

    name: str
    id: str
    seed: int
    test_error: float
    test_loss: float
    best_error: float | None = None  # lowest of the last epochs, and its epoch; None if they were not measured
    best_epoch: int | None = None
    params_m: float
    macs_m: float


class TrueCell(_Part):
    """A cell in the benchmark table (nas/benchmark_table.py): accuracies, percentiles, regrets by column; millions."""

    name: str
    id: str
    cell: str
    params_m: float
    macs_m: float
    figures: dict[str, float]


class TrueFigures(_Part):
    """A trial in the benchmark table: its derived cells, and per architecture the incumbent of each epoch."""

    cells: list[TrueCell]
    curves: dict[str, list[dict[str, float]]]


class Cost(_Part):
    seconds: float
    device: str


class _Owned(_Part):
    key: str
    method: str
    seed: int


class _Search(_Owned):
    counted: dict[str, int] = {}
    state: dict[str, Any] = {}


class _Derivation(_Owned):
    architectures: list[Derived] = Field(min_length=1)


class _Evaluation(_Owned):
    images: int = Field(ge=1)
    results: list[Tested]
    table: TrueFigures | None = None


@dataclass(frozen=True)
class TrialRecords:
    """One search and everything that was made from it.

    `counted`: the passes of the search; empty if it does not count them. `slimming`: of each slimming point (EoiNAS)
    its epoch and, per cell type, the tables [edges][operations] that decided it; `operations` names their columns.
    `table`: None without a benchmark table. `results`: empty if nothing was retrained.
    """

    key: str
    method: str
    seed: int
    counted: Mapping[str, int]
    slimming: Sequence[Mapping[str, Any]]
    operations: Sequence[str]
    derived: tuple[Derived, ...]
    results: tuple[Tested, ...]
    table: TrueFigures | None
    images: int
    search_history: History
    retrain_history: History
    search_cost: Cost
    retrain_cost: Cost

    @property
    def title(self) -> str:
        """`LFR-DARTS, seed 0`."""
        return f"{method_title(self.method)}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """The expected trials in the order of the table; `images` is the number of test images, equal in all."""

    data: DataSet
    images: int
    trials: tuple[TrialRecords, ...]


def collect(runs: Sequence[Run], folder: Path, spec: Path) -> Study:
    """Read the records that the report is made from.

    Args:
        runs: (key, method, search seed) of every expected trial, in the order of the table.
        folder: the folder of the run folders.
        spec: the data record that `prepare` writes.

    Raises:
        RecordError: a record is missing, malformed or belongs to another trial; names the file and the stage to run.
    """
    if not runs:
        raise RecordError("no trial is expected: params.yaml names no method or no seed")
    data = _checked(DataSet, _record(spec, "data", "prepare"), spec, "prepare")
    trials = tuple(read_trial(run, folder / run[0]) for run in runs)
    for trial in trials:
        if trial.images != trials[0].images:
            fault = f"{trial.images} test images, {trials[0].key} has {trials[0].images}"
            raise _unusable(folder / trial.key / "evaluate.json", fault, f"evaluate@{trial.key}")
    return Study(data, trials[0].images, trials)


def read_trial(run: Run, folder: Path) -> TrialRecords:
    """The records of one trial, all in `folder`. Raises RecordError as `collect` does."""
    key, method, seed = run
    search = _owned(_Search, "search", folder / "search.json", run)
    derivation = _owned(_Derivation, "architectures", folder / "architectures.json", run)
    evaluation = _owned(_Evaluation, "evaluation", folder / "evaluate.json", run)
    _check_drawable(derivation, folder)
    _check_complete(derivation, evaluation, folder)
    return TrialRecords(
        key=key,
        method=method,
        seed=seed,
        counted=search.counted,
        slimming=search.state.get("slimming", ()),
        operations=search.state.get("operations", ()),
        derived=tuple(derivation.architectures),
        results=tuple(evaluation.results),
        table=evaluation.table,
        images=evaluation.images,
        search_history=_history(folder / "search.history.json", key),
        retrain_history=_history(folder / "retrain.history.json", key),
        search_cost=_cost(folder / "search.cost.json", key),
        retrain_cost=_cost(folder / "retrain.cost.json", key),
    )


def _check_drawable(derivation: _Derivation, folder: Path) -> None:
    path = folder / "architectures.json"
    stage = f"derive@{derivation.key}"
    for derived in derivation.architectures:
        try:
            identity = derived.parsed.id
        except ArchitectureError as error:
            raise _unusable(path, f"{derived.name}: {error}", stage) from None
        if identity != derived.id:
            raise _unusable(path, f"{derived.name}: its id is {derived.id}, its content has {identity}", stage)


def _check_complete(derivation: _Derivation, evaluation: _Evaluation, folder: Path) -> None:
    """Exactly the derived architectures were tested or looked up; if not, the evaluation is older than the search.

    A trial with both test results and table entries must be complete in both.
    """
    expected = {(item.name, item.id) for item in derivation.architectures}
    judged: list[Sequence[Tested | TrueCell]] = [evaluation.table.cells] if evaluation.table else []
    if evaluation.results or not judged:
        judged.append(evaluation.results)
    for items in judged:
        tested = {(item.name, item.id) for item in items}
        if expected != tested:
            name, identity = sorted(expected ^ tested)[0]
            fault = "not tested" if (name, identity) in expected else "tested but not derived"
            text = f"architecture {name} ({identity}) is {fault}"
            raise _unusable(folder / "evaluate.json", text, f"evaluate@{derivation.key}")


def _owned(model: type[M], kind: str, path: Path, run: Run) -> M:
    """A record that belongs to the trial `run`."""
    stage = f"{WRITTEN_BY[path.name]}@{run[0]}"
    record = _record(path, kind, stage)
    value = _checked(model, record, path, stage)
    owner = (record["key"], record["method"], record["seed"])
    if owner != run:
        raise _unusable(path, f"belongs to {owner}, expected {run}", stage)
    return value


def _history(path: Path, key: str) -> History:
    """Flat rows; a value is a number, a text or null. Null stands for a number that was not finite."""
    stage = f"{WRITTEN_BY[path.name]}@{key}"
    rows = _json(path, stage)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "epoch" in row for row in rows):
        raise _unusable(path, "expected a list of rows with an epoch", stage)
    return rows


def _cost(path: Path, key: str) -> Cost:
    stage = f"{WRITTEN_BY[path.name]}@{key}"
    cost = _checked(Cost, _json(path, stage), path, stage)
    if not math.isfinite(cost.seconds) or cost.seconds < 0:
        raise _unusable(path, f"seconds is {cost.seconds}", stage)
    return cost


def _record(path: Path, kind: str, stage: str) -> dict[str, Any]:
    _require(path, stage)
    try:
        return read_record(path, kind)
    except RecordError as error:
        raise RecordError(f"{error}. Run `dvc repro {stage}`") from None


def _json(path: Path, stage: str) -> Any:
    _require(path, stage)
    try:
        return read_json(path)
    except RecordError as error:
        raise RecordError(f"{error}. Run `dvc repro {stage}`") from None


def _require(path: Path, stage: str) -> None:
    if not path.is_file():
        raise RecordError(f"{path}: no such record. Run `dvc repro {stage}`")


def _checked(model: type[M], value: Any, path: Path, stage: str) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"]) or "record"
        raise _unusable(path, f"{where}: {detail['msg'].lower()}", stage) from None


def _unusable(path: Path, fault: str, stage: str) -> RecordError:
    return RecordError(f"{path}: {fault}. Remove it and run `dvc repro {stage}`")
