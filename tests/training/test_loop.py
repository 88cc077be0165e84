"""The loop over real jobs: a search and a retraining on a few digits."""

import math
from pathlib import Path

import pytest
import torch

from nas.training.checkpoint import Checkpoint, Interrupted, Stop
from nas.training.loop import DivergedError, Job, Row, run

JOBS = ["search", "retrain"]


@pytest.fixture
def build(search_job, retrain_job):
    """Builds a job at its start, a search or a retraining."""
    return lambda job_type, seed=0: search_job(seed=seed) if job_type == "search" else retrain_job(seed=seed)


class StopsAt(Job):
    """A job that sets `stop.signum` after some steps, as a signal would."""

    def __init__(self, job, stop, steps):
        self.job, self.stop, self.left = job, stop, steps
        self.name, self.device, self.epochs, self.steps, self.images = (
            job.name, job.device, job.epochs, job.steps, job.images
        )  # fmt: skip

    def start_epoch(self, epoch):
        self.job.start_epoch(epoch)

    def step(self, epoch, step):
        self.left -= 1
        if self.left == 0:
            self.stop.signum = 15
        return self.job.step(epoch, step)

    def end_epoch(self, epoch):
        return self.job.end_epoch(epoch)

    def state_dict(self):
        return self.job.state_dict()

    def load_state_dict(self, state):
        self.job.load_state_dict(state)


def flat(value, where=""):
    """Path -> value of every leaf of a state; tensors as bytes."""
    if isinstance(value, torch.Tensor):
        return {where: (value.dtype, tuple(value.shape), value.detach().contiguous().numpy().tobytes())}
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, inner in items for k, v in flat(inner, f"{where}/{key}").items()}
    return {where: value}


def undisturbed(build, job_type, tmp_path, seed=0):
    """History, final state and generator of an uninterrupted job; its last checkpoint is `tmp_path/undisturbed`."""
    job = build(job_type, seed)
    outcome = run(job, Checkpoint(tmp_path / "undisturbed", Stop()), lambda row: None)
    assert outcome.resumed == 0
    return outcome.history, flat(job.state_dict()), torch.get_rng_state()


def go(build, job_type, path, steps, on_row):
    """Run a job to its end or for `steps` steps, as one process would; (outcome, or None if stopped; job)."""
    stop = Stop()
    torch.manual_seed(0)  # an unrelated state, as in a new process
    job = build(job_type)
    try:
        return run(StopsAt(job, stop, steps), Checkpoint(path, stop), on_row), job
    except Interrupted:
        return None, job


@pytest.mark.parametrize("job_type", JOBS)
def test_a_job_stopped_at_every_kth_step_ends_with_the_same_bits(build, job_type, tmp_path):
    history, state, rng = undisturbed(build, job_type, tmp_path)
    names = {"search": {"valid_loss", "valid_acc", "entropy"}, "retrain": {"drop_path"}}[job_type]
    assert names | {"epoch", "lr", "train_loss", "train_acc"} <= set(history[0])
    total = 3 * len(history)
    for k in (1, 2, 4)[: len(history) + 1]:
        path: Path = tmp_path / f"every-{k}"
        for _ in range(total // k):
            outcome, _ = go(build, job_type, path, k, lambda row: None)
            assert outcome is None
            assert path.exists()
        rows: list[Row] = []
        outcome, job = go(build, job_type, path, k, rows.append)
        assert outcome.resumed == total // k
        assert outcome.history == rows == history
        assert flat(job.state_dict()) == state
        assert torch.equal(torch.get_rng_state(), rng)


def test_the_same_seed_gives_the_same_bits_and_another_seed_different_ones(build, tmp_path):
    first, again, other = (undisturbed(build, "retrain", tmp_path / str(n), seed) for n, seed in enumerate((0, 0, 1)))
    assert again[:2] == first[:2]
    assert other[0] != first[0]
    assert other[1] != first[1]


def test_a_finished_job_is_not_trained_again(build, tmp_path):
    history, state, _ = undisturbed(build, "retrain", tmp_path)
    job = build("retrain")
    rows: list[Row] = []
    outcome = run(job, Checkpoint(tmp_path / "undisturbed", Stop()), rows.append)
    assert (outcome.history, outcome.resumed, rows) == (history, 1, history)
    assert flat(job.state_dict()) == state


def test_the_history_has_a_row_per_epoch_in_the_names_of_the_design(build, tmp_path):
    history, _, _ = undisturbed(build, "retrain", tmp_path)
    assert [row["epoch"] for row in history] == [0, 1]
    assert [row["drop_path"] for row in history] == [0.0, pytest.approx(0.15)]
    assert all(set(row) == {"epoch", "lr", "drop_path", "train_loss", "train_acc"} for row in history)
    assert history[0]["lr"] > history[1]["lr"] > 0
    assert all(0 <= row["train_acc"] <= 100 and math.isfinite(row["train_loss"]) for row in history)


@pytest.mark.parametrize("damage", ["nothing in it", "not a checkpoint", "its head alone", "a forbidden type"])
def test_a_damaged_checkpoint_is_reported_and_the_job_starts_afresh(build, damage, tmp_path, capsys):
    history, state, _ = undisturbed(build, "retrain", tmp_path)
    path = tmp_path / "undisturbed"
    if damage == "nothing in it":
        path.write_bytes(b"")
    elif damage == "not a checkpoint":
        path.write_bytes(b"\x00garbage" * 100)
    elif damage == "its head alone":
        path.write_bytes(path.read_bytes()[:-500])
    else:
        torch.save({"epoch": Checkpoint}, path)
    capsys.readouterr()
    job = build("retrain")
    outcome = run(job, Checkpoint(path, Stop()), lambda row: None)
    assert f"warning: {path}.damaged: cannot read this checkpoint" in capsys.readouterr().err
    assert Path(f"{path}.damaged").exists(), "kept for inspection"
    assert (outcome.history, outcome.resumed) == (history, 0)
    assert flat(job.state_dict()) == state


def test_a_loss_that_is_not_finite_ends_the_job_with_a_remedy(retrain_job, checkpoint):
    job = retrain_job(lr=1e30, clip=1e30)
    with pytest.raises(
        DivergedError, match=r"^retrain darts-0 main, seed 0: the training loss of epoch 0 is .*; lower"
    ):
        run(job, checkpoint, lambda row: None)


def test_a_job_reports_its_progress(build, checkpoint, capsys):
    run(build("retrain"), checkpoint, lambda row: None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1].split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert lines[1].endswith("ETA 0:00:00")
