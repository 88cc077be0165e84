"""Options that several commands share."""

from typing import Annotated

import typer

JobsOption = Annotated[
    int | None, typer.Option(min=1, help="Trials to run in parallel. Default: 2 on a CPU, else one per GPU.")
]
