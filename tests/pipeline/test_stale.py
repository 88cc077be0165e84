"""What DVC runs after a change, and that the fingerprint of a checkpoint depends on the same files and parameters.

DVC and dvc.yaml are real; the stages are stubs (see stub.py) whose outputs change when anything changes that
dvc.yaml lets them read. So the sets below are the most that a change may run.
"""

from typing import Any

import dvc.api
import pytest

from stages import lineage
from tests.pipeline.project import Project, dotted, family, ran

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

RANDOM, DARTS = family("random-0"), family("darts-0")
SEARCHES = {"search@random-0", "search@darts-0"}
ALL = RANDOM | DARTS | {"prepare", "report"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("search.darts.alpha_lr", 0.01, DARTS | {"report"}),
        ("search.common.lr", 0.05, ALL - {"prepare"}),
        ("derive.darts.rule", "top2_without_none", DARTS - SEARCHES | {"report"}),
        ("retrain.epochs", 7, ALL - SEARCHES - {"prepare", "derive@random-0", "derive@darts-0"}),
        ("retrain.channels", 4, ALL - SEARCHES - {"prepare"}),
        ("evaluate.batch", 7, {"evaluate@random-0", "evaluate@darts-0", "report"}),
        ("seeds", [0, 1], family("random-1") | family("darts-1") | {"report"}),
        ("methods", ["random"], {"report"}),
    ],
)
def test_a_changed_parameter_runs_the_stages_that_read_it(stub, name, value, expected):
    stub.set({name: value})
    assert ran(stub.dvc("repro")) == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("params.yaml", set()),
        ("nas/methods/darts.py", DARTS | {"report"}),
        ("nas/report/style.py", {"report"}),
        ("nas/config/params.py", set()),
    ],
)
def test_an_added_comment_runs_the_stages_that_depend_on_the_file(stub, file, expected):
    with stub.path(file).open("a") as text:
        text.write("\n# a comment\n")
    assert ran(stub.dvc("repro")) == expected


def test_after_a_parameter_is_set_back_results_come_from_the_run_cache(stub):
    before = stub.results()
    stub.set({"evaluate.batch": 7})
    stub.dvc("repro")
    stub.set({"evaluate.batch": 256})
    assert not ran(stub.dvc("repro"))
    assert stub.results() == before


def test_a_dry_run_lists_the_stale_stages_and_changes_nothing(stub):
    before = stub.path("dvc.lock").read_bytes()
    assert not ran(stub.dvc("repro", "--dry"))
    stub.set({"search.darts.alpha_lr": 0.01})
    assert "search@darts-0" in ran(stub.dvc("repro", "--dry"))
    assert stub.path("dvc.lock").read_bytes() == before
    assert all(stub.path(out).exists() for out in stub.outs())


def test_a_clone_without_data_can_check_whether_the_results_are_current(base, tmp_path):
    """The command of docs/reproducing.md: its output matters, not its exit code."""
    base.run("git", "clone", "-q", str(base.folder), str(tmp_path / "fresh"))
    fresh = Project(tmp_path / "fresh", base.environment)
    assert not fresh.path("data/prepared/spec.json").exists()
    output = fresh.dvc("repro", "--dry", "--allow-missing", "evaluate")
    assert output.count("didn't change, skipping") == len(ALL - {"report"})
    assert "Running stage" not in output
    assert "ERROR" not in output
    fresh.set({"evaluate.batch": 7})
    assert "ERROR" in fresh.dvc("repro", "--dry", "--allow-missing", "evaluate", code=None)


@pytest.mark.parametrize("verb", ["search", "derive", "retrain", "evaluate"])
@pytest.mark.parametrize("method", ["random", "darts"])
def test_a_fingerprint_covers_what_dvc_tracks(wired, monkeypatch, verb, method):
    monkeypatch.chdir(wired.folder)
    seen: dict[str, Any] = {}

    def take(content, length):
        seen.update(content)
        return "id"

    monkeypatch.setattr(lineage, "content_id", take)
    lineage.fingerprint(verb, f"{method}-0", method, 0)
    tracked = dvc.api.params_show(stages=f"{verb}@{method}-0", repo=str(wired.folder))
    assert dict(dotted(nested(seen["params"]))) == dict(dotted(tracked))
    locked = wired.lock()[f"{verb}@{method}-0"]
    assert set(seen["deps"]) == {dep["path"] for dep in locked["deps"]}
    assert locked["cmd"].split()[2:] == [f"stages.{verb}", "--run", f"{method}-0"]


def nested(leaves):
    """{"search.common": {...}} -> {"search": {"common": {...}}}."""
    tree: dict[str, Any] = {}
    for name, value in leaves.items():
        *parents, last = name.split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return tree


def test_a_change_of_params_code_or_inputs_changes_the_fingerprint(stub, monkeypatch):
    monkeypatch.chdir(stub.folder)

    def found():
        return lineage.fingerprint("retrain", "darts-0", "darts", 0)

    seen = [found()]
    stub.set({"evaluate.batch": 7})
    assert found() == seen[0], "retrain does not read evaluate.batch"
    stub.set({"retrain.epochs": 7})
    seen.append(found())
    for file in ("nas/training/loop.py", "nas/spaces/blocks/ops.py", "runs/darts-0/architectures.json"):
        with stub.path(file).open("a") as text:
            text.write("\n")
        seen.append(found())
    seen.append(lineage.fingerprint("retrain", "random-0", "random", 0))
    assert len(set(seen)) == len(seen)


def test_a_copy_in_another_folder_has_the_same_fingerprint(stub, wired, monkeypatch):
    found = []
    for project in (wired, stub):
        monkeypatch.chdir(project.folder)
        found.append(lineage.fingerprint("search", "darts-0", "darts", 0))
    assert found[0] == found[1]
