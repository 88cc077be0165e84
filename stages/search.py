"""Stage `search`: train a supernet (or candidates) by one method and write all that derive needs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from nas.project import PREPARED, clear_errors

if TYPE_CHECKING:
    from stages.trial import Trial

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@clear_errors
def main(run: str = typer.Option(help="Run key, for instance darts-0.")) -> None:
    """Search by the method and seed of RUN. Takes minutes to days; resumes from its checkpoint if it was stopped."""
    from stages.trial import trial

    with trial("search", run) as work:
        run_search(work)


def run_search(work: "Trial") -> None:
    """Search, then write the records."""
    from nas.records import finite, write_json, write_record
    from nas.training.search import search

    def show(row: dict[str, Any]) -> None:
        work.tracker.log_epoch(row, step=row["epoch"])

    done = search(work.config, work.method, work.seed, PREPARED, work.device, work.checkpoint("search"), show)
    counted = {**done.passes, "macs": done.macs}
    record = {**work.head, "space": done.space, "state": done.state, "counted": counted}
    write_record(work.folder / "search.json", "search", record)
    write_json(work.folder / "search.history.json", filled(done.history))
    work.write_metrics(finite(done.metrics))
    work.write_cost(done.seconds, done.images, done.resumed)
    work.tracker.log_artifacts([work.folder / "search.json"])


def filled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the same keys in each, null for a missing or non-finite value: `dvc plots` needs it so."""
    from nas.records import finite

    names = list(dict.fromkeys(name for row in rows for name in row))
    return [finite({name: row.get(name) for name in names}) for row in rows]


if __name__ == "__main__":
    app()
