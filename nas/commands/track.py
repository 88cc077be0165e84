"""`nas track`: the MLflow view of the runs. It is made from the records and can be rebuilt at any time."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from nas.project import PARAMS, RUNS, clear_errors, load, require

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
HERE = Path()


@app.command()
@clear_errors
def init() -> None:
    """Create or upgrade MLflow's database. Takes seconds."""
    from nas.tracking.view import View

    View(HERE)


@app.command()
@clear_errors
def rebuild() -> None:
    """Add every trial of params.yaml from its records in runs/. Runs that the view has are left alone."""
    from nas.tracking import rebuild
    from stages.trial import params_of

    config = load()
    added = rebuild(config.runs(), RUNS, {method: params_of(config, method) for method in config.methods}, HERE)
    typer.echo(f"{added} stage runs added")


@app.command()
@clear_errors
def ui(port: Annotated[int, typer.Option(help="The port on 127.0.0.1.")] = 5000) -> None:
    """Serve MLflow's pages until Ctrl-C."""
    from nas.tracking.view import SQLITE, View, tracking_uri

    uri = tracking_uri(HERE)
    if not uri.startswith(SQLITE):
        typer.echo("MLFLOW_TRACKING_URI names a server: open its address in a browser")
        return
    require(PARAMS)  # the database is in the project's folder
    View(HERE)
    where = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    command = ["mlflow", "ui", *where, "--workers", "1"]  # one worker: each imports MLflow, which takes seconds
    os.execv(sys.executable, [sys.executable, "-m", *command])  # noqa: S606 (no shell is the point)
