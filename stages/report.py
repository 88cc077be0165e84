"""Stage `report`: tables, figures and index.html from the records of every expected trial.

python -m stages.report
python -m stages.report --check
"""

import os

import typer

from nas.project import PREPARED, REPORT, RUNS, clear_errors, load

LAUNCHED = "NAS_LAUNCHED"  # set in a stage's environment by a launcher, which prints the table itself
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@clear_errors
def main(
    check: bool = typer.Option(False, "--check", help="Write nothing; compare the results on disk with the records."),
) -> None:
    """Write the report, or check that the one on disk agrees with the records. Takes seconds; needs no data set."""
    if check:
        check_report()
    else:
        write_report()


def write_report() -> None:
    """Write report/ and, unless started by a launcher, print the table."""
    from nas.report import build

    build(load().runs(), RUNS, PREPARED / "spec.json", REPORT)
    if LAUNCHED not in os.environ:
        show()


def check_report() -> None:
    """Compare the results in report/ with the records; exit with 1 at the first difference."""
    from nas.report import difference

    if text := difference(load().runs(), RUNS, PREPARED / "spec.json", REPORT):
        typer.echo(text, err=True)
        raise typer.Exit(1)
    typer.echo(f"{REPORT}: the results agree with the records")


def show() -> None:
    """Print the table, at its full width whatever the terminal's, and where the page is."""
    typer.echo((REPORT / "table.md").read_text(encoding="utf-8"))
    typer.echo(f"Figures, cells and provenance: {REPORT / 'index.html'}")


if __name__ == "__main__":
    app()
