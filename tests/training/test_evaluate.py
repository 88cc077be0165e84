"""Measuring networks on the test split, and looking cells up in a benchmark table."""

from pathlib import Path
from typing import Any

import pytest

from nas.architectures.genotypes import GENOTYPES
from nas.architectures.nasbench201 import NasBench201Architecture
from nas.benchmark_table import ACCURACIES, TableError, read_table
from nas.config.params import Retrain
from nas.config.yaml_file import read_yaml
from nas.contracts import ImageForm
from nas.data.dataset import Stream, load_split
from nas.records import file_sha256
from nas.spaces.registry import get_space
from nas.training.evaluate import best_epoch, evaluate, look_up, summary
from nas.training.retrain import load_weights, measure, save_weights, weights_of
from nas.training.sized import SizedArchitecture
from tests.jobs import CPU
from tests.test_benchmark_table import TEXT

RECIPE = Retrain.model_validate(
    {
        **read_yaml(Path(__file__).parents[2] / "presets" / "digits.yaml")["retrain"],
        "cells": 17,
        "channels": 16,
        "seeds": [],
    }
)
CELL = NasBench201Architecture(operations=("nor_conv_3x3", "none", "nor_conv_3x3", "skip_connect", "none", "skip_connect"))  # fmt: skip # noqa: E501
OTHER = NasBench201Architecture(operations=("none",) * 6)
FORM = ImageForm(3, 32, 32, 10)
HISTORY: list[dict[str, Any]] = [
    {"epoch": 0, "incumbent": None},
    {"epoch": 1, "incumbent": OTHER.text},
    {"epoch": 2, "incumbent": CELL.text},
]
DARTS = SizedArchitecture("main", get_space("darts"), GENOTYPES["DARTS_V1"], 16)
TABLED = SizedArchitecture("main", get_space("nasbench201"), CELL, 16)


@pytest.fixture
def table(tmp_path):
    """(path, checksum) of a benchmark table."""
    path = tmp_path / "table.csv"
    path.write_text(TEXT)
    return path, file_sha256(path)


def test_a_cell_is_looked_up_with_its_size_and_the_incumbents_of_its_search(table):
    path, checksum = table
    figures = look_up([TABLED], RECIPE, FORM, path, checksum, HISTORY)
    assert figures is not None
    assert figures["sha256"] == checksum
    (cell,) = figures["cells"]
    assert cell["figures"] == read_table(path, checksum).judge(CELL.text)
    assert (cell["name"], cell["id"], cell["cell"]) == ("main", CELL.id, CELL.text)
    assert (round(cell["params_m"], 6), cell["macs_m"]) == (0.559386, 78.56192)
    assert [row["epoch"] for row in figures["curves"]["main"]] == [1, 2]
    last = figures["curves"]["main"][-1]
    assert {name: last[name] for name in ACCURACIES} == {name: cell["figures"][name] for name in ACCURACIES}


def test_a_space_without_a_table_has_no_figures_and_opens_no_file(tmp_path):
    assert look_up([DARTS], RECIPE, FORM, tmp_path / "none.csv", "", HISTORY) is None


def test_a_table_with_another_checksum_is_refused(table):
    path, checksum = table
    path.write_text(TEXT + "\n")
    with pytest.raises(TableError, match=checksum):
        look_up([TABLED], RECIPE, FORM, path, checksum, HISTORY)


def test_the_best_of_several_epochs_is_reported_and_of_one_epoch_nothing():
    assert best_epoch({9: (0.4, 90.0)}) == {}
    assert best_epoch({7: (0.4, 90.0), 8: (0.3, 92.5), 9: (0.2, 92.5)}) == {"best_error": 7.5, "best_epoch": 8}


def test_every_network_is_measured_on_the_test_split(retrain_job, config, prepared, tmp_path):
    recipe, networks = config.retrain.model_copy(update={"seeds": (0, 1)}), {}
    sized = SizedArchitecture("main", get_space("darts"), GENOTYPES["PDARTS"], recipe.channels)
    for seed in recipe.seeds:
        save_weights(weights_of(retrain_job(seed=seed).network), tmp_path / f"main-{seed}.safetensors", {})
        networks[seed] = sized.space.network(sized.architecture, retrain_form(prepared), recipe, auxiliary=False)
        load_weights(networks[seed], tmp_path / f"main-{seed}.safetensors")
    data = load_split(prepared, "test", CPU)
    done = evaluate([sized], recipe, data, 8, tmp_path, CPU, "float32")
    assert [(row["name"], row["id"], row["seed"]) for row in done.results] == [("main", sized.id, s) for s in (0, 1)]
    for row in done.results:
        loss, accuracy = measure(networks[row["seed"]], Stream(data, 8, None, 0).epoch(0))
        assert (row["test_loss"], row["test_acc"]) == pytest.approx((loss, accuracy))
        assert row["test_error"] == 100 - row["test_acc"]
        assert "best_error" not in row
    assert done.seconds > 0


def retrain_form(prepared):
    return load_split(prepared, "test", CPU).spec.form


def test_metrics_are_means_over_the_seeds_and_the_figures_of_the_table():
    rows = [{"name": "main", "test_error": error, "test_loss": 1.0, "params_m": 2.0, "macs_m": 3.0} for error in (4, 8)]
    cells = {"cells": [{"name": "main", "figures": {"cifar10_test_acc": 90.0}}]}
    assert summary([DARTS], rows, cells) == {
        "main": {"test_error": 6, "test_loss": 1.0, "params_m": 2.0, "macs_m": 3.0, "table_cifar10_test_acc": 90.0}
    }
    assert summary([DARTS], [], None) == {"main": {}}
