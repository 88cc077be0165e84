"""Stands in for `python -m stages.<verb> [--run key]`: writes the outputs that dvc.yaml names, and nothing else.

Each holds a hash of all that the stage reads according to dvc.yaml, so that whatever may change downstream does change.
Costs hold a time, as the real ones do; metrics have the keys of the real ones, with values from the hash. This tests
DVC's decisions without torch.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

import yaml


def main() -> None:
    _, module, *options = sys.argv[1:]
    verb, key = module.removeprefix("stages."), options[-1] if options else ""
    stage = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][verb]
    params = yaml.safe_load(Path("params.yaml").read_text())

    def named(entry):
        text = entry if isinstance(entry, str) else next(iter(entry))
        return text.replace("${key}", key).replace("${item.method}", key.rpartition("-")[0])

    read = hashlib.sha256()
    for name in map(named, stage["deps"]):
        path = Path(name)
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                read.update(file.read_bytes())
    for name in map(named, stage["params"]):
        value = params
        for part in name.split("."):
            value = value[part]
        read.update(f"{name}={value}".encode())
    for name in map(named, stage["outs"] + stage.get("metrics", []) + stage.get("plots", [])):
        path = Path(name) if Path(name).suffix else Path(name) / "one"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content(path.name, read.hexdigest())) + "\n")


def content(name, read):
    """The content of the file of that name, from the hash of all that its stage reads."""
    if name.endswith(".cost.json"):
        return {"seconds": time.time_ns() / 1e9}
    if name == "derive.metrics.json":
        return {"main": {"params_m": 0.5, "macs_m": 25.0, "hash": read}}
    if name == "evaluate.metrics.json":
        return {"main": {"test_error": int(read[:4], 16) / 655.36, "params_m": 0.5, "macs_m": 25.0, "hash": read}}
    row = {"epoch": 0, "train_loss": 1, "hash": read}
    return row if name.endswith(".metrics.json") else [row]


main()
