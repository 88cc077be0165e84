"""Stage `evaluate`: the one that opens the test split. Figures are those of the last epoch."""

from typing import TYPE_CHECKING

import typer

from stages.common import PREPARED, clear_errors

if TYPE_CHECKING:
    from stages.trial import Trial

app = typer.Typer(add_completion=False)


@app.command()
@clear_errors
def evaluate(run: str = typer.Option(help="Run key, for instance darts-0.")) -> None:
    """Measure the retrained networks of RUN on the test split: error, parameters, multiply-adds."""
    from stages.trial import trial

    with trial("evaluate", run) as work:
        run_evaluate(work)


def run_evaluate(work: "Trial") -> None:
    """Open the test split, measure every network, then write the records."""
    import time
    from statistics import fmean

    from nas.data.dataset import Stream, load_split
    from nas.engine import place
    from nas.records import read_record, write_record
    from nas.spaces.registry import get_space
    from nas.training.retrain import load_weights, measure
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
            load_weights(network, work.folder / "weights" / f"{entry['name']}-{seed}.safetensors")
            loss, accuracy = measure(network, stream.epoch(0))
            figures = {"test_acc": accuracy, "test_error": 100.0 - accuracy, "test_loss": loss}
            sizes = {"params_m": built.params_m, "macs_m": built.macs_m}
            results.append({"name": entry["name"], "id": entry["id"], "seed": seed, **figures, **sizes})
    seconds = time.monotonic() - started
    body = {**work.head, "data": data.spec.name, "images": len(data), "results": results}
    write_record(work.folder / "evaluate.json", "evaluation", body)
    shown = ("test_error", "test_loss", "params_m", "macs_m")
    by_name = {entry["name"]: [r for r in results if r["name"] == entry["name"]] for entry in found}
    work.write_metrics({name: {f: fmean(r[f] for r in rows) for f in shown} for name, rows in by_name.items()})
    work.write_cost(seconds, len(data) * len(results), 0)


if __name__ == "__main__":
    app()
