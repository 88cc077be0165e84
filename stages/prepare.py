"""python -m stages.prepare: the data set that params.yaml names, as files that every later stage reads."""

import typer

from nas.project import PREPARED, clear_errors, load

app = typer.Typer(add_completion=False)


@app.command()
@clear_errors
def main() -> None:
    """Read the source, check it, write data/prepared/. Seconds to a minute, CPU."""
    from nas.data.prepare import prepare

    spec = prepare(load().data, PREPARED)
    counts = ", ".join(f"{count} {part}" for part, count in spec.counts.items())
    typer.echo(f"{spec.name}: {spec.shape} (C, H, W), {spec.classes} classes, {counts}")


if __name__ == "__main__":
    app()
