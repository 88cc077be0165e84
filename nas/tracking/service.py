"""One process that logs all stages of a run to MLflow, so that MLflow is imported once and not by each stage."""

import logging
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from nas.tracking.tracker import PATIENCE, SERVICE, worker_process

logger = logging.getLogger(__name__)


class TrackingService:
    """Stages find it through `environment`, which is empty if tracking is off."""

    def __init__(
        self, process: "subprocess.Popen[str] | None", folder: Path | None, patience: float = PATIENCE
    ) -> None:
        self._process, self._folder, self._patience = process, folder, patience
        self.environment = {} if folder is None else {SERVICE: str(folder / "socket")}

    @classmethod
    def start(cls) -> Self:
        """Start the process, unless NAS_TRACKING=off. Stages may connect at once.

        Without a usable temporary folder there is no service, and each stage starts a process of its own.
        """
        if os.environ.get("NAS_TRACKING", "").lower() == "off":
            return cls(None, None)
        folder = None
        try:
            folder = Path(tempfile.mkdtemp(prefix="nas-"))
            return cls(start_service(folder / "socket"), folder)
        except OSError:  # for instance a TMPDIR too long for a socket's path, which has at most 104 bytes
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            return cls(None, None)

    def close(self) -> None:
        """Wait until all events are logged, at most `patience` seconds. A failure is reported as one warning."""
        if self._process is None or self._folder is None:
            return
        try:
            failure, _ = self._process.communicate(timeout=self._patience)  # closes its stdin, which asks it to end
            if failure or self._process.returncode:
                warn(failure.strip() or f"its process ended with code {self._process.returncode}")
        except subprocess.TimeoutExpired:
            self._process.kill()
            warn(f"MLflow did not finish within {self._patience:g} s")
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_service(address: Path) -> "subprocess.Popen[str]":
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(address))
        listener.listen(64)
        return worker_process(listener.fileno())


def warn(reason: str) -> None:
    logger.warning("tracking is off: %s (`nas track rebuild` fills the view later)", reason)
