"""The process that talks to MLflow, for one stage or for a whole run: events as JSON lines, a failure on stdout."""

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Any, TextIO

from nas.tracking.rebuilding import record_digest, show_done
from nas.tracking.view import StageView, TrialRun, View, execution_lock, locked, surroundings

# Optional imports of MLflow (mlflow-skinny does without them): a third of its import time.
UNNEEDED = ("pandas", "scipy", "sklearn", "matplotlib")
LAST_SECONDS = 60  # to finish after the stage has closed the pipe or was killed


def events(lines: TextIO, last_seconds: int = LAST_SECONDS) -> Iterator[dict[str, Any]]:
    """The stage's events. If the stage was killed, a final `end` event with the status KILLED is added."""
    status = "KILLED"
    for line in lines:
        event = json.loads(line)
        if event["event"] == "end":
            status = event["status"]
            break
        yield event
    if last_seconds:
        signal.alarm(last_seconds)
    yield {"event": "end", "status": status}


def follow(source: Iterator[dict[str, Any]], view_of: Callable[[Path], View] = View, alone: Any = None) -> None:
    """Show one stage execution. `alone`: a lock held while MLflow is called, if several stages share a view."""
    alone = nullcontext() if alone is None else alone
    first = next(source)
    if first["event"] != "open":
        return  # the stage was killed before it began
    root, stage, key = Path(first["root"]), first["stage"], first["key"]
    # The worker of a resumed stage waits for the one of its killed predecessor, so that no step is lost or logged
    # twice. The lock is taken before anything slow, or the later worker may overtake.
    with locked(execution_lock(root, key, stage, first["fingerprint"])):
        with alone:
            view = view_of(root)
            tags = {**surroundings(root), **first["tags"], "nas.fingerprint": first["fingerprint"]}
            trial = TrialRun(view, key, first["params"], tags)
            show_done(trial, root / "runs" / key, before=stage)
            shown = trial.stage(stage, tags)
            shown.run.log_params(first["params"])
        for event in source:
            with alone:
                show(shown, event, root / "runs" / key)


def show(shown: StageView, event: Mapping[str, Any], folder: Path) -> None:
    match event["event"]:
        case "epoch":
            shown.log_epoch(event["row"], event["step"])
        case "figures":
            shown.log_figures(event["metrics"])
        case "cost":
            shown.log_cost(event["cost"])
        case "artifacts":
            shown.run.log_artifacts(map(Path, event["paths"]))
        case "end":
            digest = record_digest(folder, shown.stage)
            shown.end(event["status"], digest if event["status"] == "FINISHED" else None)


class Service:
    """Logs every stage that connects to a socket, each in a thread. MLflow is called by one thread at a time.

    The first failure ends tracking: later events are read and dropped, so that no stage waits for a dead server.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.listener, self.alone = listener, Lock()
        self.views: dict[Path, View] = {}
        self.failure = ""

    def view_of(self, root: Path) -> View:
        if root not in self.views:
            self.views[root] = View(root)
        return self.views[root]

    def run(self, lifeline: TextIO) -> str:
        """Serve until `lifeline` ends, finish what was received, and return the first failure, or an empty text."""
        threads: list[Thread] = []
        self.listener.setblocking(False)
        import_mlflow()  # while the first stage still loads its data
        while True:
            ready, _, _ = select.select([self.listener.fileno(), lifeline.fileno()], [], [])
            if self.listener.fileno() in ready:
                connection, _ = self.listener.accept()
                connection.setblocking(True)
                threads.append(Thread(target=self.serve, args=(connection,), daemon=True))
                threads[-1].start()
            else:  # no further stage will connect
                break
        for thread in threads:
            thread.join()
        return self.failure

    def serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("r", encoding="utf-8") as lines:
            try:
                follow(self.unless_failed(lines), self.view_of, self.alone)
            except Exception as error:
                self.failure = self.failure or described(error)
            for _ in lines:
                pass

    def unless_failed(self, lines: TextIO) -> Iterator[dict[str, Any]]:
        for event in events(lines, last_seconds=0):
            if self.failure:
                raise BrokenPipeError("tracking has ended")
            yield event


def import_mlflow() -> None:
    with suppress(ImportError):  # reported when the first view is made
        import mlflow.tracking  # noqa: F401


def described(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:600]}".replace("\n", " ")


def main() -> int:
    """`python -m nas.tracking.worker [FD]`: log one stage from stdin or, given a listening socket, all that connect."""
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # MLflow prints to stdout; stderr is discarded
    sys.modules.update(dict.fromkeys(UNNEEDED))  # type: ignore[arg-type]  # None makes an import fail
    failure = ""
    try:
        if len(sys.argv) > 1:
            failure = Service(socket.socket(fileno=int(sys.argv[1]))).run(sys.stdin)
        else:
            follow(events(sys.stdin))
    except Exception as error:  # any failure is reported as a warning and does not affect the stage
        failure = described(error)
    if failure:
        print(failure, file=report, flush=True)
    return int(bool(failure))


if __name__ == "__main__":
    os._exit(main())  # MLflow's own exit handlers wait for telemetry and traces
