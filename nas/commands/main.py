"""The console command `nas`. Modules are imported by the command that needs them, so that --help stays fast."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nas.commands import ablate, benchmark, export, preset, track
from nas.commands.options import JobsOption
from nas.project import PARAMS, PIPELINE, clear_errors, load, require

SECTIONS = {
    "Run": ("repro", "status", "report"),
    "Choose": ("preset", "params", "ablate"),
    "Use results": ("track", "export"),
    "Other": ("table", "version"),
}
EPILOG = """\
A first session, in a clone of the repository:

\b
  nas repro             run the experiment of params.yaml
  nas track ui          compare the runs in MLflow
  nas preset list       choose another protocol; then `nas preset use NAME`
"""


class CommandError(ValueError):
    """A command cannot run in this environment."""


class Sections(TyperGroup):
    """Lists the commands of --help under the headings of SECTIONS."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, names in SECTIONS.items():
            commands = [(name, command) for name in names if (command := self.get_command(ctx, name))]
            with formatter.section(title):
                formatter.write_dl([(name, command.get_short_help_str(80)) for name, command in commands])


app = typer.Typer(
    cls=Sections,
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Neural architecture search as a DVC pipeline: params.yaml describes the experiment; `nas repro` runs it.",
    epilog=EPILOG,
)
params_app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
app.add_typer(preset.app, name="preset", help="Choose a protocol: write a preset to params.yaml.")
app.add_typer(params_app, name="params", help="Check params.yaml.")
app.add_typer(ablate.app, name="ablate", help="Run ablations (variants of params.yaml) and print their tables.")
app.add_typer(track.app, name="track", help="Show the runs in MLflow.")
app.command("export")(export.export)
app.command("table")(benchmark.convert)


@app.command()
@clear_errors
def repro(jobs: JobsOption = None) -> None:
    """Run what is out of date, trials in parallel; print the table.

    A run that was stopped resumes from its checkpoints.
    """
    require(PARAMS, PIPELINE)
    require_dvc()
    from nas.commands.launch import launch

    launch(jobs)


@app.command()
@clear_errors
def status() -> None:
    """List the stages that `nas repro` would run, and why."""
    require(PARAMS, PIPELINE)
    require_dvc()
    raise typer.Exit(subprocess.run([sys.executable, "-m", "dvc", "status"], check=False).returncode)


@app.command()
@clear_errors
def report(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; compare the results in report/ with the records.")
    ] = False,
) -> None:
    """Write the report from the records; print the table.

    `nas repro` writes it too. With --check, report whether report/ still agrees with the records.
    """
    require(PARAMS)
    from stages.report import check_report, write_report

    check_report() if check else write_report()


@params_app.command()
@clear_errors
def check() -> None:
    """Validate params.yaml and list the trials that it asks for."""
    config = load()
    typer.echo(f"{PARAMS} is valid. Trials:")
    for key, method, seed in config.runs():
        typer.echo(f"  {key:14} {method} in space {config.search[method].space}, seed {seed}")


@app.command("version")
def print_version() -> None:
    """Print the version of nas."""
    checkout = Path(__file__).parents[2] / "pyproject.toml"
    if checkout.is_file():  # not installed
        typer.echo(tomllib.loads(checkout.read_text(encoding="utf-8"))["project"]["version"])
    else:
        typer.echo(version("nas"))


def require_dvc() -> None:
    """Raises CommandError if DVC is not installed."""
    if find_spec("dvc") is None:
        raise CommandError("DVC is not installed: run `make setup`, or `pip install '.[pipeline]'`")


def main() -> None:
    """The console script. Puts this environment's programs first on PATH: DVC runs the stages with `python`."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    app()


if __name__ == "__main__":
    main()
