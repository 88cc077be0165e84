"""What `evaluate` writes of a table, on a small trial without retraining."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nas.architectures.nasbench201 import NasBench201Architecture
from nas.benchmark_table import ACCURACIES, TableError, read_table
from nas.config.params import Retrain, TableFile
from nas.config.yaml_file import read_yaml
from nas.records import file_sha256, write_json, write_record
from stages import evaluate
from tests.test_benchmark_table import TEXT

RECIPE = {
    **read_yaml(Path(__file__).parents[2] / "presets" / "digits.yaml")["retrain"],
    "cells": 17,
    "channels": 16,
    "seeds": [],
}
FOUND = NasBench201Architecture(
    operations=("nor_conv_3x3", "none", "nor_conv_3x3", "skip_connect", "none", "skip_connect")
)
OTHER = NasBench201Architecture(operations=("none",) * 6)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A trial whose search has ended; images are those of CIFAR-10."""
    spec = {"name": "arrays", "shape": [3, 32, 32], "classes": 10, "class_names": list("0123456789")}
    statistics = {"mean": [0.5] * 3, "std": [0.2] * 3, "counts": {"train": 10, "test": 10}}
    write_record(tmp_path / "prepared" / "spec.json", "data", spec | statistics)
    monkeypatch.setattr(evaluate, "PREPARED", tmp_path / "prepared")
    rows = [
        {"epoch": 0, "incumbent": None},
        {"epoch": 1, "incumbent": OTHER.text},
        {"epoch": 2, "incumbent": FOUND.text},
    ]
    write_json(tmp_path / "search.history.json", rows)
    (tmp_path / "table.csv").write_text(TEXT)
    table = TableFile(path=str(tmp_path / "table.csv"), sha256=file_sha256(tmp_path / "table.csv"))
    config = SimpleNamespace(retrain=Retrain.model_validate(RECIPE))
    return SimpleNamespace(folder=tmp_path, config=config, file=table)


def entry(architecture: Any) -> dict[str, Any]:
    return {"name": "main", "id": architecture.id, "channels": 16, "architecture": architecture.to_dict()}


def test_a_table_is_looked_for_in_the_project_also_from_a_copy_of_it(work, monkeypatch):
    found = evaluate.looked_up(work, [entry(FOUND)], work.file)
    monkeypatch.setenv("DVC_ROOT", str(work.folder))
    assert evaluate.looked_up(work, [entry(FOUND)], work.file.model_copy(update={"path": "table.csv"})) == found


def test_a_found_cell_is_looked_up_with_its_size_and_its_course(work):
    found = evaluate.looked_up(work, [entry(FOUND)], work.file)
    assert found is not None
    table = read_table(Path(work.file.path), work.file.sha256)
    assert found["sha256"] == work.file.sha256
    (cell,) = found["cells"]
    assert cell["figures"] == table.judge(FOUND.text)
    assert (cell["name"], cell["id"], cell["cell"]) == ("main", FOUND.id, FOUND.text)
    assert (round(cell["params_m"], 6), cell["macs_m"]) == (0.559386, 78.56192)
    assert [row["epoch"] for row in found["curves"]["main"]] == [1, 2]
    assert {name: found["curves"]["main"][-1][name] for name in ACCURACIES} == {
        n: cell["figures"][n] for n in ACCURACIES
    }


def test_a_cell_of_another_space_has_no_entry(work):
    from nas.architectures.genotypes import GENOTYPES

    assert evaluate.looked_up(work, [entry(GENOTYPES["DARTS_V1"])], work.file) is None


def test_another_table_is_refused(work):
    (work.folder / "table.csv").write_text(TEXT + "\n")
    with pytest.raises(TableError, match="another table"):
        evaluate.looked_up(work, [entry(FOUND)], work.file)


def test_the_best_of_several_epochs_is_told_and_of_one_alone_nothing():
    assert evaluate.best_of({9: (0.4, 90.0)}) == {}
    assert evaluate.best_of({7: (0.4, 90.0), 8: (0.3, 92.5), 9: (0.2, 92.5)}) == {"best_error": 7.5, "best_epoch": 8}
