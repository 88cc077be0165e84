"""Checks before a run: dvc.lock is complete, and no process of an earlier run is still working."""

import json
import os
import re
from pathlib import Path

import yaml

LOCK, BUSY = Path("dvc.lock"), Path(".dvc/tmp/rwlock")


class LaunchError(ValueError):
    """The pipeline cannot be started."""


def refuse_broken_lock() -> None:
    """A kill while DVC writes leaves half a dvc.lock. DVC would name a line of it, but no remedy."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    if not LOCK.exists():
        return
    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(LOCK.read_text()))
    except (yaml.YAMLError, Invalid):
        raise LaunchError(
            f"{LOCK}: incomplete, probably because a process was killed while writing it; restore it with "
            f"`git checkout {LOCK}`. Stages that ran since then are restored from DVC's cache."
        ) from None


def refuse_company() -> None:
    """A process that outlived an earlier run holds DVC's locks; name it before DVC fails on them."""
    try:
        held = json.loads(BUSY.read_text())
    except (OSError, ValueError):
        return
    reading = [info for infos in held.get("read", {}).values() for info in infos]
    for pid in sorted({info["pid"] for info in [*reading, *held.get("write", {}).values()]}):
        try:
            said = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            stop = f"kill -- -{pid}" if os.getpgid(pid) == pid else f"kill {pid}"
        except OSError:  # it has ended
            continue
        if re.search(r"\b(dvc|nas|launch)\b", said) and (" repro" in said or "launch" in said):
            raise LaunchError(
                f"process {pid} of an earlier run is still working here ({said.strip()}); wait for it, or stop it with "
                f"`{stop}`: its progress is kept"
            )
