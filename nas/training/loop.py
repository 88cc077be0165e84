"""The training loop: epochs of steps over a job, checkpointed at steps. Resuming gives the same bits.

A job is a search or a retraining. Given its saved state, it is a pure function of its seed and its step counter. The
loop saves in addition the state of the random generators, the epoch, the step, the history and the time spent.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from nas.engine.tasks import Tally
from nas.training.checkpoint import Checkpoint
from nas.training.determinism import rng_state, set_rng_state
from nas.training.progress import Progress

Row = dict[str, Any]


class DivergedError(ValueError):
    """The loss is not finite."""


class Job(ABC):
    """What the loop runs. `images` is the number of images that one epoch trains on."""

    name: str
    device: torch.device
    epochs: int
    steps: int
    images: int

    @abstractmethod
    def start_epoch(self, epoch: int) -> None: ...

    @abstractmethod
    def step(self, epoch: int, step: int) -> Tally: ...

    @abstractmethod
    def end_epoch(self, epoch: int) -> Row: ...

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Outcome:
    """What a finished job returns in addition to its own state."""

    def __init__(self, history: list[Row], seconds: float, resumed: int) -> None:
        self.history, self.seconds, self.resumed = history, seconds, resumed


def run(job: Job, checkpoint: Checkpoint, on_row: Callable[[Row], None]) -> Outcome:
    """Run the job to its end, from its checkpoint if there is one.

    Args:
        on_row: called with the row of each epoch. On resume it is called for the earlier epochs again, as it may have
            missed them.

    Raises:
        DivergedError: the training loss of an epoch is not finite.
        Interrupted: stopped by a signal; everything up to the last step is saved.
    """
    epoch = step = resumed = 0
    history: list[Row] = []
    tally: Tally | None = None
    spent = 0.0
    saved = checkpoint.load(job.device)
    if saved is not None:
        job.load_state_dict(saved["job"])
        epoch, step, history = saved["epoch"], saved["step"], list(saved["history"])
        tally = Tally(**saved["tally"]) if saved["tally"] else None
        spent, resumed = saved["seconds"], saved["resumed"] + 1
        set_rng_state(saved["rng"], job.device)
        for row in history:
            on_row(row)
    started = time.monotonic()

    def seconds() -> float:
        return spent + time.monotonic() - started

    def state() -> dict[str, Any]:
        return {
            "epoch": epoch,
            "step": step,
            "history": history,
            "tally": vars(tally) if tally else None,
            "seconds": seconds(),
            "resumed": resumed,
            "rng": rng_state(job.device),
            "job": job.state_dict(),
        }

    progress = Progress(job.name, job.epochs, job.steps, job.images, done=epoch + step / job.steps)
    while epoch < job.epochs:
        if step == 0:
            job.start_epoch(epoch)
        while step < job.steps:
            counted = job.step(epoch, step)
            tally = counted if tally is None else tally + counted
            step += 1
            progress.step(epoch, step)
            if step < job.steps:
                checkpoint.step(state)
        assert tally is not None
        train_loss, train_acc = tally.means()
        if not math.isfinite(train_loss):
            raise DivergedError(f"{job.name}: the training loss of epoch {epoch} is {train_loss}; lower the lr")
        row = {"epoch": epoch, "train_loss": train_loss, "train_acc": train_acc, **job.end_epoch(epoch)}
        history.append(row)
        epoch, step, tally = epoch + 1, 0, None
        checkpoint.save(state())
        on_row(row)
        progress.epoch(row)
        checkpoint.step(state)
    return Outcome(history, seconds(), resumed)
