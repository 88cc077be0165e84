"""The benchmark table of space `nasbench201`: the accuracy of each of its 15,625 cells after full training.

Source: X. Dong and Y. Yang, ICLR 2020, arXiv 2001.00326; docs/nasbench201.md explains how to get the data. A table is a
CSV file, plain or .gz, with a column `arch_str` (the benchmark's string) and the columns of ACCURACIES in percent;
other columns are ignored. This project does not ship a table.
"""

import csv
import gzip
import io
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.records import file_sha256

CELLS = 5**6
ACCURACIES = tuple(f"{data}_{part}_acc" for data in ("cifar10", "cifar100", "imagenet16") for part in ("valid", "test"))
NAME = "arch_str"
GET_ONE = "docs/nasbench201.md explains how to get a table; `nas table` converts the original file"


class TableError(ValueError):
    """An unusable table, or a cell that is not in it; names file, line and column, and how to fix it."""


class Table:
    """The accuracies of every cell: string -> percent, in the order of ACCURACIES."""

    def __init__(self, rows: Mapping[str, Sequence[float]]) -> None:
        self.rows = rows
        self.ranked = [sorted(column) for column in zip(*rows.values(), strict=True)]

    def judge(self, cell: str) -> dict[str, float]:
        """Per accuracy: its value (`_acc`, percent), `_percentile` among all cells, and `_regret` (points).

        Percentile: the share of worse cells, with equal cells (including this one) counted half, so that the median
        cell has 50. Regret: the accuracy of the best cell minus that of this cell.
        """
        if cell not in self.rows:
            raise TableError(f"the table has no cell {cell!r}; it has only the cells of space nasbench201")
        figures = {}
        for name, ranked, value in zip(ACCURACIES, self.ranked, self.rows[cell], strict=True):
            below, up_to = bisect_left(ranked, value), bisect_right(ranked, value)
            stem = name.removesuffix("_acc")
            figures[name] = value
            figures[f"{stem}_percentile"] = round(50 * (below + up_to) / len(ranked), 4)
            figures[f"{stem}_regret"] = round(ranked[-1] - value, 4)
        return figures


def read_table(path: Path, sha256: str) -> Table:
    """Read the table from a file with this checksum; takes less than a second. Raises TableError."""
    if not path.is_file():
        raise TableError(
            f"{path}: no such file ('evaluate.table.path'). {GET_ONE}. To run without a table, set evaluate.table: null"
        )
    if (actual := file_sha256(path)) != sha256:
        raise TableError(
            f"{path}: its sha256 is {actual}, but 'evaluate.table.sha256' is {sha256}. Is it another table?"
        )
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return parse_table(content.decode("utf-8"), str(path))
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: not a CSV file, plain or .gz ({error}). {GET_ONE}") from None


def parse_table(text: str, source: str) -> Table:
    """Parse the table from CSV text; `source` names it in errors. Raises TableError."""
    reader = csv.DictReader(io.StringIO(text))
    for name in (NAME, *ACCURACIES):
        if name not in (reader.fieldnames or ()):
            raise TableError(f"{source}: no column '{name}'; expected {NAME}, {', '.join(ACCURACIES)}. {GET_ONE}")
    rows: dict[str, tuple[float, ...]] = {}
    for number, row in enumerate(reader, start=2):
        if row[NAME] in rows:
            raise TableError(f"{source}, line {number}: cell {row[NAME]} appears twice")
        rows[row[NAME]] = tuple(percent(row[name], f"{source}, line {number}, column '{name}'") for name in ACCURACIES)
    if len(rows) != CELLS:
        raise TableError(f"{source}: {len(rows)} cells, expected all {CELLS}. {GET_ONE}")
    return Table(rows)


def percent(text: str | None, where: str) -> float:
    """Parse an accuracy in percent. Raises TableError, which begins with `where`."""
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise TableError(f"{where}: found {text!r}, expected an accuracy in percent")
    return value


def regret_curves(history: Sequence[Mapping[str, Any]], table: Table) -> dict[str, list[dict[str, float]]]:
    """The table's figures for the incumbent of each epoch of a search: name (`main` if there is only one) -> rows.

    `history`: rows with `epoch` and, per derived cell, `incumbent` or `incumbent.<name>`; null before the first one.
    """
    curves: dict[str, list[dict[str, float]]] = {}
    for row in history:
        for column, cell in row.items():
            head, _, name = column.partition(".")
            if head == "incumbent" and cell is not None:
                curves.setdefault(name or "main", []).append({"epoch": row["epoch"], **table.judge(cell)})
    return curves
