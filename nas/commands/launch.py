"""`dvc repro` with several trials at a time: nas repro --jobs 2.

DVC runs one stage after the other. Here `--jobs` trials run in parallel, spread over the GPUs if params.yaml asks for
one. Stages start from a process that has torch loaded (fork_server.py), this process does the work of DVC
(bookkeeping.py), and another logs all stages to MLflow. Results and dvc.lock are those of `dvc repro`.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

from nas.commands.bookkeeping import Bookkeeping, BookkeepingError
from nas.commands.fork_server import ForkServer, ServerError, send
from nas.commands.repository import refuse_broken_lock, refuse_running
from nas.commands.times import Times
from nas.project import clear_errors
from nas.tracking.service import TrackingService
from stages.report import LAUNCHED, show

TRIAL_STAGES = ("search", "derive", "retrain", "evaluate")
CPU_JOBS = 2
PLAIN = re.compile(r"python -m stages\.[\w .=/-]+")  # a command that needs no shell


class Launch:
    """One run of the pipeline: its processes, the free devices, and the signal that stopped it, if any."""

    def __init__(
        self, books: Bookkeeping, server: ForkServer, devices: Sequence[str], environment: dict[str, str]
    ) -> None:
        self.books, self.server, self.environment = books, server, environment
        self.devices: SimpleQueue[str] = SimpleQueue()
        for device in devices:
            self.devices.put(device)
        self.stopped = 0  # the signal
        self.shells: set[subprocess.Popen[bytes]] = set()
        self.times = Times(len(devices))

    def stage(self, name: str, device: str = "") -> bool:
        """Bring one stage up to date. Returns False, after printing the reason, if it fails or the run was stopped."""
        if self.stopped:
            return False
        try:
            with self.times.spent("DVC"):
                command = self.books.begin(name)
            if command is None:
                return True
            begun = time.monotonic()
            if code := self.execute(name, command, device):
                print(f"error: stage '{name}' failed with exit code {code}", file=sys.stderr, flush=True)
                return False
            seconds = time.monotonic() - begun
            with self.times.spent("DVC"):
                self.books.record(name)
        except (BookkeepingError, ServerError) as error:
            print(f"error: stage '{name}' failed: {error}", file=sys.stderr, flush=True)
            return False
        self.times.ran(name, seconds)
        return True

    def execute(self, name: str, command: str, device: str) -> int:
        """Run the command of a stage that the bookkeeping has begun, and return its exit code."""
        environment = self.environment | self.books.environment(name)
        environment |= {"CUDA_VISIBLE_DEVICES": device} if device else {}
        code = -1
        try:
            if self.stopped:  # while the stage was prepared
                return code
            print(f"Running stage '{name}':\n> {command}", flush=True)
            code = self.run(command, environment)
        finally:
            if code:
                self.books.abandon(name)
        return code

    def trial(self, key: str) -> bool:
        """Run the stages of one trial in order on the next free device, up to the first that fails."""
        device = self.devices.get()
        try:
            return all(self.stage(f"{stage}@{key}", device) for stage in TRIAL_STAGES)
        finally:
            self.devices.put(device)

    def run(self, command: str, environment: dict[str, str]) -> int:
        """Run a command and return its exit code."""
        # On macOS a process that has loaded torch cannot fork safely.
        if PLAIN.fullmatch(command) and is_this_python("python") and sys.platform != "darwin":
            return self.server.run(command.split()[2:], environment)
        shell = [os.environ.get("SHELL") or "/bin/sh", "-c", command]  # as DVC does
        child = subprocess.Popen(shell, env=os.environ | environment, start_new_session=True)
        self.shells.add(child)
        if self.stopped:  # between its start and here
            send(child.pid, self.stopped)
        code = child.wait()
        self.shells.discard(child)
        return code

    def stop(self, signum: int, _: FrameType | None) -> None:
        """Forward a signal to the stages, which save a checkpoint. No further stage begins."""
        self.stopped = signum
        self.server.signal(signum)
        for child in list(self.shells):
            send(child.pid, signum)


def is_this_python(name: str) -> bool:
    """Whether the program of this name on PATH is the interpreter that runs this code."""
    path = shutil.which(name)
    return path is not None and Path(path).parent.resolve() == Path(sys.executable).parent.resolve()


def slots(jobs: int | None, device: str) -> list[str]:
    """The value of CUDA_VISIBLE_DEVICES for each job: the GPUs in turn; empty on a CPU."""
    if device == "cpu":
        return [""] * (jobs or CPU_JOBS)
    places = visible() or [""]  # without a GPU, the first stage reports the error
    return [places[job % len(places)] for job in range(jobs or len(places))]


def visible() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, or all GPUs if it is not set."""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [device.strip() for device in named.split(",") if device.strip()]
    import torch

    return [str(device) for device in range(torch.cuda.device_count())]


@contextmanager
def signals(launch: Launch) -> Iterator[None]:
    before = {signum: signal.signal(signum, launch.stop) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@clear_errors
def launch(jobs: int | None = None) -> None:
    """Run the pipeline, several trials at a time. Stages that are up to date are skipped."""
    refuse_broken_lock()
    refuse_running()
    server = ForkServer()  # checks params.yaml and loads torch, while DVC looks for changes here
    try:
        try:
            books = Bookkeeping()
            stale = any(books.stale(name) for name in books.stages)
        finally:
            params = server.params()
        if stale:
            run_pipeline(books, server, params, jobs)
        else:
            print("Everything is up to date.")
    finally:
        server.close()
    show()


def run_pipeline(books: Bookkeeping, server: ForkServer, params: dict[str, Any], jobs: int | None) -> None:
    """Bring every stage up to date. Exits with 1 if one fails."""
    places = slots(jobs, params["device"])
    with TrackingService.start() as tracking:
        run = Launch(books, server, places, {LAUNCHED: "1"} | tracking.environment)
        with signals(run):
            failed = run_stages(run, [key for key, _, _ in params["runs"]], len(places))
    books.close()
    print(run.times)
    if run.stopped:
        sys.exit(128 + run.stopped)
    if failed:
        hint = "the reason is printed above; the next `nas repro` resumes from there"
        print(f"error: did not finish: {', '.join(failed)}; {hint}", file=sys.stderr)
        sys.exit(1)


def run_stages(run: Launch, keys: Sequence[str], jobs: int) -> list[str]:
    """Run what the trials depend on, then the trials in parallel, then the rest. Returns what did not finish."""
    trials = [f"{stage}@{key}" for key in keys for stage in TRIAL_STAGES]
    needs = run.books.needs()
    others = [name for name in needs if name not in trials]
    before = [name for name in others if any(name in needs[trial] for trial in trials)]
    for name in before:
        if not run.stage(name):
            return [name]
    with ThreadPoolExecutor(jobs) as pool:
        outcomes = dict(zip(keys, pool.map(run.trial, keys), strict=True))
    if failed := [key for key, good in outcomes.items() if not good]:
        return failed
    for name in others:
        if name not in before and not run.stage(name):
            return [name]
    return []
