"""Checkpoints: one file per job, outside DVC's outs, in a folder named by the fingerprint of the work.

The same fingerprint goes on where it stopped; another starts clean; success deletes. A signal to stop is obeyed at
the next step, after a checkpoint, or at once where there is none.
"""

import fcntl
import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from nas.records import replacing

DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)
FORMAT = 2  # of what a checkpoint holds; part of every fingerprint


class BusyError(ValueError):
    """Another live process works on the same stage."""


class Interrupted(BaseException):
    """Asked to stop by a signal. The next `dvc repro` goes on from what the checkpoint holds, if anything was saved."""

    mlflow_status = "KILLED"

    def __init__(self, signum: int, saved: bool) -> None:
        after = "goes on from the checkpoint" if saved else "begins this stage again"
        super().__init__(f"stopped by {signal.Signals(signum).name}; the next `dvc repro` {after}")
        self.exit_code = 128 + signum


class Stop:
    """Whether a signal has asked to stop. Installed for the length of a `with`.

    Work without checkpoints stops at once, as nothing would look at `signum`; with one it stops where that is saved.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.waits = False

    def __enter__(self) -> "Stop":
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _: FrameType | None) -> None:
        self.signum = signum
        if not self.waits:
            raise Interrupted(signum, saved=False)


class Checkpoint:
    """The file of one job. `every` seconds a step may save; the end of an epoch always does."""

    def __init__(self, path: Path, stop: Stop, every: float = 60.0) -> None:
        self.path, self.stop, self.every = path, stop, every
        stop.waits = True
        self.saved = time.monotonic()

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The saved state, None when there is none. A damaged file costs a warning: it is put aside, and the job starts
        clean. What goes wrong on the device, as when its memory is full, is no fault of the file."""
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        except DEVICE_ERRORS:
            raise
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            aside = self.path.with_suffix(".damaged")
            self.path.replace(aside)
            print(f"warning: {aside}, a checkpoint, cannot be read ({error}); starting clean", file=sys.stderr)
            return None
        return state

    def save(self, state: dict[str, Any]) -> None:
        with replacing(self.path) as beside:
            torch.save(state, beside)
        self.saved = time.monotonic()

    def step(self, state: Callable[[], dict[str, Any]]) -> None:
        """After a step: save when it is time or when a signal asked to stop; in the latter case raise Interrupted."""
        if self.stop.signum is not None:
            self.save(state())
            raise Interrupted(self.stop.signum, saved=True)
        if time.monotonic() - self.saved > self.every:
            self.save(state())


@contextmanager
def workplace(folder: Path) -> Iterator[Stop]:
    """The folder of a stage's checkpoints, for one process at a time; deleted when the work ends well.

    Raises:
        BusyError: another live process has it, for instance one that outlived a killed `dvc`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise BusyError(
                f"process {lock.read().strip() or '?'} already works on this stage; wait for it or stop it first"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        with Stop() as stop:
            yield stop
        shutil.rmtree(folder)
