"""`dvc repro` with several trials at a time: nas repro --jobs 2.

DVC runs one stage after the other. Here trials run side by side, as many as there are jobs, spread over the GPUs where
params.yaml asks for one. Stages start from a process that has torch loaded (fork_server.py), one process keeps DVC's
books (bookkeeping.py), and one process shows all stages in MLflow. Results and dvc.lock are those of `dvc repro`.
"""

import os
import shlex
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
from typing import Annotated, Any

import typer

from nas.commands.bookkeeping import Bookkeeping
from nas.commands.fork_server import ForkServer, ServerError
from nas.commands.repository import refuse_broken_lock, refuse_company
from nas.commands.times import Times
from nas.project import clear_errors
from nas.tracking.service import TrackingService
from stages.report import LAUNCHED, show

TRIAL_STAGES = ("search", "derive", "retrain", "evaluate")
CPU_JOBS = 2
JobsOption = Annotated[
    int | None, typer.Option(min=1, help=f"Trials side by side; by default {CPU_JOBS} on a CPU, else one per GPU.")
]
app = typer.Typer(add_completion=False)


class Launch:
    """One run of the pipeline: its processes, its free devices, and the signal that stopped it, if any."""

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
        """Bring one stage up to date; False if it failed or the run was stopped before it."""
        if self.stopped:
            return False
        with self.times.spent("DVC"):
            command = self.books.begin(name)
        if command is None:
            return True
        print(f"Running stage '{name}':\n> {command}", flush=True)
        environment = self.environment | self.books.environment(name)
        environment |= {"CUDA_VISIBLE_DEVICES": device} if device else {}
        code = -1
        try:
            begun = time.monotonic()
            code = self.run(command, environment)
        finally:
            if code:
                self.books.abandon(name)
        if code:
            print(f"error: stage '{name}' failed with exit code {code}", file=sys.stderr, flush=True)
            return False
        seconds = time.monotonic() - begun
        with self.times.spent("DVC"):
            self.books.record(name)
        self.times.ran(name, seconds)
        return True

    def trial(self, key: str) -> bool:
        """The stages of one trial in their order, on the next free device; the first that fails ends the trial."""
        device = self.devices.get()
        try:
            return all(self.stage(f"{stage}@{key}", device) for stage in TRIAL_STAGES)
        finally:
            self.devices.put(device)

    def run(self, command: str, environment: dict[str, str]) -> int:
        """Exit code of the command of a stage."""
        words = shlex.split(command)
        if words[:2] == ["python", "-m"] and words[2].startswith("stages.") and is_this_python("python"):
            return self.server.run(words[2:], environment)
        shell = [os.environ.get("SHELL") or "/bin/sh", "-c", command]  # as DVC does
        child = subprocess.Popen(shell, env=os.environ | environment, start_new_session=True)
        self.shells.add(child)
        if self.stopped:  # between its start and this
            os.killpg(child.pid, self.stopped)
        code = child.wait()
        self.shells.discard(child)
        return code

    def stop(self, signum: int, _: FrameType | None) -> None:
        """Hand a signal on to the stages, which save a checkpoint; no further stage begins."""
        self.stopped = signum
        self.server.signal(signum)
        for child in list(self.shells):
            os.killpg(child.pid, signum)


def is_this_python(name: str) -> bool:
    """Whether a program on PATH is the interpreter that runs this."""
    path = shutil.which(name)
    return path is not None and Path(path).resolve() == Path(sys.executable).resolve()


def slots(jobs: int | None, device: str) -> list[str]:
    """What CUDA_VISIBLE_DEVICES is for each job: the GPUs in turn, and none named on a CPU."""
    if device == "cpu":
        return [""] * (jobs or CPU_JOBS)
    places = visible() or [""]  # without any, the first stage says so
    return [places[job % len(places)] for job in range(jobs or len(places))]


def visible() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, else all that there are."""
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


@app.command()
@clear_errors
def launch(jobs: JobsOption = None) -> None:
    """Run the pipeline, several trials at a time; stages that are up to date are passed over."""
    refuse_broken_lock()
    refuse_company()
    server = ForkServer()  # loads torch and checks params.yaml, beside what follows
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
    except ServerError:
        sys.exit(1)  # it has printed why
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
        told = "the reason is printed above; the next `nas repro` resumes from there"
        print(f"error: did not finish: {', '.join(failed)}; {told}", file=sys.stderr)
        sys.exit(1)


def run_stages(run: Launch, keys: Sequence[str], jobs: int) -> list[str]:
    """First what trials depend on, then the trials side by side, then the rest; what did not finish."""
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


if __name__ == "__main__":
    app()
