"""Stage `search`: train a supernet (or candidates) by one method and write all that derive needs."""

from typing import TYPE_CHECKING, Any

import typer

from nas.project import PREPARED, clear_errors

if TYPE_CHECKING:
    from stages.trial import Trial

app = typer.Typer(add_completion=False)


@app.command()
@clear_errors
def search(run: str = typer.Option(help="Run key, for instance darts-0.")) -> None:
    """Search by the method and seed of RUN. Minutes to days; goes on from a checkpoint when it was stopped."""
    from stages.trial import trial

    with trial("search", run) as work:
        run_search(work)


def run_search(work: "Trial") -> None:
    """Train, then write the records."""
    from nas.collapse import collapsed
    from nas.records import finite, write_json, write_record
    from nas.training.loop import run as run_loop
    from nas.training.search import SearchJob

    refuse_size(work)
    job = SearchJob(work.config, work.method, work.seed, PREPARED, work.device)
    outcome = run_loop(job, work.checkpoint("search"), lambda row: work.tracker.log_epoch(row, step=row["epoch"]))
    method = job.method
    counted = {**method.passes, "macs": method.macs()}
    space = work.config.search[work.method].space
    record = {**work.head, "space": space, "state": method.search_state(), "counted": counted}
    write_record(work.folder / "search.json", "search", record)
    write_json(work.folder / "search.history.json", filled(outcome.history))
    told_apart = ("ops.", "incumbent")  # counts of operations, and texts
    row = outcome.history[-1] if outcome.history else {}  # none where nothing is searched
    last = {name: value for name, value in row.items() if not name.startswith(told_apart)}
    collapse = {"collapsed": len(collapsed(row))} if "parameterless" in last else {}
    work.write_metrics(finite({**last, **collapse, "macs_t": counted["macs"] / 1e12}))
    work.write_cost(outcome.seconds, sum(method.passes.values()), outcome.resumed)
    work.tracker.log_artifacts([work.folder / "search.json"])


def refuse_size(work: "Trial") -> None:
    """What is found has to be retrained: a size that the space has not is told now, and not after the search.

    Raises:
        ParamsError: `retrain` names such a size.
    """
    from nas.architectures.base import ArchitectureError
    from nas.config.sections import ParamsError
    from nas.data.spec import DataSpec
    from nas.records import read_json
    from nas.spaces.registry import get_space
    from nas.training.search import image_form

    form = image_form(DataSpec.from_dict(read_json(PREPARED / "spec.json")))
    try:
        get_space(work.config.search[work.method].space).check(form, work.config.retrain)
    except ArchitectureError as error:
        raise ParamsError(f"params.yaml: 'retrain': {error}") from None


def filled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the same keys in each, null where a row had no such figure, or one that is no number: `dvc plots`
    draws no others."""
    from nas.records import finite

    names = list(dict.fromkeys(name for row in rows for name in row))
    return [finite({name: row.get(name) for name in names}) for row in rows]


if __name__ == "__main__":
    app()
