"""Stage `evaluate`: the only stage that opens the test split."""

from typing import TYPE_CHECKING

import typer

from nas.project import PREPARED, clear_errors

if TYPE_CHECKING:
    from stages.trial import Trial

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@clear_errors
def main(run: str = typer.Option(help="Run key, for instance darts-0.")) -> None:
    """Measure the retrained networks of RUN on the test split; look their cells up if params.yaml names a table."""
    from stages.trial import trial

    with trial("evaluate", run) as work:
        run_evaluate(work)


def run_evaluate(work: "Trial") -> None:
    """Measure every network, then write the records."""
    from nas.data.dataset import load_split
    from nas.records import in_project, read_json, read_record, write_record
    from nas.training.evaluate import evaluate, look_up, summary
    from nas.training.sized import SizedArchitecture

    config = work.config
    record = read_record(work.folder / "architectures.json", "architectures")
    architectures = [SizedArchitecture.from_dict(entry) for entry in record["architectures"]]
    data = load_split(PREPARED, "test", work.device)
    weights, precision = work.folder / "weights", config.runtime.precision
    done = evaluate(architectures, config.retrain, data, config.evaluate.batch, weights, work.device, precision)
    table = None
    if (file := config.evaluate.table) is not None:
        history = read_json(work.folder / "search.history.json")
        path = in_project(file.path)
        table = look_up(architectures, config.retrain, data.spec.form, path, file.sha256, history)
    body = {**work.head, "data": data.spec.name, "images": len(data), "results": done.results, "table": table}
    write_record(work.folder / "evaluate.json", "evaluation", body)
    work.write_metrics(summary(architectures, done.results, table))
    work.write_cost(done.seconds, len(data) * len(done.results) * config.retrain.best_of_last, 0)


if __name__ == "__main__":
    app()
