"""Checkpoints: one file per job, outside DVC's outs, in a folder named by the fingerprint of the work.

Work with the same fingerprint resumes where it stopped, other work starts afresh, and success deletes the folder.
SIGTERM and SIGINT stop a job at the next step, after saving a checkpoint; work without checkpoints stops at once.
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
FORMAT = 1  # version of a checkpoint's content; part of every fingerprint


class BusyError(ValueError):
    """Another live process is running the same stage."""


class Interrupted(BaseException):
    """Stopped by a signal. The next `dvc repro` resumes from the checkpoint, if one was saved."""

    mlflow_status = "KILLED"

    def __init__(self, signum: int, saved: bool) -> None:
        after = "resumes from the checkpoint" if saved else "restarts this stage"
        super().__init__(f"stopped by {signal.Signals(signum).name}; the next `dvc repro` {after}")
        self.exit_code = 128 + signum


class Stop:
    """Records SIGTERM and SIGINT for the length of a `with`.

    `signum`: the signal received, None before. `waits`: whether a checkpoint looks at `signum`. If none does, a signal
    raises Interrupted at once.
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
    """The file of one job, saved at the end of every epoch and, at the earliest after `every` seconds, at a step."""

    def __init__(self, path: Path, stop: Stop, every: float = 60.0) -> None:
        self.path, self.stop, self.every = path, stop, every
        stop.waits = True
        self.saved = time.monotonic()

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The saved state, or None if absent.

        A damaged file is renamed to *.damaged with a warning, and the job starts afresh. Errors of the device, such as
        a full memory, are raised: the file is not their cause.
        """
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        except DEVICE_ERRORS:
            raise
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            aside = self.path.with_suffix(".damaged")
            self.path.replace(aside)
            print(f"warning: {aside}: cannot read this checkpoint ({error}); starting afresh", file=sys.stderr)
            return None
        return state

    def save(self, state: dict[str, Any]) -> None:
        with replacing(self.path) as new:
            torch.save(state, new)
        self.saved = time.monotonic()

    def step(self, state: Callable[[], dict[str, Any]]) -> None:
        """Call after a step. Saves if it is time to; after a signal saves and raises Interrupted."""
        if self.stop.signum is not None:
            self.save(state())
            raise Interrupted(self.stop.signum, saved=True)
        if time.monotonic() - self.saved > self.every:
            self.save(state())


@contextmanager
def workplace(folder: Path) -> Iterator[Stop]:
    """Reserve the folder of a stage's checkpoints for this process; delete it if the work succeeds.

    Raises:
        BusyError: another live process holds it, for instance one that outlived a killed `dvc`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise BusyError(
                f"process {lock.read().strip() or '?'} is already running this stage; wait for it to finish or stop it"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        with Stop() as stop:
            yield stop
        shutil.rmtree(folder)
