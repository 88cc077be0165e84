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
    """Starts DVC commands in process groups of their own and forwards signals to all processes in them."""

    def __init__(self, devices: list[str]) -> None:
        self.devices: SimpleQueue[str] = SimpleQueue()
        for device in devices:
            self.devices.put(device)
        self.children: set[subprocess.Popen[bytes]] = set()
        self.stopped = 0  # the signal, once one has arrived

    def run(self, *arguments: str, device: str = "") -> bool:
        """Run one DVC command; True if it succeeds."""
        return not self.stopped and self.finish(self.start(*arguments, device=device))

    def start(self, *arguments: str, device: str = "", output: IO[str] | None = None) -> "subprocess.Popen[bytes]":
        """Start a DVC command in a process group of its own. It prints to `output`, by default to the terminal."""
        environment = os.environ | {LAUNCHED: "1"} | ({"CUDA_VISIBLE_DEVICES": device} if device else {})
        command = [sys.executable, "-u", "-m", "dvc", "--wait-for-lock", *arguments]
        error = subprocess.STDOUT if output else None
        return subprocess.Popen(command, env=environment, start_new_session=True, stdout=output, stderr=error)

    def finish(self, child: "subprocess.Popen[bytes]") -> bool:
        """Wait for a command; True if it succeeds. Signals that arrive in between are forwarded to it."""
        self.children.add(child)
        if self.stopped:  # the signal arrived between start and here
            self.signal(child)
        code = child.wait()
        self.children.discard(child)
        return code == 0

    def stop(self, signum: int, _: FrameType | None) -> None:
        self.stopped = signum
        for child in list(self.children):
            self.signal(child)

    def signal(self, child: "subprocess.Popen[bytes]") -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(child.pid, self.stopped)
