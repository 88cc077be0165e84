"""A run of the pipeline: its outputs, that nothing is stale afterwards, and that another clone gives the same bits."""

import json
import re
import socket
from pathlib import Path

import pytest

from nas.architectures.genotypes import GENOTYPES
from tests.pipeline.project import family, is_clocked, ran

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

KEYS = ("random-0", "darts-0")
STAGES = {"prepare", "report"} | family("random-0") | family("darts-0")
DATE = re.compile(rb"\b20\d\d-[01]\d-[0-3]\d\b|\b[0-2]\d:[0-5]\d:[0-5]\d\b")


def test_two_clones_give_the_same_bits_with_and_without_tracking(base, tracked):
    assert base.results() == tracked.results()
    assert len(base.results()) > 20
    differ = {path for path, md5 in base.outs().items() if tracked.outs()[path] != md5}
    assert {path for path in differ if path.endswith(".cost.json")}, "no clock differs: are these two runs?"


def test_a_fresh_clone_ends_with_every_record_and_a_report(base, base_log):
    assert ran(base_log) == STAGES
    assert set(base.lock()) == STAGES
    missing = [path for path in base.outs() if not base.path(path).exists()]
    assert not missing
    for key in KEYS:
        folder = base.path(f"runs/{key}")
        records = {"search.json", "architectures.json", "retrain.json", "evaluate.json"}
        metrics = {f"{verb}.metrics.json" for verb in ("search", "derive", "retrain", "evaluate")}
        costs = {f"{verb}.cost.json" for verb in ("search", "retrain", "evaluate")}
        histories = {"search.history.json", "retrain.history.json"}
        assert {path.name for path in folder.glob("*.json")} == records | metrics | costs | histories
        assert list(folder.glob("weights/*.safetensors"))
        evaluated = json.loads((folder / "evaluate.json").read_text())
        assert evaluated["images"] == 60
        assert all(0 <= result["test_error"] <= 100 for result in evaluated["results"])
    page = base.path("report/index.html").read_text()
    assert all(method in page for method in ("random", "darts"))
    assert list(base.path("report/figures").iterdir())
    assert not base.checkpoints()
    tracked = base.run("git", "ls-files").splitlines()
    assert {"dvc.lock", "runs/darts-0/search.history.json", "runs/darts-0/evaluate.metrics.json"} <= set(tracked)
    assert not [path for path in tracked if path.startswith("data/prepared/") or path.endswith(".safetensors")]


def test_a_second_repro_runs_nothing(base, clone):
    before = clone.path("dvc.lock").read_bytes()
    output = clone.dvc("repro")
    assert output.count("didn't change, skipping") == len(STAGES)
    assert not ran(output)
    assert clone.path("dvc.lock").read_bytes() == before
    assert clone.run("git", "status", "--porcelain") == ""


def test_lost_outputs_are_restored_from_the_cache(clone):
    for name in ("runs/darts-0/search.json", "runs/random-0/evaluate.json", "report/index.html"):
        clone.path(name).unlink()
    output = clone.dvc("repro")
    assert not ran(output)
    assert output.count("is cached - skipping run") == 3
    assert all(clone.path(path).exists() for path in clone.outs())


def results(project, key):
    return json.loads(project.path(f"runs/{key}/evaluate.json").read_text())["results"]


def test_measuring_earlier_epochs_does_not_change_the_result_of_the_last(clone):
    (before,) = results(clone, "darts-0")
    clone.set({"methods": ["darts"], "retrain.best_of_last": 3})
    assert ran(clone.dvc("repro")) == {"retrain@darts-0", "evaluate@darts-0", "report"}
    (after,) = results(clone, "darts-0")
    assert {name: after[name] for name in before} == before
    assert after["best_error"] <= after["test_error"]
    assert 3 <= after["best_epoch"] <= 5
    kept = {path.name for path in clone.path("runs/darts-0/weights").iterdir()}
    assert kept == {f"main-0{epoch}.safetensors" for epoch in ("", ".epoch-3", ".epoch-4")}
    assert "Best epoch" in clone.path("report/table.md").read_text()


def test_given_cells_pass_through_every_stage_without_a_search(clone):
    clone.set({"methods": ["given"], "search.given.names": ["DARTS_V1", "PDARTS"]})
    assert ran(clone.dvc("repro")) == family("given-0") | {"report"}
    assert [(row["name"], row["id"]) for row in results(clone, "given-0")] == [
        (name, GENOTYPES[name].id) for name in ("DARTS_V1", "PDARTS")
    ]
    assert json.loads(clone.path("runs/given-0/search.history.json").read_text()) == []
    assert not list(clone.path("report/figures").glob("search-given-0*"))
    assert "Given architectures DARTS_V1" in clone.path("report/table.md").read_text()


def test_a_size_that_the_space_does_not_have_is_refused_before_the_search(clone):
    clone.set({"methods": ["darts"], "search.darts.space": "nasbench201", "search.common.cells": 5, "retrain.cells": 4})
    output = clone.dvc("repro", code=None)
    assert "error: params.yaml: 'retrain': cells is 4, but NAS-Bench-201's skeleton has three stages" in output
    assert "epoch 1/3" not in output


def test_results_contain_no_path_host_or_time(base):
    host = socket.gethostname().encode()
    private = [str(base.folder).encode(), str(Path.home()).encode() + b"/"] + ([host] if len(host) > 4 else [])
    for name in base.outs():
        path = base.path(name)
        for file in path.rglob("*") if path.is_dir() else [path]:
            content = file.read_bytes()
            found = [text for text in private if text in content]
            assert not found, f"{file}: {found}"
            clock = None if is_clocked(name) else DATE.search(content)
            assert clock is None, f"{file}: {clock}"
