"""Checks before a run: dvc.lock is complete, and no other process is running the pipeline."""

import json
import os
import re
from pathlib import Path

import yaml

LOCK, BUSY = Path("dvc.lock"), Path(".dvc/tmp/rwlock")


class LaunchError(ValueError):
    """The pipeline cannot be started."""


def refuse_broken_lock() -> None:
    """Raise LaunchError if dvc.lock is incomplete, as after a kill while DVC wrote it. DVC would suggest no remedy."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    if not LOCK.exists():
        return
    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(LOCK.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, Invalid):
        raise LaunchError(
            f"{LOCK}: incomplete, probably because a process was killed while writing it; restore it with "
            f"`git checkout {LOCK}`. Stages that ran since then are restored from DVC's cache."
        ) from None


def refuse_running() -> None:
    """Raise LaunchError if another process runs the pipeline. DVC would fail on its locks without a remedy."""
    try:
        held = json.loads(BUSY.read_text())
    except (OSError, ValueError):
        return
    reading = [info for infos in held.get("read", {}).values() for info in infos]
    pids = {info["pid"] for info in [*reading, *held.get("write", {}).values()]}
    for pid in sorted(pids - {os.getpid()}):  # in a container, a killed run may have had the same number
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            stop = f"kill -- -{pid}" if os.getpgid(pid) == pid else f"kill {pid}"
        except OSError:  # it has ended
            continue
        if re.search(r"\b(dvc|nas)\b.* repro\b", command):
            raise LaunchError(
                f"process {pid} is running the pipeline here ({command.strip()}); wait for it, or stop it "
                f"with `{stop}`: its progress is kept"
            )
