"""MLflow shows what ran; it decides nothing. Make its database, fill it again from the records, or look at it."""

import os
import sys
from pathlib import Path

import typer

from nas.project import RUNS, clear_errors, load

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
HERE = Path()


@app.command()
@clear_errors
def init() -> None:
    """Make or upgrade the database, so that parallel stages find it ready. Seconds."""
    from nas.tracking.view import View

    View(HERE)


@app.command()
@clear_errors
def rebuild() -> None:
    """Log every expected trial from runs/. What the view shows already is left as it is."""
    from nas.tracking import rebuild
    from stages.trial import params_of

    config = load()
    added = rebuild(config.runs(), RUNS, {method: params_of(config, method) for method in config.methods}, HERE)
    typer.echo(f"{added} stage runs added")


@app.command()
@clear_errors
def ui(port: int = typer.Option(5000, help="Of 127.0.0.1.")) -> None:
    """Serve MLflow's pages until Ctrl-C."""
    from nas.tracking.view import SQLITE, View, tracking_uri

    uri = tracking_uri(HERE)
    if not uri.startswith(SQLITE):
        typer.echo("MLFLOW_TRACKING_URI names a server: open that address")
        return
    View(HERE)
    where = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    command = ["mlflow", "ui", *where, "--workers", "1"]  # one reader; each worker imports MLflow anew
    os.execv(sys.executable, [sys.executable, "-m", *command])  # noqa: S606 (no shell is the point)


if __name__ == "__main__":
    app()
