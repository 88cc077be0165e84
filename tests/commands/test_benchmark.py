"""The converter, on small files with the structure that the benchmark's API documents."""

import bz2
import pickle
from collections import OrderedDict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from nas.architectures.nasbench201 import OPERATIONS, NasBench201Architecture
from nas.benchmark_table import TableError, read_table
from nas.commands import benchmark
from nas.commands.main import app
from nas.records import file_sha256

TEXTS = [NasBench201Architecture(operations=ops).text for ops in product(OPERATIONS, repeat=6)]
SETS = {"cifar10-valid": ("x-valid", "ori-test"), "cifar10": ("ori-test",),
        "cifar100": ("x-valid", "x-test", "ori-test"), "ImageNet16-120": ("x-valid", "x-test", "ori-test")}  # fmt: skip


def trial(base, seed, number=float):
    """ResultsCount.state_dict: two epochs, of which the last is used; image sets differ by one point."""
    names = ("x-valid", "x-test", "ori-test")
    accuracies = {f"{name}@{e}": number(base + at + 10 * e) for at, name in enumerate(names) for e in range(2)}
    return {"epochs": 2, "seed": seed, "eval_acc1es": accuracies, "net_state_dict": None, "latency": [0.1]}


def results(index, text, number=float):
    """ArchResults.state_dict: two seeds, one point apart, and three on CIFAR-100."""
    seeds = {training: [777, 888] if training != "cifar100" else [777, 888, 999] for training in SETS}
    trials = OrderedDict(
        ((training, seed), trial(20 + 10 * place + at, seed, number))
        for place, training in enumerate(SETS)
        for at, seed in enumerate(seeds[training])
    )
    return {"arch_index": index, "arch_str": text, "all_results": trials, "dataset_seed": seeds, "clear_net_done": True}


EXPECTED = (20.5 + 10, 30.5 + 12, 41 + 10, 41 + 11, 50.5 + 10, 50.5 + 11)  # in the order of ACCURACIES


def benchmark_file(schedule="full", number=float):
    shared = results(0, TEXTS[0], number)
    infos = OrderedDict((index, {schedule: shared}) for index in range(len(TEXTS)))
    return {"meta_archs": TEXTS, "arch2infos": infos, "evaluated_indexes": set(range(len(TEXTS)))}


def convert(source, out):
    return CliRunner().invoke(app, ["table", str(source), str(out)])


@pytest.mark.parametrize("number", [float, np.float64])
@pytest.mark.parametrize("schedule", ["full", "200"])
def test_the_file_of_the_api_becomes_a_table(tmp_path, schedule, number):
    source, out = tmp_path / "bench.pth", tmp_path / "table.csv.gz"
    torch.save(benchmark_file(schedule, number), source)
    result = convert(source, out)
    assert result.exit_code == 0, result.output
    assert f"path: {out}\n    sha256: {file_sha256(out)}" in result.output
    assert read_table(out, file_sha256(out)).rows == dict.fromkeys(TEXTS, EXPECTED)


def test_the_packed_file_of_nats_bench_becomes_the_same_table(tmp_path):
    source, out = tmp_path / "bench.pickle.pbz2", tmp_path / "table.csv"
    source.write_bytes(bz2.compress(pickle.dumps(benchmark_file("200", np.float32)), 1))
    assert convert(source, out).exit_code == 0
    assert read_table(out, file_sha256(out)).rows == dict.fromkeys(TEXTS, EXPECTED)


@pytest.mark.parametrize("name", ["bench.pth", "bench.pickle.pbz2"])
def test_a_file_that_would_run_code_is_refused(tmp_path, name):
    source = tmp_path / name
    value = {**benchmark_file(), "evaluated_indexes": Path("/")}  # any class will do
    if name.endswith(".pth"):
        torch.save(value, source)
    else:
        source.write_bytes(bz2.compress(pickle.dumps(value), 1))
    result = convert(source, tmp_path / "table.csv")
    assert result.exit_code == 1
    assert "cannot be read, or only by running code in it" in result.output
    assert not (tmp_path / "table.csv").exists()


def test_another_file_is_refused(tmp_path):
    torch.save({"weights": 1}, tmp_path / "bench.pth")
    with pytest.raises(TableError, match="expected a mapping with meta_archs and arch2infos"):
        benchmark.load(tmp_path / "bench.pth")
    with pytest.raises(TableError, match="no such file"):
        benchmark.load(tmp_path / "other.pth")


def test_a_missing_result_is_named():
    lacking = results(0, TEXTS[0])
    del lacking["all_results"]["cifar100", 888]
    with pytest.raises(TableError, match=r"architecture 0: no accuracy of cifar100 on x-valid \(KeyError"):
        list(benchmark.rows({"meta_archs": TEXTS[:1], "arch2infos": {0: {"full": lacking}}}))
    with pytest.raises(TableError, match=r"architecture 0 .* has no results of 200 epochs \(full or 200\)"):
        list(benchmark.rows({"meta_archs": TEXTS[:1], "arch2infos": {0: {"less": lacking}}}))


def test_a_benchmark_without_all_cells_is_refused(tmp_path):
    short = benchmark_file()
    short["meta_archs"] = TEXTS[:10]
    torch.save(short, tmp_path / "bench.pth")
    result = convert(tmp_path / "bench.pth", tmp_path / "table.csv")
    assert "has 10 cells, expected all 15625" in result.output
    assert not (tmp_path / "table.csv").exists()
