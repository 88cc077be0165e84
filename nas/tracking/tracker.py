"""The side of tracking that runs in a stage. It sends events to a separate process, `nas.tracking.worker`.

Importing MLflow takes seconds of pure Python, which in a thread would slow down training. A process of its own uses
another core, can hang without blocking the stage, outlives a killed stage long enough to report it, and can be killed.
The launcher shares one such process among all stages (nas/tracking/service.py).
"""

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Self, TextIO

PATIENCE = 60.0  # seconds that closing may take; MLflow starts in 4, or in 25 without bytecode on a busy machine
SERVICE = "NAS_TRACKER"  # the socket of a service that logs all stages of a run (nas/tracking/service.py)
DVC_TAGS = {"dvc.stage": "DVC_STAGE", "dvc.exp": "DVC_EXP_NAME"}  # tag -> DVC's environment variable
logger = logging.getLogger(__name__)


def connected(path: str) -> TextIO:
    """A text stream to the socket at `path`. Raises OSError if no process listens on it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as service:
        service.connect(path)
        return service.makefile("w", encoding="utf-8")


class Tracker:
    """Shows one execution of a stage in MLflow. No method raises, and only `close` waits.

    The first failure is reported as a warning and ends tracking for this execution. NAS_TRACKING=off disables tracking.
    """

    def __init__(self, process: "subprocess.Popen[str] | None", patience: float, service: TextIO | None = None) -> None:
        self._process, self._patience = process, patience
        self._sink = process.stdin if process is not None else service
        self._events: SimpleQueue[str | None] = SimpleQueue()
        self._feeder = Thread(target=self._feed, name="tracking", daemon=True)
        self._warned = False
        if self._sink is not None:
            self._feeder.start()

    @classmethod
    def start(cls, patience: float = PATIENCE) -> Self:
        """Start the process, or connect to the launcher's. `close` waits for it at most `patience` seconds.

        The process imports MLflow while the stage does its own imports; `begin` then names the stage to show.
        """
        if os.environ.get("NAS_TRACKING", "").lower() == "off":
            return cls(None, patience)
        if path := os.environ.get(SERVICE):
            with suppress(OSError):  # the service has ended: this stage starts a worker of its own
                return cls(None, patience, connected(path))
        return cls(start_worker(), patience)

    def begin(
        self, stage: str, key: str, params: Mapping[str, Any], tags: Mapping[str, str], fingerprint: str, root: Path
    ) -> None:
        """Show stage `stage` of trial `key`. An execution with the same fingerprint is continued.

        Args:
            params: flat or nested; nested names are joined by dots. Parameters that the run already has are kept.
            tags: further tags, such as device and versions.
            root: the project's folder. DVC_ROOT takes precedence, because `dvc exp run --temp` works in a copy.
        """
        dvc = {name: os.environ[variable] for name, variable in DVC_TAGS.items() if variable in os.environ}
        content = {"stage": stage, "key": key, "params": params, "tags": {**dvc, **tags}, "fingerprint": fingerprint}
        self._send("open", **content, root=str(root.resolve()))

    @classmethod
    def open(
        cls,
        stage: str,
        key: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        fingerprint: str,
        root: Path,
        patience: float = PATIENCE,
    ) -> Self:
        """`start` and `begin` in one."""
        tracker = cls.start(patience)
        tracker.begin(stage, key, params, tags, fingerprint, root)
        return tracker

    def log_epoch(self, row: Mapping[str, Any], step: int) -> None:
        """Log the numbers of a history row. Steps logged before an interruption are not logged again."""
        self._send("epoch", row=dict(row), step=step)

    def log_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Log the final figures of the stage (its `*.metrics.json`) on its own run and on the trial's."""
        self._send("figures", metrics=dict(metrics))

    def log_cost(self, cost: Mapping[str, Any]) -> None:
        """Log the stage's `*.cost.json`: numbers as metrics, the rest as tags, all named `cost.*`."""
        self._send("cost", cost=dict(cost))

    def log_artifacts(self, paths: Iterable[Path]) -> None:
        """Log copies of these files. Missing ones are skipped."""
        self._send("artifacts", paths=[str(Path(path).resolve()) for path in paths])

    def close(self, status: str = "FINISHED") -> None:
        """Wait for the worker, at most `patience` seconds.

        Call it after writing the stage's records: the run is marked with their hash, so that `rebuild` skips it.
        """
        self._send("end", status=status)
        self._events.put(None)
        if self._sink is None:
            return
        self._feeder.join(self._patience)
        if self._feeder.is_alive():
            self._warn(f"MLflow did not finish within {self._patience:g} s")
            if self._process is not None:
                self._process.kill()
                self._feeder.join(1)  # the feeder reaps the killed process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(status_of(error))

    def _send(self, event: str, **content: Any) -> None:
        if self._sink is not None:
            self._events.put(json.dumps({"event": event, **content}, default=str))

    def _feed(self) -> None:
        """Runs in a thread, so that a full pipe or a dead worker does not block training."""
        assert self._sink is not None
        with suppress(BrokenPipeError, ConnectionResetError):
            for line in iter(self._events.get, None):
                self._sink.write(line + "\n")
                self._sink.flush()
        if self._process is None:  # a service, which reports failures itself, once for all stages
            with suppress(OSError):
                self._sink.close()
            return
        failure, _ = self._process.communicate()
        if failure or self._process.returncode:
            self._warn(failure.strip() or f"its process ended with code {self._process.returncode}")

    def _warn(self, reason: str) -> None:
        if not self._warned:  # the feeder and `close` may both fail
            self._warned = True
            logger.warning("tracking is off: %s (`nas track rebuild` fills the view later)", reason)


def status_of(error: BaseException | None) -> str:
    """MLflow's status for how a stage ended. An exception may define its own, as Interrupted does."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    own = getattr(error, "mlflow_status", None)
    return str(own or ("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"))


def start_worker() -> "subprocess.Popen[str] | None":
    """Start `nas.tracking.worker` in its own session, so that signals to the stage's process group do not reach it."""
    try:
        return worker_process()
    except OSError as error:
        logger.warning("tracking is off: %s", error)
        return None


def worker_process(*listener: int) -> "subprocess.Popen[str]":
    """A worker that reads events from its stdin, or from those that connect to the socket with this descriptor."""
    here = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "nas.tracking.worker", *map(str, listener)],
        pass_fds=listener,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
