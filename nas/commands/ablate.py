"""Ablations: one question each, a file in presets/ablations/, answered by a table.

python -m nas.commands.ablate list
python -m nas.commands.ablate run eoinas-indicator
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nas.commands.launch import JobsOption, slots
from nas.project import clear_errors, load

if TYPE_CHECKING:
    from nas.commands.variants import Variant

app = typer.Typer(add_completion=False, help=__doc__)


@app.command("list")
@clear_errors
def list_ablations() -> None:
    """Name every ablation, with its question."""
    from nas.commands.variants import headline, names

    for name in names():
        typer.echo(f"{name:18} {headline(name)}")


@app.command()
@clear_errors
def run(
    name: str,
    jobs: JobsOption = None,
    out: Path | None = typer.Option(None, help="A file for the table, beside the terminal."),
) -> None:
    """Run every variant of ablation NAME over params.yaml, as a DVC experiment each; then print the table.

    A variant that has been run with the same parameters and code is not run again.
    """
    from nas.commands.experiments import find, working_state
    from nas.commands.variants import read
    from nas.records import write_text

    variants = read(name)  # all that can be refused is refused here, before anything runs
    state = working_state()
    wrong = run_missing([variant for variant in variants if find(variant, state) is None], state, jobs)
    found = {variant.label: (variant, ref) for variant in variants if (ref := find(variant, state))}
    if found:
        text = page(name, list(found.values()))
        show(text)
        if out is not None:
            write_text(out, text)
    missing = [variant.label for variant in variants if variant.label not in found]
    for label in missing:
        told = wrong.get(label, "its experiment has other parameters or code than it was given")
        print(f"error: variant '{label}' did not finish; {told}", file=sys.stderr)
    if missing:
        sys.exit(1)


def run_missing(variants: Sequence["Variant"], state: str, jobs: int | None) -> dict[str, str]:
    """Label -> what went wrong, of each variant that did not finish."""
    from nas.commands.experiments import Experiments

    if not variants:
        return {}
    experiments = Experiments(slots(jobs, load().runtime.device), state)
    for signum in (signal.SIGTERM, signal.SIGINT):  # DVC tidies up after SIGINT alone
        signal.signal(signum, lambda _, frame: experiments.stop(signal.SIGINT, frame))
    if not experiments.run("repro", "prepare"):  # once, before the variants that all start with it
        return {variant.label: "`dvc repro prepare` failed" for variant in variants}
    return experiments.run_all(variants)


def page(name: str, found: Sequence[tuple["Variant", str]]) -> str:
    """The table of the variants that have been run, each with the ref of its experiment, as Markdown."""
    from nas.commands.experiments import outcomes
    from nas.commands.variants import headline
    from nas.report.ablation import table

    data = dict.fromkeys(f"{v.config.data.name}, {v.config.data.splits.test}" for v, _ in found)
    notes = [
        f"- Data and test split: {'; '.join(data)}. The rest of the protocol is params.yaml, or differs by variant.",
        f"- Each variant is the DVC experiment `ablation-{name}-<variant>`: `dvc exp show`, `dvc exp apply`.",
    ]
    answer = table({variant.label: outcomes(variant, ref) for variant, ref in found})
    return "\n".join([f"**{name}**: {headline(name)}", "", answer + "\n".join(notes), ""])


def show(text: str) -> None:
    """Laid out for a terminal; as it is for a pipe, whose width nobody knows."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.print(Markdown(text)) if console.is_terminal else typer.echo(text, nl=False)


if __name__ == "__main__":
    app()
