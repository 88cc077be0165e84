"""Tables, figures and index.html from the records of every expected trial. Seconds, CPU, no data set.

python -m stages.report
python -m stages.report --check
"""

import os

import typer

from nas.project import PREPARED, REPORT, RUNS, clear_errors, load

LAUNCHED = "NAS_LAUNCHED"  # in the environment of a stage: who started it shows the table in the end
app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
@clear_errors
def main(
    check: bool = typer.Option(False, "--check", help="Write nothing; compare the results on disk with the records."),
) -> None:
    """Write the report, or check that the one on disk says what the records say."""
    from nas.report import build, difference

    trials = load().runs()
    where = (trials, RUNS, PREPARED / "spec.json", REPORT)
    if not check:
        build(*where)
        if LAUNCHED not in os.environ:
            show()
    elif found := difference(*where):
        typer.echo(found, err=True)
        raise typer.Exit(1)
    else:
        typer.echo(f"{REPORT}: the results are those of the records")


def show() -> None:
    """Print the table that was written, whole however narrow the terminal is, and where the page is."""
    typer.echo((REPORT / "table.md").read_text(encoding="utf-8"))
    typer.echo(f"Figures, cells and provenance: {REPORT / 'index.html'}")


if __name__ == "__main__":
    app()
