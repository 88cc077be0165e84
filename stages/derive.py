"""Stage `derive`: turn the record of a search into one or several architectures, by the rule in params.yaml."""

from typing import TYPE_CHECKING

import typer

from nas.project import PREPARED, clear_errors

if TYPE_CHECKING:
    from stages.trial import Trial

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@clear_errors
def main(run: str = typer.Option(help="Run key, for instance darts-0.")) -> None:
    """Derive the architectures of RUN from the record of its search. Takes seconds; reads no images."""
    from stages.trial import trial

    with trial("derive", run) as work:
        run_derive(work)


def run_derive(work: "Trial") -> None:
    """Derive, then write the records."""
    from nas.data.spec import DataSpec
    from nas.records import read_record, write_record
    from nas.spaces.registry import get_space
    from nas.training.derive import derive

    record = read_record(work.folder / "search.json", "search")
    space, params, form = get_space(record["space"]), work.config.derive[work.method], DataSpec.read(PREPARED).form
    derived = derive(work.method, record["state"], params, space, form, work.config.retrain)
    body = {**work.head, "rule": params.rule, "architectures": [sized.to_dict() for sized, _ in derived]}
    write_record(work.folder / "architectures.json", "architectures", body)
    work.write_metrics({sized.name: {"params_m": c.params_m, "macs_m": c.macs_m} for sized, c in derived})
    work.tracker.log_artifacts([work.folder / "architectures.json"])


if __name__ == "__main__":
    app()
