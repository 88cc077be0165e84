"""What keeps a run from beginning: half a dvc.lock, and processes of an earlier run that still work."""

import json
import os
import re
from pathlib import Path

import yaml

LOCK, BUSY = Path("dvc.lock"), Path(".dvc/tmp/rwlock")


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
        if re.search(r"\b(dvc|nas|launch)\b", said) and (" repro" in said or "launch" in said):
            raise LaunchError(
                f"process {pid} of an earlier run still works here ({said.strip()}); wait until it is done, or stop it "
                f"with `{stop}`: what it did up to then is kept"
            )
