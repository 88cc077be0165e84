"""python -m bench.channels: compares compact and masked kernels of channel architectures on one CPU thread.

Prints, for both forms of the same channel masks, the images per second of an evaluation and of a training step, and how
many times faster the compact form is. Runs are interleaved; budgets are those of presets/ablations/tenas-budget.yaml.
Nothing is saved. The masks are random, so hardly any edge loses all its channels; a search may remove whole edges,
which neither form computes.
"""

from collections.abc import Callable

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bench.measure import interleaved, ratios, spread
from bench.work import Step, Work, retraining
from nas.architectures.channel import ChannelArchitecture
from nas.architectures.channel_masks import Masks
from nas.architectures.channel_sizes import effective
from nas.engine.placement import place
from nas.methods.shared.gate_scores import shortest
from nas.spaces.channel.space import ChannelSpace
from nas.spaces.channel.tables import to_masks

SHARES = (1.5 / 7.2, 3.0 / 7.2, 4.5 / 7.2)  # of the supernet's parameters; 1.5, 3 and 4.5 M at 20 cells, 36 channels
FORMS = ("masked", "compact")
CUTS = 1000  # number of thresholds for the random values of the gates
SPACE = ChannelSpace()


def random_masks(share: float, work: Work) -> Masks:
    """Close gates in random order until the compact network has this share of the supernet's parameters."""
    generator = torch.Generator().manual_seed(0)
    order = [torch.rand(table.shape, generator=generator) for table in SPACE.every_gate(work.size)]
    for table in order:
        table[[edges[0] for edges in SPACE.feeding], 2, 0] = 1.0  # one skip into each node stays open

    def open_gates(cut: int) -> list[Tensor]:
        return SPACE.closed([table >= cut / CUTS for table in order])

    def params(cut: int) -> int:
        return SPACE.sizes(open_gates(cut), work.form, work.size)[0].params

    whole = params(0)
    cut = shortest(CUTS, lambda cut: params(cut) <= share * whole)
    assert cut is not None, f"no masks of {work.size} have {share:.2f} of the parameters"
    return to_masks(open_gates(cut), SPACE.op)


def evaluation(form: str, masks: Masks, work: Work) -> Step:
    """A forward pass, which returns the logits."""
    network, images, _ = built(form, masks, work, auxiliary=False)
    network.eval()

    def step() -> Tensor:
        with torch.no_grad():
            logits: Tensor = network(images)[0]
        return logits

    return step


def training(form: str, masks: Masks, work: Work) -> Step:
    """A step of retraining, with auxiliary head and drop path, which returns the loss."""
    return retraining(*built(form, masks, work, auxiliary=True))


def built(form: str, masks: Masks, work: Work, auxiliary: bool) -> tuple[nn.Module, Tensor, Tensor]:
    """The network that retraining trains in this form, on its device, and a batch of images and labels."""
    torch.manual_seed(0)
    architecture = ChannelArchitecture.of(masks, "gated", form=form)
    network = SPACE.trainee(architecture, work.form, work.size, auxiliary)
    return place(network, torch.device(work.device), "float32"), *work.batch_of(torch.channels_last)


RUNS: dict[str, Callable[[str, Masks, Work], Step]] = {"evaluation": evaluation, "training step": training}


def rows(masks: Masks, work: Work, repeats: int) -> list[list[str]]:
    """A row per run: its name, the median images per second of both forms, and the speed-up with its range."""
    table = []
    for name, build in RUNS.items():
        times = interleaved({form: build(form, masks, work) for form in FORMS}, work.device, repeats)
        rates = [spread([work.batch / t for t in times[form]])["median"] for form in FORMS]
        times_faster = ratios(times, *FORMS)
        low, middle, high = (times_faster[key] for key in ("min", "median", "max"))
        table.append([name, *(f"{rate:.1f}" for rate in rates), f"{middle:.2f} ({low:.2f} to {high:.2f})"])
    return table


def main(
    cells: int = typer.Option(20, min=3),
    channels: int = typer.Option(36, min=2),
    batch: int = typer.Option(16, min=2),
    repeats: int = typer.Option(5, min=1, help="Rounds of interleaved runs."),
) -> None:
    """Measure both forms and print a table."""
    torch.set_num_threads(1)
    work = Work("cpu", batch, channels, cells)
    titles = ("params", "multiply-adds", "run", *(f"{form}, images/s" for form in FORMS), "speed-up of compact")
    title = f"{cells} cells, {channels} channels, batch {batch}, one thread, torch {torch.__version__}"
    table = Table(*titles, title=title)
    for share in SHARES:
        masks = random_masks(share, work)
        size = effective(masks, work.form)
        for row in rows(masks, work, repeats):
            table.add_row(f"{size.params / 1e6:.2f} M", f"{size.macs / 1e6:.0f} M", *row)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
