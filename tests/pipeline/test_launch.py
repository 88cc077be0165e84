"""The launcher: several trials at a time, with the results and the dvc.lock of `dvc repro`."""

import os
import signal
import sqlite3
import time
from contextlib import suppress

import pytest
from ruamel.yaml import YAML

from tests.pipeline.project import family, is_clocked, ran, wait_until

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

LAUNCH = ("python", "-m", "nas", "repro")
PATIENCE = 300  # seconds for a stage to reach its first checkpoint, on a busy machine


def without_clocks(lock):
    """dvc.lock without the checksums of outputs that hold times, and of the folder that contains them."""
    for stage in lock.values():
        for entry in [*stage.get("outs", []), *stage.get("deps", [])]:
            if is_clocked(entry["path"]) or entry["path"] == "runs":
                entry |= {"md5": None, "size": None}
    return lock


@pytest.fixture(scope="module")
def fresh(base, tmp_path_factory):
    """The project before any stage has run."""
    project = base.copy(tmp_path_factory.mktemp("launch") / "project")
    project.run("git", "rm", "-rq", "--cached", "dvc.lock", "runs", "report")
    project.run("rm", "-rf", "dvc.lock", "runs", "report/figures", "report/index.html", "data/prepared", ".dvc/cache")
    return project


@pytest.fixture
def unrun(fresh, tmp_path):
    return fresh.copy(tmp_path / "unrun")


def test_a_launch_gives_the_results_and_the_lock_of_dvc_repro(base, tracked, tmp_path):
    output = (tracked.folder.parent / "log").read_text()
    assert ran(output) == set(base.lock())
    assert tracked.results() == base.results()
    assert without_clocks(tracked.lock()) == without_clocks(base.lock())
    assert "tracking is off" not in output
    assert not tracked.checkpoints()

    launched = tracked.copy(tmp_path / "launched")
    del launched.environment["NAS_TRACKING"]
    text = launched.path("dvc.lock").read_text()
    assert not ran(launched.dvc("repro"))  # DVC agrees that everything is up to date
    assert launched.path("dvc.lock").read_text() == text
    assert "Everything is up to date." in launched.run(*LAUNCH)

    with sqlite3.connect(launched.path("mlflow.db")) as database:
        stages = dict(
            database.execute("select t.value, count(*) from tags t where t.key = 'nas.stage' group by t.value")
        )
        assert stages == {"search": 2, "derive": 2, "retrain": 2, "evaluate": 2}
        assert {row[0] for row in database.execute("select status from runs")} == {"FINISHED"}
    assert launched.run("python", "-m", "nas", "track", "rebuild").endswith("0 stage runs added\n")


def test_lost_outputs_are_restored_from_the_cache_and_the_lock_is_unchanged(clone):
    lock = clone.path("dvc.lock")
    before = lock.read_text()
    for name in ("runs/darts-0/search.json", "runs/random-0/evaluate.json"):
        clone.path(name).unlink()
    output = clone.run(*LAUNCH)
    assert not ran(output)
    assert output.count("is cached") == 2
    assert lock.read_text() == before


def test_a_block_is_written_as_dvc_writes_it(base, clone, monkeypatch):
    """With the block of a stage replaced, appended, or as the first one of a new file."""
    from dvc.dvcfile import Lockfile
    from dvc.repo import Repo
    from dvc.stage.serialize import to_lockfile

    from nas.commands.bookkeeping import HEAD, updated

    monkeypatch.chdir(clone.folder)
    path = clone.path("dvc.lock")
    text = path.read_text()
    blocks = base.lock()
    repo = Repo()
    stages = list(repo.index.stages)
    with repo.lock:
        for stage in stages:
            assert updated(text, {stage.name: blocks[stage.name]}) == text
            stage.cmd = "python -m " + "changed " * 20 + "'quoted'"
            without = YAML().load(text)
            del without["stages"][stage.name]
            YAML().dump(without, path)
            for before in (text, path.read_text(), ""):
                path.write_text(before)
                Lockfile(repo, str(path)).dump(stage)
                assert updated(before or HEAD, to_lockfile(stage)) == path.read_text()


def test_a_failed_stage_ends_only_its_own_trial(unrun):
    unrun.set({"methods": ["darts", "random"], "retrain.lr": 1e9, "retrain.clip": 1e9})
    output = unrun.run(*LAUNCH, "--jobs", "2", code=1)
    assert "error: did not finish: darts-0, random-0" in output
    assert "the training loss of epoch" in output
    assert set(unrun.lock()) == {
        "prepare",
        *(f"{stage}@{key}-0" for stage in ("search", "derive") for key in ("darts", "random")),
    }
    unrun.set({"retrain.lr": 0.1, "retrain.clip": 5.0})
    assert "search@darts-0" not in ran(unrun.run(*LAUNCH))
    assert "report" in unrun.lock()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_launch_that_is_stopped_resumes_with_the_same_bits(base, unrun, signum):
    """If the launcher is killed, its stages notice, save a checkpoint and end."""
    unrun.set({"methods": ["darts"]})
    stages = sorted(family("darts-0"))
    with unrun.start(*LAUNCH, "--jobs", "2") as process:
        try:
            wait_until(unrun.checkpoints, PATIENCE, "a checkpoint")
            os.kill(process.pid, signum)
            process.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == (128 + signum if signum == signal.SIGTERM else -signum)
    held = [path.parent / "lock" for path in unrun.checkpoints()]
    wait_until(lambda: not any(alive(int(path.read_text() or 0)) for path in held), 60, "the stages to end")
    assert unrun.checkpoints()
    output = unrun.run(*LAUNCH)
    assert "resumes from" in output
    assert unrun.results(*stages) == base.results(*stages)


def alive(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return bool(pid)
    return False


def test_bad_parameters_are_refused_before_anything_runs(unrun):
    unrun.set({"search.darts.order": "third"})
    begun = time.monotonic()
    output = unrun.run(*LAUNCH, code=1)
    assert "'search.darts.order' is 'third'" in output
    assert not ran(output)
    assert time.monotonic() - begun < 60
