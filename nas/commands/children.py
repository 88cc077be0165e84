"""DVC commands as child processes, for ablations: each in a process group of its own."""

import contextlib
import os
import subprocess
import sys
from queue import SimpleQueue
from types import FrameType
from typing import IO

from stages.report import LAUNCHED


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

    def stop(self, signum: int, _: FrameType | None) -> None:
        self.stopped = signum
        for child in list(self.children):
            self.signal(child)

    def signal(self, child: "subprocess.Popen[bytes]") -> None:
        with contextlib.suppress(ProcessLookupError):  # ended by itself
            os.killpg(child.pid, self.stopped)
