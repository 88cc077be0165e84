"""Stage `retrain`: train every derived architecture from scratch, by one recipe for all methods."""

from typing import TYPE_CHECKING, Any

import typer

from nas.project import PREPARED, clear_errors

if TYPE_CHECKING:
    from stages.trial import Trial

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@clear_errors
def main(run: str = typer.Option(help="Run key, for instance darts-0.")) -> None:
    """Retrain the architectures of RUN, each with every retrain seed. Resumes from checkpoints if it was stopped."""
    from stages.trial import trial

    with trial("retrain", run) as work:
        run_retrain(work)


def run_retrain(work: "Trial") -> None:
    """Train every network and write its weights, then write the records."""
    from nas.data.dataset import load_split
    from nas.records import read_record, write_json, write_record
    from nas.registry import seed_name
    from nas.training.retrain import retrain, save_weights, summary
    from nas.training.sized import SizedArchitecture

    recipe, folder = work.config.retrain, work.folder / "weights"
    record = read_record(work.folder / "architectures.json", "architectures")
    architectures = [SizedArchitecture.from_dict(entry) for entry in record["architectures"]]
    data = load_split(PREPARED, "retrain", work.device)
    several = len(architectures) * len(recipe.seeds) > 1

    def show(network: str, row: dict[str, Any]) -> None:
        prefix = f"{network}." if several else ""
        work.tracker.log_epoch({prefix + key: value for key, value in row.items()}, step=row["epoch"])

    trial = f"{seed_name(work.method)}-{work.seed}"
    results: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    seconds, resumed = 0.0, 0
    for network in retrain(architectures, recipe, work.config.runtime, data, trial, work.checkpoint, show):
        for file, weights in network.weights.items():
            save_weights(weights, folder / file, network.about)
        results.append(network.result)
        rows += network.rows
        seconds, resumed = seconds + network.seconds, resumed + network.resumed
    folder.mkdir(exist_ok=True)  # an output of the stage, empty where nothing is retrained
    write_record(work.folder / "retrain.json", "retrain", {**work.head, "results": results})
    write_json(work.folder / "retrain.history.json", rows)
    work.write_metrics(summary(results))
    work.write_cost(seconds, recipe.epochs * len(data) * len(results), resumed)


if __name__ == "__main__":
    app()
