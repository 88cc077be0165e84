"""`nas ablate`: ablations. Each is a file in presets/ablations/ that asks one question; a table answers it.

nas ablate list
nas ablate run eoinas-indicator
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.commands.options import JobsOption
from nas.project import clear_errors, load

if TYPE_CHECKING:
    from nas.commands.variants import Variant

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.command("list")
@clear_errors
def list_ablations() -> None:
    """List the ablations, each with its question."""
    from nas.commands.variants import headline, names

    for name in names():
        typer.echo(f"{name:18} {headline(name)}")


@app.command()
@clear_errors
def run(
    name: Annotated[str, typer.Argument(help="An ablation; `nas ablate list` names them.")],
    jobs: JobsOption = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table to this file.")] = None,
) -> None:
    """Run each variant of ablation NAME as a DVC experiment, then print the table.

    A variant that was already run with the same parameters and code is not run again.
    """
    from nas.commands.experiments import find, working_state
    from nas.commands.variants import read
    from nas.records import write_text

    variants = read(name)  # refuses whatever can be refused before anything runs
    state = working_state()
    wrong = run_missing([variant for variant in variants if find(variant, state) is None], state, jobs)
    done = {variant.label: (variant, ref) for variant in variants if (ref := find(variant, state))}
    if done:
        text = page(name, list(done.values()))
        show(text)
        if out is not None:
            write_text(out, text)
    missing = [variant.label for variant in variants if variant.label not in done]
    for label in missing:
        reason = wrong.get(label, "its experiment has other parameters or code than it was given")
        print(f"error: variant '{label}' did not finish; {reason}", file=sys.stderr)
    if missing:
        sys.exit(1)


def run_missing(variants: Sequence["Variant"], state: str, jobs: int | None) -> dict[str, str]:
    """Run these variants; returns label -> what went wrong, for each that did not finish."""
    from nas.commands.experiments import Experiments
    from nas.commands.launch import slots

    if not variants:
        return {}
    experiments = Experiments(slots(jobs, load().runtime.device), state)
    for signum in (signal.SIGTERM, signal.SIGINT):  # DVC cleans up only after SIGINT
        signal.signal(signum, lambda _, frame: experiments.stop(signal.SIGINT, frame))
    if not experiments.run("repro", "prepare"):  # once, as all variants need it
        return {variant.label: "`dvc repro prepare` failed" for variant in variants}
    return experiments.run_all(variants)


def page(name: str, done: Sequence[tuple["Variant", str]]) -> str:
    """The table, in Markdown, of the variants that have been run, given with the refs of their experiments."""
    from nas.commands.experiments import outcomes
    from nas.commands.variants import headline
    from nas.report.ablation import table

    data = dict.fromkeys(f"{v.config.data.name}, {v.config.data.splits.test}" for v, _ in done)
    notes = [
        f"- Data and test split: {'; '.join(data)}. The rest of the protocol is params.yaml, or differs by variant.",
        f"- Each variant is the DVC experiment `ablation-{name}-<variant>`: `dvc exp show`, `dvc exp apply`.",
    ]
    answer = table({variant.label: outcomes(variant, ref) for variant, ref in done})
    return "\n".join([f"**{name}**: {headline(name)}", "", answer + "\n".join(notes), ""])


def show(text: str) -> None:
    """Print Markdown, formatted if standard output is a terminal."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.print(Markdown(text)) if console.is_terminal else typer.echo(text, nl=False)
