"""Why a slimming search (EoiNAS) removed each operation."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.report.chart import VIRIDIS, heat
from nas.report.collect import TrialRecords
from nas.report.style import SERIES, SOFT, short
from nas.report.svg import Box, Canvas

QUANTITIES = {  # of a slimming point: key in the record -> title of the row of panels
    "share": "p, share of alpha",
    "accuracy": "A, accuracy, %",
    "drawn": "F, draws",
    "indicator": "I, indicator",
}
LEFT, TOP, FOOT, GAP = 52.0, 40.0, 48.0, 14.0  # points
CELL_WIDTH, CELL_HEIGHT = 13.0, 10.0  # points


def slimmed(trial: TrialRecords) -> list[str]:
    """The cell types whose operations were removed one by one; empty for other searches."""
    return list(trial.slimming[0]["cells"]) if trial.slimming else []


def draw_slimming(trial: TrialRecords, cell_type: str, path: Path) -> None:
    """A column per slimming point, a row per quantity; edges run down, operations across.

    Each table has its own colour scale, from its lowest value to its highest. A cross marks what was removed; what was
    removed earlier is empty.
    """
    cells = [point["cells"][cell_type] for point in trial.slimming]
    edges, operations = len(cells[0]["alive"]), len(trial.operations)
    across, down = CELL_WIDTH * operations, CELL_HEIGHT * edges
    width = LEFT + len(cells) * (across + GAP)
    canvas = Canvas(width, TOP + len(QUANTITIES) * (down + GAP) + FOOT)
    canvas.text((8, 12), f"Slimming: {trial.title}, {cell_type} cell", 11, fill=SOFT)
    for row, (key, title) in enumerate(QUANTITIES.items()):
        top = TOP + row * (down + GAP)
        canvas.text((10, top + down / 2), title, 9, anchor=0.5, turned=True)
        canvas.text((24, top + down / 2), "edge", 9, anchor=0.5, turned=True)
        for edge in (0, edges - 1):
            canvas.text((LEFT - 5, top + CELL_HEIGHT * (edge + 0.5)), str(edge), 9, anchor=1.0)
        for column, cell in enumerate(cells):
            left = LEFT + column * (across + GAP)
            heat(canvas, _shares(cell, key), Box(left, top, left + across, top + down), VIRIDIS)
            for edge, operation in enumerate(cell["dropped"]):
                _cross(canvas, left + CELL_WIDTH * (operation + 0.5), top + CELL_HEIGHT * (edge + 0.5))
    for column, point in enumerate(trial.slimming):
        left = LEFT + column * (across + GAP)
        canvas.text((left, TOP - 9), f"epoch {point['epoch'] + 1}", 9)
        for at, name in enumerate(trial.operations):
            place = (left + CELL_WIDTH * (at + 0.5), canvas.height - FOOT - GAP + 6)
            canvas.text(place, short(name), 7, anchor=1.0, turned=True)
    canvas.save(path)


def _cross(canvas: Canvas, x: float, y: float) -> None:
    half = 2.2
    for side in (-half, half):
        canvas.line([(x - half, y - side), (x + half, y + side)], stroke=SERIES[1], width=1.2)


def _shares(cell: Mapping[str, Any], key: str) -> list[list[float]]:
    """A table of a slimming point scaled to 0 .. 1; NaN where an operation was removed or its value is unbounded."""
    table = [
        [float(value) if alive and value is not None else math.nan for value, alive in zip(*rows, strict=True)]
        for rows in zip(cell[key], cell["alive"], strict=True)
    ]
    values = [value for row in table for value in row if not math.isnan(value)]
    low, span = min(values, default=0.0), max(values, default=0.0) - min(values, default=0.0)
    return [[(value - low) / span if span else value - low for value in row] for row in table]
