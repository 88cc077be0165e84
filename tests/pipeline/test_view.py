"""MLflow's view of whole trials, read from its database: a parent run per trial, a child per stage."""

import sqlite3
from contextlib import closing

import pytest

from tests.pipeline.project import Project

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

VERBS = {"search", "derive", "retrain", "evaluate"}


def query(project, question):
    with closing(sqlite3.connect(f"file:{project.path('mlflow.db')}?mode=ro", uri=True)) as view:
        return view.execute(question).fetchall()


def tags(project):
    """Run id -> its tags, with MLflow's status of the run."""
    found: dict[str, dict[str, str]] = {}
    for run, key, value in query(project, "SELECT run_uuid, key, value FROM tags"):
        found.setdefault(run, {})[key] = value
    for run, status in query(project, "SELECT run_uuid, status FROM runs"):
        found[run]["status"] = status
    return found


def test_a_trial_is_a_run_and_its_stages_are_children(tracked):
    runs = tags(tracked)
    trials = {run["nas.key"]: name for name, run in runs.items() if run["nas.role"] == "trial"}
    assert set(trials) == {"random-0", "darts-0"}
    for key, parent in trials.items():
        children = [run for run in runs.values() if run.get("mlflow.parentRunId") == parent]
        assert sorted(run["nas.stage"] for run in children) == sorted(VERBS)
        for run in children:
            assert run["nas.key"] == key
            assert run["status"] == "FINISHED"
            assert run["dvc.stage"] == f"{run['nas.stage']}@{key}"
            assert run["nas.records"]
    assert len(runs) == 2 * (1 + len(VERBS))
    assert all(run["status"] == "FINISHED" for run in runs.values())


def test_every_epoch_and_the_test_error_are_shown_once(tracked):
    [search] = [name for name, run in tags(tracked).items() if run.get("dvc.stage") == "search@darts-0"]
    steps = query(tracked, f"SELECT step FROM metrics WHERE run_uuid = '{search}' AND key = 'valid_acc' ORDER BY step")  # noqa: S608
    assert [step for (step,) in steps] == [0, 1, 2]
    parents = [name for name, run in tags(tracked).items() if run["nas.role"] == "trial"]
    shown = query(tracked, "SELECT run_uuid FROM latest_metrics WHERE key = 'test_error'")
    assert set(parents) <= {run for (run,) in shown}


def test_a_rebuild_adds_nothing_to_a_complete_view(tracked, tmp_path):
    clone: Project = tracked.copy(tmp_path / "clone")
    before = sorted(tags(clone))
    assert "0 stage runs added" in clone.run("python", "-m", "nas", "track", "rebuild")
    assert sorted(tags(clone)) == before
