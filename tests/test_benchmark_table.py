"""The table of true figures: reading, refusing, percentile and regret by hand, the curve of a search."""

import csv
import gzip
import io
import statistics
from itertools import product
from typing import Any

import pytest

from nas.architectures.nasbench201 import OPERATIONS, NasBench201Architecture
from nas.benchmark_table import ACCURACIES, CELLS, NAME, Table, TableError, parse_table, read_table, regret_curves
from nas.records import file_sha256
from tests.shared import TABLE, TABLE_SHA256, needs_table

TEXTS = [NasBench201Architecture(operations=ops).text for ops in product(OPERATIONS, repeat=6)]


def table_of(*values):
    """Cells a, b, c, ... whose six accuracies are all equal."""
    return Table({chr(ord("a") + at): (value,) * 6 for at, value in enumerate(values)})


def written(rows, columns=(NAME, *ACCURACIES)):
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return stream.getvalue()


ROWS: list[Any] = [[text, *(round(10 + 80 * at / CELLS + k, 4) for k in range(6))] for at, text in enumerate(TEXTS)]
TEXT = written(ROWS)


def test_percentile_and_regret_by_hand_with_ties():
    table = table_of(10.0, 20.0, 20.0, 30.0)
    judged = {cell: table.judge(cell) for cell in "abcd"}
    assert [judged[cell]["cifar10_test_percentile"] for cell in "abcd"] == [12.5, 50.0, 50.0, 87.5]
    assert [judged[cell]["cifar100_valid_regret"] for cell in "abcd"] == [20.0, 10.0, 10.0, 0.0]
    assert [judged[cell]["imagenet16_test_acc"] for cell in "abcd"] == [10.0, 20.0, 20.0, 30.0]
    assert len(judged["a"]) == 3 * len(ACCURACIES) == 18


def test_every_cell_of_a_file_is_read_plain_or_packed(tmp_path):
    plain, packed = tmp_path / "table.csv", tmp_path / "table.csv.gz"
    plain.write_text(TEXT)
    packed.write_bytes(gzip.compress(TEXT.encode()))
    first, second = (read_table(path, file_sha256(path)) for path in (plain, packed))
    assert first.rows == second.rows
    assert [first.rows[row[0]] for row in ROWS] == [tuple(row[1:]) for row in ROWS]


def test_other_columns_and_another_order_are_left_alone():
    turned = written([row[::-1] for row in ROWS], (*ACCURACIES[::-1], NAME))
    assert parse_table(turned, "t").rows == parse_table(TEXT, "t").rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TEXT.replace("cifar100_test_acc", "c100"),
            "t.csv: no column 'cifar100_test_acc'; expected arch_str, cifar10",
        ),
        ("", "t.csv: no column 'arch_str'"),
        (written(ROWS[:-1]), "t.csv: 15624 cells, expected all 15625"),
        (written([*ROWS, ROWS[0]]), r"t.csv, line 15627: cell \|none~0\|.* appears twice"),
        (
            written([[TEXTS[0], 1, 2, "x", 4, 5, 6]]),
            "t.csv, line 2, column 'cifar100_valid_acc': found 'x', expected an",
        ),
        (
            written([[TEXTS[0], 1, 2, 3, 4, 5, 100.5]]),
            "column 'imagenet16_test_acc': found '100.5', expected an accuracy",
        ),
        (written([[TEXTS[0], 1, 2, "nan", 4, 5, 6]]), "found 'nan', expected an accuracy in percent"),
        (written([[TEXTS[0], 1]]), "column 'cifar10_test_acc': found None, expected an accuracy in percent"),
    ],
)
def test_a_faulty_table_is_refused_by_its_place(text, message):
    with pytest.raises(TableError, match=message):
        parse_table(text, "t.csv")


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(TableError, match=r"no such file .*docs/nasbench201.md explains how to get a table"):
        read_table(tmp_path / "table.csv", "0" * 64)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "table.csv").write_text(TEXT)
    with pytest.raises(TableError, match=r"its sha256 is [0-9a-f]{64}, but 'evaluate.table.sha256' is 0{64}"):
        read_table(tmp_path / "table.csv", "0" * 64)


def test_a_file_that_is_not_packed_is_refused(tmp_path):
    path = tmp_path / "table.csv.gz"
    path.write_text(TEXT)
    with pytest.raises(TableError, match=r"not a CSV file, plain or \.gz"):
        read_table(path, file_sha256(path))


def test_a_cell_that_is_not_there_is_named():
    with pytest.raises(TableError, match="the table has no cell 'z'"):
        table_of(1.0).judge("z")


def test_the_curve_follows_the_incumbent_of_each_epoch():
    table = table_of(10.0, 20.0)
    history: list[dict[str, Any]] = [
        {"epoch": 0, "train_loss": 1.0, "incumbent": None},
        {"epoch": 1, "train_loss": 0.9, "incumbent": "a"},
        {"epoch": 2, "train_loss": 0.8, "incumbent": "b"},
    ]
    assert regret_curves(history, table) == {"main": [{"epoch": e, **table.judge(c)} for e, c in ((1, "a"), (2, "b"))]}
    several: list[dict[str, Any]] = [{"epoch": 0, "incumbent.eps=0.3": "b", "incumbent.eps=0": "a"}]
    assert {name: rows[0]["cifar10_test_acc"] for name, rows in regret_curves(several, table).items()} == {
        "eps=0.3": 20.0,
        "eps=0": 10.0,
    }
    assert regret_curves([{"epoch": 0, "train_loss": 1.0}], table) == {}


@needs_table
def test_the_benchmarks_table_has_the_published_optima():
    table = read_table(TABLE, TABLE_SHA256)
    best = dict(zip(ACCURACIES, (column[-1] for column in table.ranked), strict=True))
    published = {"cifar10_valid_acc": 91.61, "cifar10_test_acc": 94.37, "cifar100_valid_acc": 73.49,
                 "cifar100_test_acc": 73.51, "imagenet16_test_acc": 47.31}  # fmt: skip
    assert {name: round(best[name], 2) for name in published} == published
    optimum = max(table.rows, key=lambda cell: table.rows[cell][1])
    assert optimum.endswith("|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|")
    judged = table.judge(optimum)
    assert (judged["cifar10_test_regret"], judged["cifar10_valid_regret"]) == (0.0, 0.0)
    assert judged["cifar10_test_percentile"] > 99.99
    assert set(table.rows) == set(TEXTS)
    assert statistics.median(table.ranked[1]) == pytest.approx(90.75, abs=0.005)
    assert statistics.fmean(table.ranked[1]) == pytest.approx(87.06, abs=0.005)


@needs_table
def test_the_collapse_of_the_literature_is_there():
    """All skips: 54.30 % on CIFAR-10, where DARTS ends in the benchmark's paper."""
    skips = NasBench201Architecture(operations=("skip_connect",) * 6).text
    judged = read_table(TABLE, TABLE_SHA256).judge(skips)
    assert judged["cifar10_test_acc"] == pytest.approx(54.30, abs=0.005)
    assert judged["cifar10_test_percentile"] < 5
