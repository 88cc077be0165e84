"""Trials in a benchmark table: reading them, rows over seeds, and a report without retrained networks."""

import json

import pytest

from nas.architectures.nasbench201 import NasBench201Architecture
from nas.records import RecordError, write_json, write_record
from nas.report import build
from nas.report.building import sheets
from nas.report.collect import collect
from nas.report.results_table import summarise
from nas.report.truth import truths

SKIPS = NasBench201Architecture(operations=("skip_connect",) * 6)
CONVS = NasBench201Architecture(operations=("nor_conv_3x3",) * 6)
RUNS = [("darts-0", "darts", 0), ("darts-1", "darts", 1)]


def figures(accuracy):
    """Values as nas.benchmark_table returns them; CIFAR-100 and ImageNet16-120 are 20 and 40 points lower."""
    columns = [("cifar10", 0.0), ("cifar100", 20.0), ("imagenet16", 40.0)]
    values = {f"{data}_{part}_acc": accuracy - lower for data, lower in columns for part in ("valid", "test")}
    return {**values, "cifar10_test_percentile": accuracy / 2, "cifar10_test_regret": 95 - accuracy}


@pytest.fixture
def judged(tmp_path, disk):
    """Two searches of DARTS in NAS-Bench-201, looked up and not retrained."""
    for (key, method, seed), cell, accuracy in zip(RUNS, (SKIPS, CONVS), (50.0, 90.0), strict=True):
        folder, owner = tmp_path / "judged" / key, {"key": key, "method": method, "seed": seed}
        write_record(folder / "search.json", "search", {**owner, "space": "nasbench201", "state": {}, "counted": {}})
        rows = [{"epoch": e, "lr": 0.1, "train_loss": 1.0 - e / 10, "incumbent": cell.text} for e in range(3)]
        write_json(folder / "search.history.json", rows)
        entry = {"name": "main", "id": cell.id, "channels": 16, "architecture": cell.to_dict(), "notes": {}}
        write_record(
            folder / "architectures.json", "architectures", {**owner, "rule": "top2", "architectures": [entry]}
        )
        write_json(folder / "retrain.history.json", [])
        for stage in ("search", "retrain"):
            write_json(folder / f"{stage}.cost.json", {"seconds": 0.0, "device": "cpu"})
        entry_of_table = {"name": "main", "id": cell.id, "cell": cell.text, "params_m": 0.5, "macs_m": 78.0}
        table = {"sha256": "0" * 64, "cells": [{**entry_of_table, "figures": figures(accuracy)}], "curves": {"main": [
            {"epoch": epoch, **figures(accuracy)} for epoch in range(3)]}}  # fmt: skip
        body = {**owner, "data": "digits", "images": 400, "results": [], "table": table}
        write_record(folder / "evaluate.json", "evaluation", body)
    return RUNS, tmp_path / "judged", disk.spec, tmp_path / "report"


def test_means_and_deviations_are_over_search_seeds(judged):
    (one,) = truths(collect(*judged[:3]))
    assert (one.label, one.searches, one.params_m) == ("darts", 2, (0.5, 0.5, 0.5))
    assert one.figures["cifar10_test_acc"] == (70.0, 800**0.5)
    assert one.figures["cifar10_test_percentile"][0] == 35.0
    (single,) = truths(collect(judged[0][:1], *judged[1:3]))
    assert single.figures["cifar10_test_acc"] == (50.0, None)


def test_a_study_without_a_table_has_no_such_sheet(disk):
    study = collect(disk.runs, disk.folder, disk.spec)
    assert truths(study) == []
    assert all("Cell derived by" not in sheet.cells[0] for sheet in sheets(study, summarise(study)))


def test_the_sheet_has_the_cells_and_the_published_rows_and_the_metrics_no_clock(judged):
    build(*judged)
    text = (judged[3] / "table.md").read_text()
    assert "| DARTS | 2 | 70.00 ± 28.28 | 70.00 ± 28.28 | 50.00 ± 28.28 | 30.00 ± 28.28 | 35.00 ± 14.14 |" in text
    assert "| DARTS, first order (published) | – | – | 54.30 ± 0.00 | 15.61 ± 0.00 | 16.32 ± 0.00 |" in text
    metrics = json.loads((judged[3] / "results.metrics.json").read_text())["true darts"]
    assert (metrics["n"], metrics["cifar10_test_regret_mean"]) == (2, 25.0)


def test_the_course_of_a_search_is_read(judged):
    trial = collect(*judged[:3]).trials[1]
    assert trial.table is not None
    assert [row["cifar10_test_regret"] for row in trial.table.curves["main"]] == [5.0] * 3


def test_a_report_without_a_retrained_network_is_whole(judged):
    assert build(*judged) == []
    assert "0 networks trained from scratch" in (judged[3] / "index.html").read_text()
    assert (judged[3] / "figures" / "regret.svg").exists()
    assert not (judged[3] / "figures" / "front.svg").exists()
    assert (judged[3] / "figures" / "cell-darts-1-main-cell.svg").exists()


def test_a_table_entry_older_than_the_search_is_refused(judged):
    path = judged[1] / "darts-0" / "evaluate.json"
    record = json.loads(path.read_text())
    record["table"]["cells"][0]["id"] = "0" * 12
    write_json(path, record)
    with pytest.raises(
        RecordError, match=r"evaluate\.json: architecture main .* is (not tested|tested but not derived)"
    ):
        collect(*judged[:3])


def test_a_trial_that_nothing_judged_is_refused(judged):
    path = judged[1] / "darts-0" / "evaluate.json"
    record = json.loads(path.read_text())
    write_json(path, {**record, "table": None})
    with pytest.raises(RecordError, match=r"architecture main \(.*\) is not tested"):
        collect(*judged[:3])
