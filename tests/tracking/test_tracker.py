"""The tracker with the real MLflow. Importing it takes seconds, so most tests share one project and its runs."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from nas.records import write_json
from nas.tracking import Tracker
from nas.tracking.tracker import status_of

pytest.importorskip("mlflow", reason="the pipeline extra is not installed")

ROW = {"epoch": 0, "train_loss": 0.5, "valid_acc": None, "entropy": float("nan"), "note": "text"}
PARAMS = {"search": {"common": {"epochs": 5}}, "runtime.device": "cpu"}
STAGE = """
import sys, time
from pathlib import Path
from nas.tracking import Tracker
tracker = Tracker.open("search", "darts-7", {}, {}, "f7", Path(sys.argv[1]))
for step in range(5):
    tracker.log_epoch({"train_loss": 1.0 / (step + 1), "valid_acc": float(step)}, step)
time.sleep(0.5)
print("half way", flush=True)
time.sleep(600)
"""


class Interrupted(BaseException):
    mlflow_status = "KILLED"


def open_tracker(root, key, stage="search", fingerprint="f1", params=PARAMS, **more):
    return Tracker.open(stage, key, params, {"device": "cpu"}, fingerprint, root, **{"patience": 120.0, **more})


def finish(tracker, error=None):
    if error is None:
        with tracker:
            tracker.log_epoch(ROW, 0)
            tracker.log_metrics({"eps=0.1": {"test_error": 3.0}, "top2": {"test_error": 4.0}})
            tracker.log_cost({"seconds": 1.5, "device": "cpu"})
    else:
        with pytest.raises(type(error)), tracker:
            raise error


@pytest.fixture(scope="module", autouse=True)
def local():
    """Remove settings of the environment that point to a real server or turn tracking off."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DVC_", "NAS_"))]:
            patch.delenv(name)
        patch.setenv("DVC_EXP_NAME", "warm-sun")
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory, local):
    """A project after four stages that started together without a database and ended in four ways."""
    root = tmp_path_factory.mktemp("project")
    (root / "dvc.lock").write_text(
        "stages:\n  prepare:\n    outs:\n    - path: data/prepared/train.safetensors\n      md5: abc\n"
    )
    ends = {
        "darts-0": ("evaluate", None),
        "darts-1": ("search", RuntimeError("out of memory")),
        "darts-2": ("search", KeyboardInterrupt()),
        "darts-3": ("search", Interrupted()),
    }
    trackers = {key: open_tracker(root, key, stage) for key, (stage, _) in ends.items()}
    for key, (_, error) in ends.items():
        finish(trackers[key], error)
    return root


@pytest.fixture(scope="module")
def view(project):
    """The contents of the database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nas.tracking.view import View

        opened = View(project)

    def runs(key, stage=None):
        tag = f"tags.`nas.stage` = '{stage}'" if stage else "tags.`nas.role` = 'trial'"
        return opened.client.search_runs([opened.experiment], f"tags.`nas.key` = '{key}' and {tag}")

    return SimpleNamespace(runs=runs, client=opened.client)


def steps(view, run, name):
    return [point.step for point in view.client.get_metric_history(run.info.run_id, name)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "stage", "status"),
    [
        ("darts-0", "evaluate", "FINISHED"),
        ("darts-1", "search", "FAILED"),
        ("darts-2", "search", "KILLED"),
        ("darts-3", "search", "KILLED"),
    ],
)
def test_four_stages_that_start_together_make_four_trials_with_their_status(view, key, stage, status):
    (parent,), (child,) = view.runs(key), view.runs(key, stage)
    assert (parent.info.status, child.info.status) == (status, status)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.run_name == key


@pytest.mark.slow
def test_a_stage_run_has_tags_of_its_origin(view):
    (child,) = view.runs("darts-0", "evaluate")
    expected = {
        "nas.key": "darts-0",
        "nas.stage": "evaluate",
        "nas.fingerprint": "f1",
        "dvc.exp": "warm-sun",
        "data.md5.train.safetensors": "abc",
        "device": "cpu",
        "cost.device": "cpu",
    }
    assert expected.items() <= child.data.tags.items()
    assert child.data.params == {"search.common.epochs": "5", "runtime.device": "cpu"}


@pytest.mark.slow
def test_figures_are_logged_on_stage_and_trial_under_legal_names(view):
    (parent,), (child,) = view.runs("darts-0"), view.runs("darts-0", "evaluate")
    found = {"eps-0.1.test_error": 3.0, "top2.test_error": 4.0}
    assert parent.data.metrics == {**found, "cost.evaluate.seconds": 1.5}
    assert child.data.metrics == {**found, "train_loss": 0.5, "cost.seconds": 1.5}


@pytest.mark.slow
def test_the_same_fingerprint_continues_a_run_and_another_starts_a_new_one(project, view, tmp_path):
    (tmp_path / "cell.txt").write_text("0")
    again = open_tracker(project, "darts-3", params={**PARAMS, "runtime.device": "cuda", "new": 1})
    other = open_tracker(project, "darts-2", fingerprint="f2")
    again.log_artifacts([tmp_path / "cell.txt", tmp_path / "missing"])
    finish(again)
    finish(other)
    (same,) = view.runs("darts-3", "search")
    assert same.info.status == "FINISHED"
    assert same.data.params == {"search.common.epochs": "5", "runtime.device": "cpu", "new": "1"}
    assert [file.path for file in view.client.list_artifacts(same.info.run_id)] == ["cell.txt"]
    assert (project / "mlartifacts").is_dir()
    assert {run.data.tags["nas.fingerprint"] for run in view.runs("darts-2", "search")} == {"f1", "f2"}


@pytest.mark.slow
def test_other_parameters_make_another_trial_that_shows_stages_which_were_up_to_date(project, view):
    runs = project / "runs" / "darts-9"
    write_json(runs / "search.metrics.json", {"valid_acc": 70.0})
    write_json(runs / "search.cost.json", {"seconds": 8.0, "device": "cpu"})
    write_json(
        runs / "evaluate.metrics.json", {"main": {"test_error": 99.0}}
    )  # of an earlier run: this stage is about to run
    for epochs, error in ((5, 3.0), (6, 2.0)):
        params = {"retrain": {"epochs": epochs}}
        with open_tracker(project, "darts-9", "evaluate", f"of {epochs}", params) as tracker:
            tracker.log_metrics({"main": {"test_error": error}})
    found = {run.data.params["retrain.epochs"]: run.data for run in view.runs("darts-9")}
    shown = {"search.valid_acc": 70.0, "cost.search.seconds": 8.0}
    assert {epochs: data.metrics for epochs, data in found.items()} == {
        "5": {**shown, "test_error": 3.0},
        "6": {**shown, "test_error": 2.0},
    }
    assert {data.tags["dvc.exp"] for data in found.values()} == {"warm-sun"}


@pytest.mark.slow
def test_a_killed_stage_continues_without_logging_a_step_twice(project, view):
    command = [sys.executable, "-c", STAGE, str(project)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as stage:
        assert stage.stdout is not None
        stage.stdout.readline()
        stage.send_signal(signal.SIGKILL)
    with open_tracker(project, "darts-7", fingerprint="f7") as tracker:
        for step in range(3, 8):  # the checkpoint was of step 2
            tracker.log_epoch({"train_loss": 1.0 / (step + 1), "valid_acc": float(step)}, step)
    (child,) = view.runs("darts-7", "search")
    assert child.info.status == "FINISHED"
    assert sorted(steps(view, child, "train_loss")) == list(range(8))
    assert sorted(steps(view, child, "valid_acc")) == list(range(8))


def train(root, monkeypatch, uri, patience):
    """Seconds that five epochs and closing take with a server that cannot be used."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracker = open_tracker(root, "darts-0", patience=patience)
    start = time.perf_counter()
    for step in range(5):
        tracker.log_epoch(ROW, step)
    trained = time.perf_counter()
    tracker.close()
    return trained - start, time.perf_counter() - trained


@pytest.mark.slow
def test_a_server_that_is_down_costs_one_warning(tmp_path, monkeypatch, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    training, _ = train(tmp_path, monkeypatch, f"http://127.0.0.1:{port}", 120.0)
    assert training < 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "refused" in record.message


@pytest.mark.slow
def test_a_server_that_never_answers_delays_neither_training_nor_closing(tmp_path, monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        training, closing = train(tmp_path, monkeypatch, uri, 2.0)
    assert training < 1
    assert closing < 4
    (record,) = caplog.records
    assert "did not finish within 2 s" in record.message


def test_without_mlflow_there_is_one_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "mlflow.py").write_text("raise ModuleNotFoundError(\"No module named 'mlflow'\")")
    monkeypatch.chdir(tmp_path)  # which python -m searches first
    finish(open_tracker(tmp_path, "darts-0"))
    (record,) = caplog.records
    assert "run `make setup`" in record.message


def test_switched_off_tracking_writes_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("NAS_TRACKING", "off")
    finish(open_tracker(tmp_path, "darts-0"))
    assert list(tmp_path.iterdir()) == []
    assert caplog.records == []


def test_the_stage_itself_never_imports_mlflow():
    code = "import sys, nas.tracking, nas.tracking.view; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_exit_code_0_is_not_a_failure():
    assert status_of(SystemExit(0)) == "FINISHED"
    assert status_of(SystemExit(1)) == "FAILED"
