"""Stage `prepare`: write the data set that params.yaml names as the files that every later stage reads."""

import typer

from nas.project import PREPARED, clear_errors, load

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@clear_errors
def main() -> None:
    """Read and check the data set, then write data/prepared/. Takes seconds to a minute on a CPU."""
    from nas.data.prepare import prepare

    spec = prepare(load().data, PREPARED)
    counts = ", ".join(f"{count} {part}" for part, count in spec.counts.items())
    typer.echo(f"{spec.name}: {spec.shape} (C, H, W), {spec.classes} classes, {counts}")


if __name__ == "__main__":
    app()
