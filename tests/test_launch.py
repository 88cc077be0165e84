"""Where the trials of `make repro` run."""

import pytest
import torch

from stages.launch import slots


@pytest.mark.parametrize(
    ("named", "jobs", "expected"),
    [
        ("0,1,2", None, ["0", "1", "2"]),  # one on each
        ("3, 5", 1, ["3"]),
        ("3,5", 3, ["3", "5", "3"]),  # asked for
        ("GPU-8a,GPU-9b", None, ["GPU-8a", "GPU-9b"]),
        ("1", None, ["1"]),  # never two that nobody asked for on the only one
        ("1", 2, ["1", "1"]),
    ],
)
def test_trials_take_the_named_gpus_in_turn(monkeypatch, named, jobs, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert slots(jobs, "cuda") == expected


@pytest.mark.parametrize(("there", "expected"), [(4, ["0", "1", "2", "3"]), (0, [""])])
def test_where_none_is_named_all_gpus_are_taken(monkeypatch, there, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    assert slots(None, "cuda") == expected


def test_on_a_cpu_no_gpu_is_named(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert (slots(None, "cpu"), slots(3, "cpu")) == ([""] * 2, [""] * 3)
