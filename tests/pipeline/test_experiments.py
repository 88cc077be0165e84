"""DVC's own views and experiments on the files of the pipeline."""

import csv
import io
import json
import sqlite3
from contextlib import closing

import pytest

from tests.pipeline.project import ran, wait_until

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]


def shown(project):
    """The rows of `dvc exp show`, by the name of experiment or branch."""
    rows = csv.DictReader(io.StringIO(project.dvc("exp", "show", "--csv")))
    return {row["Experiment"] or row["rev"]: row for row in rows}


def test_metrics_plots_and_parameters_are_shown(clone):
    metrics = json.loads(clone.dvc("metrics", "show", "--json"))[""]["data"]
    for method in ("random", "darts"):
        folder = clone.path(f"runs/{method}-0")
        for verb in ("search", "derive", "retrain", "evaluate"):
            name = f"{verb}.metrics.json"
            assert metrics[f"runs/{method}-0/{name}"]["data"] == json.loads((folder / name).read_text())
    output = clone.dvc("plots", "show", "--out", "plots")
    assert "WARNING" not in output, output  # that a file is left out
    text = clone.path("plots/index.html").read_text()
    for key in ("random-0", "darts-0"):
        assert f"search {key}" in text
        assert f"retrain {key}" in text
    clone.set({"search.darts.alpha_lr": 0.02})
    found = json.loads(clone.dvc("params", "diff", "--json"))
    assert found == {"params.yaml": {"search.darts.alpha_lr": {"old": 0.003, "new": 0.02, "diff": 0.017}}}


def test_an_experiment_runs_the_stages_that_its_change_affects(stub):
    stub.commit()
    output = stub.dvc("exp", "run", "-n", "faster", "-S", "search.darts.alpha_lr=0.01")
    assert ran(output) == {f"{verb}@darts-0" for verb in ("search", "derive", "retrain", "evaluate")} | {"report"}
    rows = shown(stub)
    assert rows["faster"]["search.darts.alpha_lr"] == "0.01"
    assert rows["main"]["search.darts.alpha_lr"] == "0.003"


def test_a_queued_experiment_keeps_database_and_checkpoints_in_the_main_repository(clone):
    """The queue works in a temporary copy of the project, which is deleted with everything but the results."""
    clone.set({"methods": ["random"]})
    clone.dvc("repro", "report")
    clone.commit()
    del clone.environment["NAS_TRACKING"]
    clone.path(".nas/ckpt").rmdir()
    clone.dvc("exp", "run", "--queue", "-n", "small", "-S", "evaluate.batch=7")
    clone.dvc("queue", "start")

    def done():
        return "refs/exps/" in clone.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/**/small")

    try:
        wait_until(done, 240, "the queued experiment", every=1)
    except AssertionError as late:
        raise AssertionError(f"{late}\n{clone.dvc('queue', 'logs', 'small')}") from None
    finally:
        clone.dvc("queue", "stop")
    row = shown(clone)["small"]
    assert row["evaluate.batch"] == "7"
    evaluated = json.loads(clone.path("runs/random-0/evaluate.metrics.json").read_text())
    assert float(row["main.test_error"]) == pytest.approx(evaluated["main"]["test_error"], abs=0.01)
    assert clone.run("git", "status", "--porcelain") == "", "the experiment has changed the workspace"
    assert clone.path(".nas/ckpt").is_dir()
    assert not list(clone.path(".nas/ckpt").iterdir())
    with closing(sqlite3.connect(clone.path("mlflow.db"))) as view:
        tags = dict(view.execute("SELECT key, value FROM tags WHERE key IN ('dvc.exp', 'dvc.stage')"))
        runs = view.execute("SELECT name, status FROM runs ORDER BY name").fetchall()
    assert tags == {"dvc.exp": "small", "dvc.stage": "evaluate@random-0"}
    assert runs == [("evaluate random-0", "FINISHED"), ("random-0", "FINISHED")]
    assert not list(clone.path(".dvc/tmp/exps").rglob("mlflow.db"))
