"""`dvc repro` with several trials at a time: python -m nas.commands.launch --jobs 2.

DVC runs one stage after the other. Here each trial's stages are handed to a DVC of their own, as many trials side by
side as there are jobs, spread over the GPUs where params.yaml asks for one; a last plain `dvc repro` makes the report
and whatever is left. Results are those of `dvc repro`: the order of the work changes no bit.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import IO, Annotated

import typer
import yaml

from nas.project import clear_errors, load
from stages.report import LAUNCHED, show

STAGES = ("search", "derive", "retrain", "evaluate")
CPU_JOBS = 2
JobsOption = Annotated[
    int | None, typer.Option(min=1, help=f"Trials side by side; by default {CPU_JOBS} on a CPU, else one per GPU.")
]
LOCK, BUSY = Path("dvc.lock"), Path(".dvc/tmp/rwlock")
app = typer.Typer(add_completion=False)


class LaunchError(ValueError):
    """Nothing can be launched as things are."""


def refuse_broken_lock() -> None:
    """A kill in the middle of DVC's writing leaves half of dvc.lock; DVC then names a line of it, and no remedy."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    if not LOCK.exists():
        return
    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(LOCK.read_text()))
    except (yaml.YAMLError, Invalid):
        raise LaunchError(
            f"{LOCK}: cut short, as by a kill while it was written; bring it back with `git checkout {LOCK}`. Stages "
            "that were done since come back from DVC's cache."
        ) from None


def refuse_company() -> None:
    """What a killed launcher left at work would make DVC fail at the first stage, in words that tell nobody why."""
    try:
        held = json.loads(BUSY.read_text())
    except (OSError, ValueError):
        return
    reading = [info for infos in held.get("read", {}).values() for info in infos]
    for pid in sorted({info["pid"] for info in [*reading, *held.get("write", {}).values()]}):
        try:
            said = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            stop = f"kill -- -{pid}" if os.getpgid(pid) == pid else f"kill {pid}"
        except OSError:  # it ended
            continue
        if "dvc" in said and " repro " in said:
            raise LaunchError(
                f"process {pid} of an earlier run still works here ({said.strip()}); wait until it is done, or stop it "
                f"with `{stop}`: what it did up to then is kept"
            )


class Launcher:
    """Children in process groups of their own, so that a signal to this process reaches all of them, and DVC's."""

    def __init__(self, devices: list[str]) -> None:
        self.devices: SimpleQueue[str] = SimpleQueue()
        for device in devices:
            self.devices.put(device)
        self.children: set[subprocess.Popen[bytes]] = set()
        self.stopped = 0  # the signal that asked for it

    def run(self, *arguments: str, device: str = "") -> bool:
        """One DVC command; whether it went well."""
        return not self.stopped and self.finish(self.start(*arguments, device=device))

    def start(self, *arguments: str, device: str = "", output: IO[str] | None = None) -> "subprocess.Popen[bytes]":
        """A DVC command under way, in a process group of its own; it speaks to `output`, else to the terminal."""
        environment = os.environ | {LAUNCHED: "1"} | ({"CUDA_VISIBLE_DEVICES": device} if device else {})
        command = [sys.executable, "-u", "-m", "dvc", "--wait-for-lock", *arguments]
        error = subprocess.STDOUT if output else None
        return subprocess.Popen(command, env=environment, start_new_session=True, stdout=output, stderr=error)

    def finish(self, child: "subprocess.Popen[bytes]") -> bool:
        """Wait for it, and hand it the signals meanwhile; whether it went well."""
        self.children.add(child)
        if self.stopped:  # between its start and this
            self.signal(child)
        code = child.wait()
        self.children.discard(child)
        return code == 0

    def trial(self, key: str) -> bool:
        """The stages of one trial in their order, on the next free device; the first that fails ends the trial."""
        device = self.devices.get()
        try:
            # -s: each stage alone, in this order; a look at `prepare` in every trial would make them wait or fail
            return self.run("repro", "-s", *(f"{stage}@{key}" for stage in STAGES), device=device)
        finally:
            self.devices.put(device)

    def stop(self, signum: int, _: FrameType | None) -> None:
        self.stopped = signum
        for child in list(self.children):
            self.signal(child)

    def signal(self, child: "subprocess.Popen[bytes]") -> None:
        with contextlib.suppress(ProcessLookupError):  # ended by itself
            os.killpg(child.pid, self.stopped)


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


@app.command()
@clear_errors
def launch(jobs: JobsOption = None) -> None:
    """Run the pipeline, several trials at a time; stages that are up to date are passed over."""
    refuse_broken_lock()
    refuse_company()
    asked = subprocess.Popen([sys.executable, "-m", "dvc", "status", "--quiet"])  # beside the check of params.yaml
    try:
        config = load()
    finally:
        stale = asked.wait() != 0
    if not stale:
        print("Everything is up to date.")
        show()
        return
    places = slots(jobs, config.runtime.device)
    launcher = Launcher(places)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, launcher.stop)
    keys = [key for key, _, _ in config.runs()]
    if not launcher.run("repro", "prepare"):  # once, before the trials that all start with it
        sys.exit(1)
    with ThreadPoolExecutor(len(places)) as pool:
        outcomes = dict(zip(keys, pool.map(launcher.trial, keys), strict=True))
    failed = [key for key, good in outcomes.items() if not good]
    if failed:
        told = "why stands above, and to run again is to go on from there"
        print(f"error: trials that did not finish: {', '.join(failed)}; {told}", file=sys.stderr)
        sys.exit(1)
    if not launcher.run("repro"):
        sys.exit(1)
    show()


if __name__ == "__main__":
    app()
