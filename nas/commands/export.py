"""A retrained network as one file that needs nothing of this project. By hand: no stage of the pipeline.

python -m nas.commands.export runs/darts-0/weights/main-0.safetensors digits.pt2
"""

from pathlib import Path
from typing import Annotated

import typer

from nas.project import clear_errors

app = typer.Typer(add_completion=False, help=__doc__)
SUFFIX = ".pt2"


class ExportError(ValueError):
    """A file that cannot be written."""


@app.command()
@clear_errors
def export(
    weights: Annotated[Path, typer.Argument(help="What retrain wrote: runs/<key>/weights/*.safetensors.")],
    out: Annotated[Path, typer.Argument(help="The file to write, *.pt2.")],
) -> None:
    """Write the network of WEIGHTS, its normalisation included, as a program of torch.export."""
    if out.suffix != SUFFIX:
        raise ExportError(f"{out}: expected a name that ends in {SUFFIX}, torch.export's form")

    from nas import trained_network as networks

    network = networks.load_network(weights)
    networks.export(network, out)
    channels, height, width = network.spec.shape
    typer.echo(
        f"{out}: float32 [batch, {channels}, {height}, {width}], pixels from 0 to 1 -> logits [batch, "
        f"{network.spec.classes}]. Classes: {', '.join(network.spec.class_names)}"
    )


if __name__ == "__main__":
    app()
