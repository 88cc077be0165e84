"""`nas export`: write a retrained network as a torch.export program, which needs only torch to run.

nas export runs/darts-0/weights/main-0.safetensors digits.pt2
"""

from pathlib import Path
from typing import Annotated

import typer

from nas.project import clear_errors

SUFFIX = ".pt2"


class ExportError(ValueError):
    """The name of the file to write has the wrong suffix."""


@clear_errors
def export(
    weights: Annotated[Path, typer.Argument(help="A file that retrain wrote: runs/<key>/weights/*.safetensors.")],
    out: Annotated[Path, typer.Argument(help="The file to write, *.pt2.")],
) -> None:
    """Write a retrained network as a torch.export program.

    The program includes the normalisation of the images and needs only torch to run.
    """
    if out.suffix != SUFFIX:
        raise ExportError(f"{out}: expected a name that ends in {SUFFIX}, the suffix of torch.export programs")

    from nas import trained_network as networks

    network = networks.load_network(weights)
    networks.export(network, out)
    channels, height, width = network.spec.shape
    typer.echo(
        f"{out}: float32 [batch, {channels}, {height}, {width}], pixels from 0 to 1 -> logits [batch, "
        f"{network.spec.classes}]. Classes: {', '.join(network.spec.class_names)}"
    )
