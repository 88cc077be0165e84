"""On which GPU each trial of `make repro` runs, and when the launcher refuses to start."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nas.commands.launch import slots
from nas.commands.repository import LaunchError, refuse_broken_lock, refuse_running

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("named", "jobs", "expected"),
    [
        ("0,1,2", None, ["0", "1", "2"]),  # one on each
        ("3, 5", 1, ["3"]),
        ("3,5", 3, ["3", "5", "3"]),  # more jobs than GPUs, on request
        ("GPU-8a,GPU-9b", None, ["GPU-8a", "GPU-9b"]),
        ("1", None, ["1"]),  # by default one job per GPU
        ("1", 2, ["1", "1"]),
    ],
)
def test_trials_use_the_given_gpus_in_turn(monkeypatch, named, jobs, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert slots(jobs, "cuda") == expected


@pytest.mark.parametrize(("there", "expected"), [(4, ["0", "1", "2", "3"]), (0, [""])])
def test_without_cuda_visible_devices_all_gpus_are_used(monkeypatch, there, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    assert slots(None, "cuda") == expected


def test_on_a_cpu_no_gpu_is_chosen(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert (slots(None, "cpu"), slots(3, "cpu")) == ([""] * 2, [""] * 3)


def test_an_incomplete_lock_is_reported_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse_broken_lock()  # none yet
    whole = (ROOT / "dvc.lock").read_text()
    lock = tmp_path / "dvc.lock"
    cuts = (whole.index("size:") + 3, whole.index("path:") + 5)
    for text in ("", "stages", *(whole[:cut] for cut in cuts), whole.replace("size: ", "size: x", 1)):
        lock.write_text(text)
        with pytest.raises(LaunchError, match=r"dvc\.lock: incomplete.*git checkout dvc\.lock"):
            refuse_broken_lock()
    lock.write_text(whole)
    refuse_broken_lock()


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_a_process_of_an_earlier_run_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse_running()  # no DVC was here
    busy = tmp_path / ".dvc" / "tmp" / "rwlock"
    busy.parent.mkdir(parents=True)
    command = [sys.executable, "-c", "input()", "-m", "dvc", "repro", "-s", "search@darts-0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as trial:
        while not Path(f"/proc/{trial.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        info = {"pid": trial.pid, "cmd": "dvc repro"}
        for held in ({"read": {"nas": [info]}}, {"read": {}, "write": {"runs": info}}):
            busy.write_text(json.dumps(held))
            with pytest.raises(LaunchError, match=rf"process {trial.pid} is running .*dvc repro -s search@darts-0"):
                refuse_running()
        trial.communicate(b"\n")
    refuse_running()  # gone by now
    busy.write_text(json.dumps({"read": {"nas": [{"pid": 1, "cmd": "dvc repro"}]}}))
    refuse_running()  # the number is another process's
    busy.write_text("{")
    refuse_running()
