"""Write tables, figures and index.html from the records of all expected trials. Takes seconds on a CPU; needs no data.

python -m stages.report
python -m stages.report --check
"""

import os

import typer

from nas.project import PREPARED, REPORT, RUNS, clear_errors, load

LAUNCHED = "NAS_LAUNCHED"  # set in a stage's environment by a launcher, which then shows the table itself
app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
@clear_errors
def main(
    check: bool = typer.Option(False, "--check", help="Write nothing; compare the results on disk with the records."),
) -> None:
    """Write the report, or check that the results on disk match the records."""
    from nas.report import build, difference

    trials = load().runs()
    where = (trials, RUNS, PREPARED / "spec.json", REPORT)
    if not check:
        build(*where)
        if LAUNCHED not in os.environ:
            show()
    elif fault := difference(*where):
        typer.echo(fault, err=True)
        raise typer.Exit(1)
    else:
        typer.echo(f"{REPORT}: the results match the records")


def show() -> None:
    """Print the written table, at full width on any terminal, and the path of the page."""
    typer.echo((REPORT / "table.md").read_text(encoding="utf-8"))
    typer.echo(f"Figures, cells and networks: {REPORT / 'index.html'}")


if __name__ == "__main__":
    app()
