"""A stage program reads parameters and records, calls nas.training, and writes."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nas.config.params import TableFile
from nas.records import file_sha256
from nas.training.checkpoint import Checkpoint, Stop
from stages import derive, evaluate, retrain, search
from tests.jobs import CPU
from tests.test_benchmark_table import TEXT

PROJECT = Path(__file__).parents[2]
VERBS = {"search": search, "derive": derive, "retrain": retrain, "evaluate": evaluate}


class Log:
    """A tracker that keeps what it is given."""

    def __init__(self):
        self.epochs: list[dict[str, Any]] = []
        self.files: list[str] = []

    def log_epoch(self, row, step):
        self.epochs.append(row)

    def log_artifacts(self, paths):
        self.files += [path.name for path in paths]


@pytest.fixture
def project(prepared, tmp_path, monkeypatch):
    """A project folder with prepared data, the current one."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/prepared").symlink_to(prepared)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def work(project, config, method="darts"):
    """The trial that a stage is given; metrics and costs go to its `metrics` and `costs`."""
    trial = SimpleNamespace(
        method=method,
        seed=0,
        config=config,
        device=CPU,
        tracker=Log(),
        folder=project / "runs" / f"{method}-0",
        head={"key": f"{method}-0", "method": method, "seed": 0},
        checkpoint=lambda job: Checkpoint(project / "checkpoints" / f"{job}.pt", Stop()),
        metrics=[],
        costs=[],
    )
    trial.write_metrics = trial.metrics.append
    trial.write_cost = lambda *cost: trial.costs.append(cost)
    return trial


def run_all(trial: Any) -> dict[str, Any]:
    """Run the stages of a trial in order; file -> content, of the records."""
    search.run_search(trial)
    derive.run_derive(trial)
    retrain.run_retrain(trial)
    evaluate.run_evaluate(trial)
    return {path.name: json.loads(path.read_text()) for path in trial.folder.glob("*.json")}


def test_the_stages_of_a_trial_write_its_records(project, config):
    several = config.model_copy(update={"retrain": config.retrain.model_copy(update={"seeds": (0, 1)})})
    trial = work(project, several)
    records = run_all(trial)
    histories = {"search.history.json", "retrain.history.json"}
    assert records.keys() == {"search.json", "architectures.json", "retrain.json", "evaluate.json", *histories}
    for name in records.keys() - histories:
        assert trial.head.items() <= records[name].items()
    [entry] = records["architectures.json"]["architectures"]
    label = {key: entry[key] for key in ("name", "id")}
    for record in ("retrain.json", "evaluate.json"):
        assert [row["seed"] for row in records[record]["results"]] == [0, 1]
        assert all(label.items() <= row.items() for row in records[record]["results"])
    rows = records["retrain.history.json"]
    assert [(row["seed"], row["epoch"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {path.name for path in (trial.folder / "weights").iterdir()} == {f"main-{s}.safetensors" for s in (0, 1)}
    assert "main-1.train_loss" in trial.tracker.epochs[-1], "networks have prefixes where there are several"
    assert trial.tracker.files == ["search.json", "architectures.json"]
    assert [sorted(metrics) for metrics in trial.metrics[1:]] == [["main"]] * 3
    assert [len(trial.metrics), len(trial.costs)] == [4, 3]


def test_a_second_run_writes_the_same_records(project, config):
    records = [run_all(work(project / name, config)) for name in ("first", "second")]
    assert records[0] == records[1]


def test_where_nothing_is_retrained_the_table_judges(project, config, monkeypatch):
    """The table's path is relative to the main repository, which DVC_ROOT names in an experiment's copy."""
    (project / "main").mkdir()
    (project / "main/table.csv").write_text(TEXT)
    monkeypatch.setenv("DVC_ROOT", str(project / "main"))
    file = TableFile(path="table.csv", sha256=file_sha256(project / "main/table.csv"))
    method = config.search["darts"].model_copy(update={"space": "nasbench201"})
    sizes = {"cells": 5, "channels": 2}
    trial = work(
        project,
        config.model_copy(
            update={
                "search": {
                    **config.search,
                    "darts": method,
                    "common": config.common.model_copy(update=sizes),
                },
                "retrain": config.retrain.model_copy(update={"seeds": (), **sizes}),
                "evaluate": config.evaluate.model_copy(update={"table": file}),
            }
        ),
    )
    records = run_all(trial)
    assert records["evaluate.json"]["results"] == records["retrain.json"]["results"] == []
    assert [cell["name"] for cell in records["evaluate.json"]["table"]["cells"]] == ["main"]
    assert "table_cifar10_test_acc" in trial.metrics[-1]["main"]
    assert not list((trial.folder / "weights").iterdir())


def test_a_value_that_is_missing_or_not_finite_is_null_in_every_row():
    rows = [{"epoch": 0, "loss": float("nan")}, {"epoch": 1, "loss": 1.0, "acc": 2.0}]
    assert search.filled(rows) == [{"epoch": 0, "loss": None, "acc": None}, {"epoch": 1, "loss": 1.0, "acc": 2.0}]


@pytest.mark.parametrize("verb", VERBS)
def test_a_stage_program_has_no_loop_over_epochs_or_steps(verb):
    """It is short, and imports of nas.training only what it calls or reads."""
    tree = ast.parse((PROJECT / f"stages/{verb}.py").read_text())
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    assert {name for name in imported if name.startswith("nas.training")} <= {
        f"nas.training.{verb}",
        "nas.training.sized",
    }
    assert not {"nas.training.loop", "nas.engine.placement"} & imported
    assert len((PROJECT / f"stages/{verb}.py").read_text().splitlines()) <= 70
