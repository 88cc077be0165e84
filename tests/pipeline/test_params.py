"""An invalid params.yaml stops every stage before anything is written."""

import shutil
from importlib import import_module

import pytest
from typer.testing import CliRunner

from tests.pipeline.project import ROOT, Project, environment, ran

pytestmark = pytest.mark.pipeline

TRIAL = ("search", "derive", "retrain", "evaluate")
FAULTS = {
    "unknown": ({"retrain.epoch": 5}, "'retrain.epoch' is not a known key. Did you mean 'epochs'?"),
    "unknown section": ({"retraining": {"epochs": 5}}, "'retraining' is not a known key. Did you mean 'retrain'?"),
    "missing": ({"search.darts.alpha_lr": None}, "'search.darts.alpha_lr' is missing."),
    "out of range": ({"retrain.drop_path": 1.5}, "'retrain.drop_path' is 1.5: "),
    "of another type": ({"search.common.epochs": "many"}, "'search.common.epochs' is 'many': "),
}


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """The current folder, which contains only params.yaml."""
    shutil.copy(ROOT / "presets/digits.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_TRACKING", "off")
    return Project(tmp_path, environment(tmp_path.parent / "home"))


def stage(verb, *options):
    return CliRunner().invoke(import_module(f"stages.{verb}").app, options)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("verb", ["prepare", *TRIAL, "report"])
def test_a_stage_names_the_key_and_writes_nothing(bare, verb, fault):
    changes, message = FAULTS[fault]
    bare.set(changes)
    found = stage(verb, *(["--run", "darts-0"] if verb in TRIAL else []))
    assert found.exit_code == 1
    assert f"error: params.yaml: {message}" in found.stderr
    assert [path.name for path in bare.folder.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("verb", TRIAL)
def test_a_stage_refuses_a_trial_that_is_not_in_params(bare, verb):
    found = stage(verb, "--run", "darts-7")
    assert found.exit_code == 1
    assert found.stderr.startswith("error: --run darts-7: not a trial of params.yaml, which asks for random-0")
    assert [path.name for path in bare.folder.iterdir()] == ["params.yaml"]


@pytest.mark.slow
def test_repro_fails_and_keeps_the_other_outputs(clone):
    good, lock = clone.path("params.yaml").read_text(), clone.path("dvc.lock").read_bytes()
    clone.set({"evaluate.batches": 7})
    output = clone.dvc("repro", code=None)
    assert "'evaluate.batches' is not a known key. Did you mean 'batch'?" in output
    assert ran(output) == {"evaluate@random-0"}
    assert clone.path("dvc.lock").read_bytes() == lock
    lost = {path for path in clone.outs() if not clone.path(path).exists()}
    assert lost <= set(clone.outs("evaluate@random-0"))

    clone.path("params.yaml").write_text(good)
    clone.set({"retrain.cells": None})
    output = clone.dvc("repro", code=None)
    assert "retrain.cells" in output
    assert "missing" in output
    assert not ran(output)

    clone.path("params.yaml").write_text(good)
    assert not ran(clone.dvc("repro"))
    assert clone.run("git", "status", "--porcelain") == ""
