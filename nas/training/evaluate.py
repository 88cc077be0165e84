"""Measuring retrained networks on the test split, and looking their cells up in a benchmark table.

Results are those of the last epoch. With `retrain.best_of_last` above 1 the best of the last epochs is reported in
addition, as many papers print it; that epoch is chosen on test data.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from nas.benchmark_table import read_table, regret_curves
from nas.config.params import Retrain
from nas.contracts import ImageForm
from nas.data.dataset import ImageSet, Stream
from nas.engine.placement import place
from nas.training.retrain import kept_epochs, load_weights, measure, weights_file
from nas.training.sized import SizedArchitecture

SHOWN = ("test_error", "test_loss", "best_error", "params_m", "macs_m")  # the keys of a result that are averaged


@dataclass(frozen=True)
class Evaluation:
    """A row per network (architecture and retrain seed), and the seconds spent building and measuring them."""

    results: list[dict[str, Any]]
    seconds: float


def evaluate(
    architectures: Sequence[SizedArchitecture],
    recipe: Retrain,
    data: ImageSet,
    batch: int,
    weights: Path,
    device: torch.device,
    precision: str,
) -> Evaluation:
    """Measure every network whose weights lie in the folder `weights`.

    Args:
        recipe: how the networks were retrained: their seeds, and the epochs whose weights were kept.
        data: the test split.
        batch: images per forward pass.
    """
    stream = Stream(data, batch, None, 0)
    results, seconds = [], 0.0
    for sized in architectures:
        size = recipe.at(sized.channels)
        count = sized.space.count(sized.architecture, data.spec.form, size)
        for seed in recipe.seeds:
            started = time.monotonic()
            network = sized.space.network(sized.architecture, data.spec.form, size, auxiliary=False)
            network = place(network, device, precision)
            measured = {}  # epoch -> (loss, accuracy)
            for epoch, kept in [*((epoch, epoch) for epoch in kept_epochs(recipe)), (recipe.epochs - 1, None)]:
                load_weights(network, weights / weights_file(sized.name, seed, kept))
                measured[epoch] = measure(network, stream.epoch(0))
            seconds += time.monotonic() - started
            loss, accuracy = measured[recipe.epochs - 1]
            figures = {"test_acc": accuracy, "test_error": 100.0 - accuracy, "test_loss": loss}
            sizes = {"params_m": count.params_m, "macs_m": count.macs_m}
            results.append({**sized.label, "seed": seed, **figures, **best_epoch(measured), **sizes})
    return Evaluation(results, seconds)


def best_epoch(measured: Mapping[int, tuple[float, float]]) -> dict[str, float]:
    """The smallest test error and the first epoch that reached it; empty if only one epoch was measured.

    `measured`: epoch -> (loss, accuracy in percent).
    """
    if len(measured) == 1:
        return {}
    best = max(measured, key=lambda epoch: measured[epoch][1])
    return {"best_error": 100.0 - measured[best][1], "best_epoch": best}


def look_up(
    architectures: Sequence[SizedArchitecture],
    recipe: Retrain,
    form: ImageForm,
    table: Path,
    sha256: str,
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any] | None:
    """The figures of a benchmark table for each architecture, and for the search's incumbent at every epoch.

    Sizes are those at `retrain.cells` and the architecture's channels.

    Args:
        table: the file, whose checksum has to be `sha256`.
        history: the rows of search.history.json.

    Returns:
        None if the space has no benchmark table; the file is not opened then.

    Raises:
        TableError: the table is missing, has another checksum or cannot be read.
    """
    cells = []
    for sized in architectures:
        if (text := sized.space.text(sized.architecture)) is None:
            return None
        count = sized.space.count(sized.architecture, form, recipe.at(sized.channels))
        cells.append({**sized.label, "cell": text, "params_m": count.params_m, "macs_m": count.macs_m})
    judge = read_table(table, sha256)
    return {
        "sha256": sha256,
        "cells": [{**cell, "figures": judge.judge(cell["cell"])} for cell in cells],
        "curves": regret_curves(history, judge),
    }


def summary(
    architectures: Sequence[SizedArchitecture], results: Sequence[Mapping[str, Any]], table: Mapping[str, Any] | None
) -> dict[str, dict[str, float]]:
    """Architecture -> its results averaged over the retrain seeds, with the figures of the table as `table_*`."""
    metrics: dict[str, dict[str, float]] = {}
    for sized in architectures:
        rows = [row for row in results if row["name"] == sized.name]
        shown = [figure for figure in SHOWN if rows and figure in rows[0]]
        metrics[sized.name] = {figure: fmean(row[figure] for row in rows) for figure in shown}
    for cell in table["cells"] if table else ():
        metrics[cell["name"]] |= {f"table_{figure}": value for figure, value in cell["figures"].items()}
    return metrics
