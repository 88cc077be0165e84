"""A study on disk as the stages leave it: random and is_nas, two search seeds each, is_nas with two architectures."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from nas.architectures.darts import PRIMITIVES
from nas.architectures.genotypes import GENOTYPES
from nas.records import write_json, write_record

RUNS = [("random-0", "random", 0), ("random-1", "random", 1), ("is_nas-0", "is_nas", 0), ("is_nas-1", "is_nas", 1)]
DERIVED = {  # key -> name, genotype, test error of retrain seeds 0 and 1
    "random-0": [("random", "DARTS_V1", (3.0, 5.0))],
    "random-1": [("random", "PDARTS", (6.0, 8.0))],
    "is_nas-0": [("eps=0.1", "DARTS_V2", (2.0, 2.5)), ("eps=0.2", "EOI_SEG", (4.0, 4.0))],
    "is_nas-1": [("eps=0.1", "EOI_GNAS", (3.0, 3.5)), ("eps=0.2", "EOI_GNAS_2", (4.5, 5.5))],
}
SIZES = {"DARTS_V1": 0.10, "PDARTS": 0.14, "DARTS_V2": 0.12, "EOI_GNAS": 0.12, "EOI_SEG": 0.08, "EOI_GNAS_2": 0.09}


@dataclass(frozen=True)
class Disk:
    runs: list[tuple[str, str, int]]
    folder: Path
    spec: Path
    out: Path

    def where(self, runs=None):
        """The arguments of `build`."""
        return self.runs if runs is None else runs, self.folder, self.spec, self.out


@pytest.fixture
def disk(tmp_path):
    return write_study(tmp_path)


@pytest.fixture
def write():
    """The writer of one trial."""
    return write_trial


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A study with its report: drawn once for all tests, none of which writes into it."""
    from nas.report import build

    disk = write_study(tmp_path_factory.mktemp("built"))
    rows = build(*disk.where())
    return disk, rows


def write_study(tmp_path):
    """The records of RUNS under a folder."""
    spec = {"name": "digits", "shape": [1, 8, 8], "classes": 10, "class_names": list("0123456789"), "mean": [0.3]}
    write_record(tmp_path / "prepared" / "spec.json", "data", spec)
    for key, method, seed in RUNS:
        write_trial(tmp_path / "runs" / key, key, method, seed)
    return Disk(RUNS, tmp_path / "runs", tmp_path / "prepared" / "spec.json", tmp_path / "report")


def notes_of(name):
    """`eps=0.1` has that weight, `eps=0.1-random_matched` is its control."""
    eps, _, control = name.removeprefix("eps=").partition("-")
    return {"eps": float(eps), **({"control": control} if control else {})} if name.startswith("eps=") else {}


def write_trial(folder, key, method, seed, derived=None, counted=None):
    """Every record of one trial; `derived`: as in DERIVED."""
    derived = derived or DERIVED[key]
    owner = {"key": key, "method": method, "seed": seed}
    state = {"operations": list(PRIMITIVES), "slimming": slimming_points()} if method == "eoinas" else {}
    write_record(
        folder / "search.json", "search", {**owner, "space": "darts", "state": state, "counted": counted or {}}
    )
    write_json(folder / "search.history.json", candidates() if method == "random" else epochs())
    write_json(folder / "search.cost.json", {"seconds": 100.0 * (seed + 1), "device": "cpu", "images_per_s": 900.0})
    entries = [
        {"name": name, "id": GENOTYPES[cell].id, "architecture": GENOTYPES[cell].to_dict(), "notes": notes_of(name)}
        for name, cell, _ in derived
    ]
    write_record(folder / "architectures.json", "architectures", {**owner, "rule": "top2", "architectures": entries})
    write_json(folder / "retrain.history.json", [row for name, _, _ in derived for row in retraining(name)])
    write_json(folder / "retrain.cost.json", {"seconds": 60.0 * 2 * len(derived), "device": "cpu"})
    results = [tested(name, cell, at, error) for name, cell, errors in derived for at, error in enumerate(errors)]
    write_record(folder / "evaluate.json", "evaluation", {**owner, "data": "digits", "images": 400, "results": results})


def tested(name, cell, seed, error):
    size = SIZES[cell]
    figures = {"test_acc": 100 - error, "test_error": error, "test_loss": error / 40}
    return {"name": name, "id": GENOTYPES[cell].id, "seed": seed, **figures, "params_m": size, "macs_m": 20 * size}


def slimming_points():
    """Two of them: max_pool_3x3 goes from every edge, then avg_pool_3x3, whose indicator is unbounded."""
    points = []
    for at in range(2):
        alive = [[int(op > at or op == 0) for op in range(8)]] * 14
        indicator = [[None if at and op == 2 else op / 8 for op in range(8)]] * 14
        tables = {"share": [[1 / 8] * 8] * 14, "accuracy": [[50.0] * 8] * 14, "drawn": [[3] * 8] * 14}
        cell = {**tables, "indicator": indicator, "alive": alive, "dropped": [1 + at] * 14}
        points.append({"epoch": 3 + 2 * at, "cells": {"normal": cell, "reduce": cell}})
    return points


def candidates():
    return [
        {"candidate": at, "epoch": epoch, "lr": 0.1, "train_loss": 2 / (epoch + 1), "train_acc": 50.0 + 9 * epoch,
         "valid_loss": 2.1 / (epoch + 1), "valid_acc": 40.0 + 10 * epoch + 3 * at}
        for at in range(3) for epoch in range(4)
    ]  # fmt: skip


def epochs():
    rows = []
    for epoch in range(6):
        figures = {"train_loss": 2 / (epoch + 1), "valid_loss": None if epoch == 0 else 2.2 / (epoch + 1)}
        accuracies = {"train_acc": 40.0 + 9 * epoch, "valid_acc": 38.0 + 9 * epoch}
        counts = {
            f"ops.{cell}.{name}": 14 - 2 * epoch if at == 4 else (2 * epoch if at == 3 else 0)
            for cell in ("normal", "reduce")
            for at, name in enumerate(PRIMITIVES)
        }
        rows.append({"epoch": epoch, "lr": 0.1, **figures, **accuracies, "entropy": 2.0 - 0.1 * epoch, **counts})
    return rows


def retraining(name):
    return [
        {"architecture": name, "seed": seed, "epoch": epoch, "lr": 0.1, "drop_path": 0.0,
         "train_loss": (2 + 0.2 * seed) / (epoch + 1), "train_acc": 90.0 + epoch - seed}
        for seed in (0, 1) for epoch in range(5)
    ]  # fmt: skip
