"""The fingerprint of a stage, computed from its dependencies in dvc.yaml. Checkpoints are stored under it.

DVC and the checkpoints use the same list: a checkpoint is resumed only if nothing that would make the stage stale has
changed. Code enters by the content of the deps, not by the commit, so unrelated commits do not invalidate checkpoints.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nas.config.yaml_file import read_yaml
from nas.project import PARAMS
from nas.records import content_id, file_sha256

PIPELINE = Path("dvc.yaml")


class LineageError(ValueError):
    """A dependency is missing."""


def project_root() -> Path:
    """The main repository. Under `dvc exp run --temp` or `--queue` the current folder is a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def checkpoints(verb: str, key: str, method: str, seed: int) -> Path:
    """The folder for the checkpoints of this stage with these parameters, data and code."""
    cache = os.environ.get("NAS_CACHE")
    folder = Path(cache) if cache else project_root() / ".nas" / "ckpt"
    return folder / fingerprint(verb, key, method, seed)


def fingerprint(verb: str, key: str, method: str, seed: int) -> str:
    """Hash of verb, run key, tracked parameters, content of the deps, torch build and checkpoint format."""
    import torch

    from nas.training.checkpoint import FORMAT

    stage = read_yaml(PIPELINE)["stages"][verb]
    values = {"key": key, "item.method": method, "item.seed": str(seed)}
    deps = [resolve(dep, values) for dep in stage["deps"]]
    tree = read_yaml(PARAMS)
    return content_id(
        {
            "verb": verb,
            "key": key,
            "params": {name: leaf(tree, name) for name in (resolve(p, values) for p in stage.get("params", []))},
            "deps": {dep: list(contents(Path(dep))) for dep in deps},
            "torch": torch.__version__,
            "format": FORMAT,
        },
        length=32,
    )


def resolve(text: str, values: dict[str, str]) -> str:
    """`runs/${key}/x` with the values of the matrix item."""
    return re.sub(r"\$\{([\w.]+)\}", lambda match: values[match[1]], text)


def leaf(tree: dict[str, Any], dotted: str) -> Any:
    value: Any = tree
    for part in dotted.split("."):
        value = value[part]
    return value


def contents(path: Path) -> Iterator[tuple[str, str]]:
    """(name, checksum) of a file, or of every file in a folder except Python caches, as in .dvcignore.

    Raises:
        LineageError: `path` does not exist.
    """
    if not path.exists():
        raise LineageError(
            f"{path}: no such file, although dvc.yaml lists it as a dependency; run `dvc repro` to create it"
        )
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts:
            yield file.as_posix(), file_sha256(file)
