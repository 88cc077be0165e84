"""The process that talks to MLflow for one stage execution: events as JSON lines on stdin, a failure on stdout."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from nas.tracking.rebuilding import record_digest, show_done
from nas.tracking.view import Trial, View, execution_lock, locked, surroundings

# What MLflow uses when it is there (as in mlflow-skinny, it need not be): a third of its import time.
UNNEEDED = ("pandas", "scipy", "sklearn", "matplotlib")
LAST_SECONDS = 60  # to finish once the stage has closed the pipe, or was killed


def events(lines: TextIO) -> Iterator[dict[str, Any]]:
    """The stage's events, and a last one in its place when it was killed before it could say that it ended."""
    status = "KILLED"
    for line in lines:
        event = json.loads(line)
        if event["event"] == "end":
            status = event["status"]
            break
        yield event
    signal.alarm(LAST_SECONDS)
    yield {"event": "end", "status": status}


def follow(lines: TextIO) -> None:
    source = events(lines)
    first = next(source)
    if first["event"] != "open":
        return  # the stage was killed before it said anything
    root, stage, key = Path(first["root"]), first["stage"], first["key"]
    # A resumed stage's worker waits for the one that its killed forerunner left: no step is lost, none comes twice.
    # Before anything slow, or the later one may overtake.
    with locked(execution_lock(root, key, stage, first["fingerprint"])):
        view = View(root)
        tags = {**surroundings(root), **first["tags"], "nas.fingerprint": first["fingerprint"]}
        trial = Trial(view, key, first["params"], tags)
        show_done(trial, root / "runs" / key, before=stage)
        shown = trial.stage(stage, tags)
        shown.run.log_params(first["params"])
        for event in source:
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
                    digest = record_digest(root / "runs" / key, stage)
                    shown.end(event["status"], digest if event["status"] == "FINISHED" else None)


def main() -> int:
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # MLflow prints; stderr leads nowhere
    sys.modules.update(dict.fromkeys(UNNEEDED))  # type: ignore[arg-type]  # None makes an import fail
    try:
        follow(sys.stdin)
    except Exception as error:  # whatever it is, the stage shall only hear of it
        print(f"{type(error).__name__}: {str(error)[:600]}".replace("\n", " "), file=report, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    os._exit(main())  # MLflow's own exit handlers wait for telemetry and traces
