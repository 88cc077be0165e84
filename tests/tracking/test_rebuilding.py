import json
import os
import warnings

import pytest

from nas.records import write_json, write_record
from nas.tracking import Tracker, rebuild
from nas.tracking.rebuilding import owner, record_digest

PARAMS = {
    "darts": {"search": {"common": {"epochs": 2}, "darts": {"alpha_lr": 0.1}}, "retrain": {"epochs": 3}},
    "random": {"search": {"common": {"epochs": 2}, "random": {"samples": 6}}, "retrain": {"epochs": 3}},
}
RUNS = [("darts-0", "darts", 0), ("random-0", "random", 0)]


def test_a_figure_belongs_to_the_longest_key_in_its_name():
    keys = ["darts-1", "lfr_darts-1", "darts-10"]
    assert owner("cell-lfr_darts-1.png", keys) == "lfr_darts-1"
    assert owner("cell-darts-10.png", keys) == "darts-10"
    assert owner("cell-darts-1-normal.svg", keys) == "darts-1"
    assert owner("accuracy.png", keys) is None


def test_the_digest_depends_on_the_content(tmp_path):
    assert record_digest(tmp_path, "search") is None
    write_json(tmp_path / "search.metrics.json", {"valid_acc": 50.0})
    assert record_digest(tmp_path, "search") is None  # a metrics file alone is not a finished stage
    write_record(tmp_path / "search.json", "search", {})
    first = record_digest(tmp_path, "search")
    write_json(tmp_path / "search.metrics.json", {"valid_acc": 51.0})
    assert record_digest(tmp_path, "search") != first


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose search, derive and evaluate of darts-0 are done."""
    pytest.importorskip("mlflow", reason="the pipeline extra is not installed")
    root = tmp_path_factory.mktemp("project")
    runs = root / "runs" / "darts-0"
    write_record(runs / "search.json", "search", {"key": "darts-0"})
    write_json(runs / "search.history.json", [{"epoch": n, "train_loss": 1.0 / (n + 1)} for n in range(3)])
    write_json(runs / "search.metrics.json", {"train_loss": 1 / 3, "valid_acc": 80.0})
    write_json(runs / "search.cost.json", {"seconds": 12.5, "versions": {"torch": "2.11"}})
    write_record(runs / "architectures.json", "architectures", {"key": "darts-0"})
    write_record(runs / "evaluate.json", "evaluation", {"key": "darts-0"})
    write_json(runs / "evaluate.metrics.json", {"top2": {"test_error": 4.5}})
    drawing = root / "report" / "figures" / "cell-darts-0.svg"
    drawing.parent.mkdir(parents=True)
    drawing.write_text("<svg/>")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DVC_", "NAS_"))]:
            patch.delenv(name)
        yield root


@pytest.fixture(scope="module")
def rebuilt(project):
    """(printed lines, stage runs added) of the first rebuild, and the view."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own, while it is imported
        from nas.tracking.view import View

        said: list[str] = []
        added = rebuild(RUNS, project / "runs", PARAMS, project, said.append)
        return said, added, View(project)


def everything(view):
    """All runs with their contents."""
    runs = view.client.search_runs([view.experiment], order_by=["start_time"])
    return json.dumps([run.to_dictionary() for run in runs])


@pytest.mark.slow
def test_records_become_runs_and_each_missing_one_is_reported(rebuilt):
    said, added, _ = rebuilt
    assert added == 3
    assert said[0] == "darts-0: skipped retrain, which has no record"
    assert len(said) == 1 + 4  # random-0 has none at all


@pytest.mark.slow
def test_a_rebuilt_run_has_curves_figures_costs_and_files(rebuilt):
    view = rebuilt[2]
    search = view.find({"nas.key": "darts-0", "nas.stage": "search"})
    curve = view.client.get_metric_history(search.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in curve] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert search.data.metrics["cost.seconds"] == 12.5
    assert search.data.tags["cost.versions.torch"] == "2.11"
    assert search.data.params["search.darts.alpha_lr"] == "0.1"
    parent = view.find({"nas.key": "darts-0", "nas.role": "trial"})
    found = {"search.train_loss": 1 / 3, "search.valid_acc": 80.0, "test_error": 4.5}
    assert parent.data.metrics == {**found, "cost.search.seconds": 12.5}
    assert parent.data.params == {"method": "darts", "seed": "0", **search.data.params}
    assert [file.path for file in view.client.list_artifacts(parent.info.run_id, "figures")] == [
        "figures/cell-darts-0.svg"
    ]
    derive = view.find({"nas.key": "darts-0", "nas.stage": "derive"})
    assert [file.path for file in view.client.list_artifacts(derive.info.run_id)] == ["architectures.json"]


@pytest.mark.slow
def test_a_second_rebuild_adds_nothing(project, rebuilt):
    before = everything(rebuilt[2])
    assert rebuild(RUNS, project / "runs", PARAMS, project, lambda line: None) == 0
    assert everything(rebuilt[2]) == before


@pytest.mark.slow
def test_a_stage_that_was_logged_live_is_not_rebuilt(project, rebuilt):
    runs = project / "runs" / "random-0"
    with Tracker.open("search", "random-0", {}, {}, "f1", project, patience=120.0) as tracker:
        tracker.log_epoch({"train_loss": 1.0}, 0)
        write_record(runs / "search.json", "search", {"key": "random-0"})
    assert rebuild(RUNS, project / "runs", PARAMS, project, lambda line: None) == 0
    write_record(runs / "search.json", "search", {"key": "random-0", "state": "other"})
    assert rebuild(RUNS, project / "runs", PARAMS, project, lambda line: None) == 1
