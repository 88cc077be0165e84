import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nas.training.checkpoint import BusyError, Checkpoint, Interrupted, Stop, workplace

PROJECT = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from nas.training.checkpoint import workplace
with workplace(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder):
    """Another process that holds the folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        cwd=PROJECT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_workplace_admits_one_process_at_a_time(tmp_path):
    folder = tmp_path / "f1"
    with holder(folder) as other:
        with pytest.raises(BusyError, match=f"^process {other.pid} is already running this stage"), workplace(folder):
            pytest.fail("two processes hold it")
        assert folder.exists()
        other.kill()
        other.communicate()
    with workplace(folder):  # the lock of a dead process does not block
        assert (folder / "lock").read_text() == str(os.getpid())


def test_a_workplace_is_removed_after_success(tmp_path):
    with workplace(tmp_path / "a" / "f1") as stop:
        Checkpoint(tmp_path / "a" / "f1" / "search.pt", stop).save({"epoch": 1})
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize("error", [Interrupted(15, saved=True), ValueError("a fault"), KeyboardInterrupt()])
def test_a_workplace_is_kept_after_a_failure(tmp_path, error):
    folder = tmp_path / "f1"

    def work():
        with workplace(folder) as stop:
            Checkpoint(folder / "search.pt", stop).save({"epoch": 1})
            raise error

    with pytest.raises(type(error)):
        work()
    assert Checkpoint(folder / "search.pt", Stop()).load(torch.device("cpu")) == {"epoch": 1}
    with workplace(folder):
        pass


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_job_at_the_next_step_after_saving_a_checkpoint(tmp_path, signum):
    before = signal.getsignal(signum)
    with Stop() as stop:
        checkpoint = Checkpoint(tmp_path / "job.pt", stop)
        checkpoint.step(lambda: {"step": 1})
        assert not checkpoint.path.exists(), "nothing is saved within the first minute"
        os.kill(os.getpid(), signum)
        with pytest.raises(Interrupted, match=f"stopped by {signum.name}") as stopped:
            checkpoint.step(lambda: {"step": 2})
    assert stopped.value.exit_code == 128 + signum
    assert stopped.value.mlflow_status == "KILLED"
    assert checkpoint.load(torch.device("cpu")) == {"step": 2}
    assert signal.getsignal(signum) is before


def test_work_without_a_checkpoint_stops_at_once(tmp_path):
    folder = tmp_path / "work"

    def work():
        with workplace(folder):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            pytest.fail("not stopped")

    with pytest.raises(Interrupted, match="stopped by SIGTERM") as stopped:
        work()
    assert stopped.value.exit_code == 143
    with workplace(folder):  # free again
        pass


def test_a_full_device_does_not_count_as_a_damaged_file(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "job.pt", Stop())
    checkpoint.save({"epoch": 1})
    before = checkpoint.path.read_bytes()

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", full)
        with pytest.raises(torch.OutOfMemoryError):
            checkpoint.load(torch.device("cpu"))
    assert checkpoint.path.read_bytes() == before
    assert checkpoint.load(torch.device("cpu")) == {"epoch": 1}


def test_a_step_saves_once_the_interval_has_passed(tmp_path):
    checkpoint = Checkpoint(tmp_path / "job.pt", Stop(), every=0.05)
    time.sleep(0.06)
    checkpoint.step(lambda: {"step": 1})
    checkpoint.path.unlink()
    checkpoint.step(lambda: {"step": 2})
    assert not checkpoint.path.exists()


def test_a_failed_save_leaves_the_old_checkpoint_and_no_other_file(tmp_path):
    checkpoint = Checkpoint(tmp_path / "job.pt", Stop())
    checkpoint.save({"epoch": 1, "w": torch.arange(3.0)})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save({"epoch": 2, "w": lambda: None})
    state = checkpoint.load(torch.device("cpu"))
    assert state is not None
    assert (state["epoch"], state["w"].tolist()) == (1, [0.0, 1.0, 2.0])
    assert list(tmp_path.iterdir()) == [checkpoint.path]


def test_without_a_file_load_returns_none(tmp_path):
    assert Checkpoint(tmp_path / "job.pt", Stop()).load(torch.device("cpu")) is None
