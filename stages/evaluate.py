"""Stage `evaluate`: the one that opens the test split.

Figures are those of the last epoch. That of the best among the last ones goes beside where it is asked for, as many
papers print it: it is chosen on test data.
"""

from typing import TYPE_CHECKING, Any

import typer

from nas.project import PREPARED, clear_errors

if TYPE_CHECKING:
    from nas.config.params import TableFile
    from stages.trial import Trial

app = typer.Typer(add_completion=False)


@app.command()
@clear_errors
def evaluate(run: str = typer.Option(help="Run key, for instance darts-0.")) -> None:
    """Measure the retrained networks of RUN on the test split, and look its cells up in the table, if there is one."""
    from stages.trial import trial

    with trial("evaluate", run) as work:
        run_evaluate(work)


def run_evaluate(work: "Trial") -> None:
    """Open the test split, measure every network, then write the records."""
    import time
    from statistics import fmean

    from nas.data.dataset import Stream, load_split
    from nas.engine.placement import place
    from nas.records import read_record, write_record
    from nas.spaces.registry import get_space
    from nas.training.retrain import kept_epochs, load_weights, measure, weights_file
    from nas.training.search import image_form

    recipe = work.config.retrain
    found = read_record(work.folder / "architectures.json", "architectures")["architectures"]
    data = load_split(PREPARED, "test", work.device)
    form, stream = image_form(data.spec), Stream(data, work.config.evaluate.batch, None, 0)
    results, started = [], time.monotonic()
    for entry in found:
        space = get_space(entry["architecture"]["space"])
        architecture, size = space.parse(entry["architecture"]), recipe.at(entry["channels"])
        built = space.count(architecture, form, size)
        for seed in recipe.seeds:
            network = space.network(architecture, form, size, auxiliary=False)
            network = place(network, work.device, work.config.runtime.precision)
            measured = {}  # by epoch; the last one is what counts
            for epoch, at in [*((epoch, epoch) for epoch in kept_epochs(recipe)), (recipe.epochs - 1, None)]:
                load_weights(network, work.folder / "weights" / weights_file(entry["name"], seed, at))
                measured[epoch] = measure(network, stream.epoch(0))
            loss, accuracy = measured[recipe.epochs - 1]
            figures = {"test_acc": accuracy, "test_error": 100.0 - accuracy, "test_loss": loss}
            sizes = {"params_m": built.params_m, "macs_m": built.macs_m}
            head = {"name": entry["name"], "id": entry["id"], "seed": seed}
            results.append({**head, **figures, **best_of(measured), **sizes})
    seconds = time.monotonic() - started
    file = work.config.evaluate.table
    table = None if file is None else looked_up(work, found, file)
    body = {**work.head, "data": data.spec.name, "images": len(data), "results": results, "table": table}
    write_record(work.folder / "evaluate.json", "evaluation", body)
    metrics: dict[str, dict[str, float]] = {entry["name"]: {} for entry in found}
    for name, figures in metrics.items():
        rows = [row for row in results if row["name"] == name]
        shown = [f for f in ("test_error", "test_loss", "best_error", "params_m", "macs_m") if rows and f in rows[0]]
        figures |= {figure: fmean(row[figure] for row in rows) for figure in shown}
    for cell in table["cells"] if table else ():
        metrics[cell["name"]] |= {f"table_{figure}": value for figure, value in cell["figures"].items()}
    work.write_metrics(metrics)
    work.write_cost(seconds, len(data) * len(results) * recipe.best_of_last, 0)


def best_of(measured: dict[int, tuple[float, float]]) -> dict[str, float]:
    """The least test error of the epochs, and the first epoch that has it; nothing where one alone was measured."""
    if len(measured) == 1:
        return {}
    best = max(measured, key=lambda epoch: measured[epoch][1])
    return {"best_error": 100.0 - measured[best][1], "best_epoch": best}


def looked_up(work: "Trial", found: list[dict[str, Any]], file: "TableFile") -> dict[str, Any] | None:
    """What the table says of each found cell, and of the incumbent at every epoch; None for a space that it knows not.

    Sizes are those at `retrain.cells` and `retrain.channels`.
    """
    from nas.benchmark_table import read_table, regret_curves
    from nas.data.spec import DataSpec
    from nas.records import in_project, read_json
    from nas.spaces.registry import get_space
    from nas.training.search import image_form

    form = image_form(DataSpec.from_dict(read_json(PREPARED / "spec.json")))
    cells = []
    for entry in found:
        space = get_space(entry["architecture"]["space"])
        architecture = space.parse(entry["architecture"])
        if (text := space.text(architecture)) is None:
            return None
        size = space.count(architecture, form, work.config.retrain.at(entry["channels"]))
        head = {"name": entry["name"], "id": entry["id"], "cell": text}
        cells.append({**head, "params_m": size.params_m, "macs_m": size.macs_m})
    table = read_table(in_project(file.path), file.sha256)
    curves = regret_curves(read_json(work.folder / "search.history.json"), table)
    return {
        "sha256": file.sha256,
        "cells": [{**cell, "figures": table.judge(cell["cell"])} for cell in cells],
        "curves": curves,
    }


if __name__ == "__main__":
    app()
