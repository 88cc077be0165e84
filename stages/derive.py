"""Stage `derive`: from what a search left to one or several architectures, by the rule in params.yaml."""

from typing import TYPE_CHECKING

import typer

from stages.common import PREPARED, clear_errors

if TYPE_CHECKING:
    from stages.trial import Trial

app = typer.Typer(add_completion=False)


@app.command()
@clear_errors
def derive(run: str = typer.Option(help="Run key, for instance darts-0.")) -> None:
    """Turn the search record of RUN into architectures. Seconds, no images."""
    from stages.trial import trial

    with trial("derive", run) as work:
        run_derive(work)


def run_derive(work: "Trial") -> None:
    """Apply the rule, then write the records."""
    from nas.data.spec import DataSpec
    from nas.methods import method_module
    from nas.records import read_json, read_record, write_record
    from nas.spaces.registry import get_space
    from nas.training.search import image_form

    record = read_record(work.folder / "search.json", "search")
    space, params = get_space(record["space"]), work.config.derive[work.method]
    found = method_module(work.method).derive(record["state"], params, space)
    rows = [
        {"name": d.name, "id": d.architecture.id, "architecture": d.architecture.to_dict(), "notes": d.notes}
        for d in found
    ]
    body = {**work.head, "rule": params.rule, "architectures": rows}
    write_record(work.folder / "architectures.json", "architectures", body)
    form = image_form(DataSpec.from_dict(read_json(PREPARED / "spec.json")))
    counts = {d.name: space.count(d.architecture, form, work.config.retrain) for d in found}
    work.write_metrics({name: {"params_m": c.params_m, "macs_m": c.macs_m} for name, c in counts.items()})
    work.tracker.log_artifacts([work.folder / "architectures.json"])


if __name__ == "__main__":
    app()
