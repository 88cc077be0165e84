"""Copies of this project in temporary folders, small enough to run, and the output of DVC in them."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
# Small, but with several steps and epochs between which a run can be interrupted.
TINY = {
    "methods": ["random", "darts"],
    "seeds": [0],
    "data.splits": {
        "search_train": "train[:64]",
        "search_valid": "train[64:128]",
        "retrain": "train[:96]",
        "test": "test[:60]",
    },
    "search.common.epochs": 3,
    "search.common.batch": 32,
    "search.common.lr": 0.025,
    "search.common.cells": 3,
    "search.common.channels": 2,
    "search.random.samples": 2,
    "search.darts.alpha_lr": 0.003,
    "search.darts.warmup_epochs": 1,
    "derive.darts.rule": "top2",
    "retrain.cells": 3,
    "retrain.channels": 2,
    "retrain.epochs": 6,
    "retrain.batch": 32,
    "evaluate.batch": 256,
}
NOT_OURS = ("DVC_", "GIT_", "MLFLOW_", "NAS_")
UNTRACKED = ("dvc.lock", "runs/", "report/")


class Project:
    """A Git repository with DVC in it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def path(self, name: str) -> Path:
        return self.folder / name

    def start(self, *command: str, **kwargs: Any) -> "subprocess.Popen[str]":
        """Start a command in a process group of its own, with stdout and stderr in one pipe."""
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, start_new_session=True, **{**pipe, **kwargs}
        )

    def run(self, *command: str, code: int | None = 0) -> str:
        """Run a command and return its output. Its exit code must be `code`; None stands for any failure."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=900
        )
        output = done.stdout + done.stderr
        assert done.returncode == code or (code is None and done.returncode), f"{command}: {done.returncode}\n{output}"
        return output

    def dvc(self, *arguments: str, code: int | None = 0) -> str:
        return self.run("dvc", *arguments, code=code)

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", "state")

    def params(self) -> dict[str, Any]:
        tree: dict[str, Any] = yaml.safe_load(self.path("params.yaml").read_text())
        return tree

    def edit(self, **changes: Any) -> None:
        """Set values in params.yaml by dotted name, with `__` for a dot. None removes the key."""
        self.set({name.replace("__", "."): value for name, value in changes.items()})

    def set(self, changes: dict[str, Any]) -> None:
        reader, path = YAML(), self.path("params.yaml")
        reader.Representer = type("Representer", (reader.Representer,), {})  # DVC uses the original class
        reader.representer.add_representer(
            type(None), lambda shown, _: shown.represent_scalar("tag:yaml.org,2002:null", "null")
        )
        tree = reader.load(path)
        for name, value in changes.items():
            *parents, last = name.split(".")
            section = tree
            for parent in parents:
                section = section[parent]
            if value is None:
                del section[last]
            else:
                section[last] = value
        reader.dump(tree, path)

    def lock(self) -> dict[str, Any]:
        stages: dict[str, Any] = yaml.safe_load(self.path("dvc.lock").read_text())["stages"]
        return stages

    def outs(self, *stages: str) -> dict[str, str]:
        """Output -> checksum in dvc.lock."""
        lock = self.lock()
        return {out["path"]: out["md5"] for stage in stages or lock for out in lock[stage].get("outs", [])}

    def results(self, *stages: str) -> dict[str, str]:
        """The outputs that are the same bits on every run."""
        return {path: md5 for path, md5 in self.outs(*stages).items() if not is_clocked(path)}

    def checkpoints(self) -> list[Path]:
        return sorted(self.path(".nas/ckpt").glob("*/*.pt"))

    def forget(self, *stages: str) -> None:
        """Remove every trace of these stages: outputs, entries in dvc.lock, the run cache."""
        path = self.path("dvc.lock")
        whole = yaml.safe_load(path.read_text())
        for stage in stages:
            for out in whole["stages"].pop(stage)["outs"]:
                found = self.path(out["path"])
                if found.is_dir():
                    shutil.rmtree(found)
                else:
                    found.unlink()
        path.write_text(yaml.safe_dump(whole, sort_keys=False))
        shutil.rmtree(self.path(".dvc/cache/runs"), ignore_errors=True)

    def copy(self, folder: Path) -> "Project":
        shutil.copytree(self.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("tmp", "__pycache__"))
        return Project(folder, dict(self.environment))


def is_clocked(path: str) -> bool:
    """Whether an output contains times, which differ from run to run."""
    return path.endswith(".cost.json") or path.startswith("report/table.") or path == "report/index.html"


def make(folder: Path, home: Path) -> Project:
    """A fresh repository from the files of the working tree, with small parameters."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.split("\0"):
        if name and not name.startswith((*UNTRACKED, "tests/", "bench/")) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    project = Project(folder, environment(home))
    shutil.copy(folder / "presets/digits.yaml", folder / "params.yaml")
    project.set(TINY)
    project.run("git", "init", "-q", "-b", "main")
    project.commit()
    return project


def environment(home: Path) -> dict[str, str]:
    """This process's environment without any setting of Git, DVC, MLflow or nas."""
    home.mkdir(parents=True, exist_ok=True)
    own = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    names = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
    return {
        **own,
        **dict.fromkeys(names, "nobody"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", os.defpath)]),
        "SHELL": "/bin/sh",
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(home / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "system"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "NAS_TRACKING": "off",
    }


def ran(output: str) -> set[str]:
    """The stages that were run, according to the output of DVC or of the launcher."""
    return set(re.findall(r"^Running stage '([^']+)'", output, re.MULTILINE))


def family(key: str, *verbs: str) -> set[str]:
    """The stages of one trial: all four, or the given ones."""
    return {f"{verb}@{key}" for verb in verbs or ("search", "derive", "retrain", "evaluate")}


def wait_until(found: Callable[[], Any], seconds: float, what: str, every: float = 0.01) -> Any:
    """The first true value of `found`, which is called every `every` seconds."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(every)
    return value


def dotted(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value
