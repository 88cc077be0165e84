"""After a kill or a stop the next `dvc repro` resumes and ends with the bits of an uninterrupted run."""

import json
import os
import signal
from contextlib import contextmanager, suppress

import pytest

from tests.pipeline.project import ran, wait_until

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

PATIENCE = 300  # seconds for a stage to reach its first checkpoint, on a busy machine


@contextmanager
def group(process):
    """Kill what is left of the process's group afterwards."""
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_search_resumes_after_sigkill_and_after_sigterm(base, clone):
    stage, record = "search@darts-0", clone.path("runs/darts-0/search.json")
    clone.forget(stage)
    with group(clone.start("dvc", "repro", "-s", stage)) as dvc:
        wait_until(clone.checkpoints, PATIENCE, "a checkpoint")
        os.killpg(dvc.pid, signal.SIGKILL)
    assert not record.exists(), "the search was done before it could be killed"
    assert len(clone.checkpoints()) == 1

    with group(clone.start("python", "-m", "stages.search", "--run", "darts-0")) as search:
        assert any("resumes from epoch" in line for line in search.stdout)
        before = clone.checkpoints()[0].stat().st_mtime_ns
        search.terminate()
        output = search.stdout.read()
        assert search.wait() == 128 + signal.SIGTERM
    assert output.endswith("stopped by SIGTERM; the next `dvc repro` resumes from the checkpoint\n")
    assert clone.checkpoints()[0].stat().st_mtime_ns > before
    assert not record.exists()

    output = clone.dvc("repro")
    assert "search darts-0: resumes from epoch" in output
    assert ran(output) == {stage, "report"}
    assert clone.results() == base.results()
    assert json.loads(clone.path("runs/darts-0/search.cost.json").read_text())["resumed"] == 2
    assert not list(clone.path(".nas/ckpt").iterdir())


def test_a_running_stage_is_not_started_twice_and_other_parameters_do_not_resume_its_checkpoint(base, clone):
    stage, folder = "retrain@darts-0", clone.path("runs/darts-0")
    clone.forget(stage)
    with group(clone.start("dvc", "repro", "-s", stage)) as dvc:
        [checkpoint] = wait_until(clone.checkpoints, PATIENCE, "a checkpoint")
        child = int((checkpoint.parent / "lock").read_text())
        os.kill(child, signal.SIGSTOP)  # so that it is still running when it is needed
        dvc.kill()
        dvc.wait()
        output = clone.dvc("repro", "-s", stage, code=None)
        assert f"error: process {child} is already running this stage; wait for it to finish or stop it" in output
    assert not (folder / "retrain.json").exists()
    assert checkpoint.exists()

    recipe = clone.params()["retrain"]
    clone.set({"retrain.lr": 0.02})
    assert "resumes from" not in clone.dvc("repro", "-s", stage)
    assert json.loads((folder / "retrain.history.json").read_text())[0]["lr"] == 0.02
    assert json.loads((folder / "retrain.cost.json").read_text())["resumed"] == 0
    assert clone.outs(stage)["runs/darts-0/weights"] != base.outs(stage)["runs/darts-0/weights"]
    assert clone.checkpoints() == [checkpoint]

    clone.set({"retrain.lr": recipe["lr"]})
    output = clone.dvc("repro", "-s", stage)
    assert "resumes from" in output
    assert json.loads((folder / "retrain.cost.json").read_text())["resumed"] == 1
    assert clone.results() == base.results()
    assert not list(clone.path(".nas/ckpt").iterdir())
