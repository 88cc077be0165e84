"""python -m bench.ranking: how well a supernet trained on sampled paths ranks cells, compared with a benchmark table.

The methods that learn from ranks (asng, is_nas) depend on this. The supernet, the weight steps (`mixture_epochs`, then
paths) and the data are those of `asng` in the current params.yaml, while the distribution stays uniform. Random cells
are ranked by their loss in training mode, as in a search; here all of them use the same batches of search_valid, which
are not augmented and four times as large. Needs space nasbench201, `evaluate.table` and the files of the prepare stage:
`make preset NAME=nasbench201-small && dvc repro prepare`. Prints a table and saves nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from nas.benchmark_table import read_table
from nas.config.sections import ParamsError
from nas.data.dataset import Batch
from nas.project import PREPARED, clear_errors, load
from nas.records import in_project
from nas.training.search import SearchJob

TRUE_ACCURACY = "cifar10_test_acc"  # the figure of the table


def kendall(a: Tensor, b: Tensor) -> float:
    """Kendall's tau-a of two vectors [n]: (concordant pairs - discordant pairs) / all pairs."""
    order = torch.sign(a[:, None] - a) * torch.sign(b[:, None] - b)
    return order.sum().item() / (len(a) * (len(a) - 1))


def losses(method: Any, cells: Tensor, batches: Sequence[Batch]) -> Tensor:
    """Mean loss of each cell over the batches, without gradients: [n]."""
    task = method.setting.task

    def loss(cell: Tensor) -> Tensor:
        return torch.stack([task.loss(method.run(cell, b, backward=False), b.labels) for b in batches]).mean()

    with torch.no_grad():
        return torch.stack([loss(cell) for cell in cells]).cpu()


@clear_errors
def main(
    epochs: int = typer.Option(60, min=2, help="Epochs of training, and of the cosine schedule."),
    every: int = typer.Option(10, min=1, help="Epochs between two rankings."),
    cells: int = typer.Option(60, min=10, help="Number of random cells to rank."),
    batches: int = typer.Option(
        2, min=1, help="Batches of search_valid for the loss, at most all; each has 4 * search.common.batch images."
    ),
    seed: int = typer.Option(0, min=0, help="Seed of training and cells."),
) -> None:
    """Train a supernet and print how well it ranks cells."""
    config = load()
    own, file = config.search["asng"], config.evaluate.table
    if own.space != "nasbench201" or file is None:
        raise ParamsError(
            f"params.yaml: 'search.asng.space' is '{own.space}' and 'evaluate.table' is"
            f" {'null' if file is None else 'set'}: expected nasbench201 and a table; run"
            " `make preset NAME=nasbench201-small`"
        )
    torch.set_num_threads(config.runtime.threads)
    if every > epochs:
        raise ParamsError(f"--every is {every}: expected at most --epochs, {epochs}")
    own = own.model_copy(update={"eps": (0.0,), "epochs": epochs, "warmup_epochs": epochs - 1})
    config = config.model_copy(update={"search": {**config.search, "asng": own}})
    job = SearchJob(config, "asng", seed, PREPARED, torch.device(config.runtime.device))
    method: Any = job.method
    valid = [job.plain.batch(0, at) for at in range(min(batches, job.plain.steps))]
    space: Any = job.space
    table = read_table(in_project(file.path), file.sha256)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack([torch.randint(n, (cells,), generator=generator) for n in method.counts], dim=1)
    texts = [space.text(space.choose(method.split(cell.tolist()))) for cell in drawn]
    true = torch.tensor([table.judge(text)[TRUE_ACCURACY] for text in texts])
    better = true >= true.median()  # searches end among these cells, which differ little
    heads = "weight steps", "mean loss", "tau", "tau in the better half", "true accuracy of the top five, %"
    shown = Table(*heads, title=f"{cells} random cells")
    for epoch in range(epochs):
        method.start_epoch(epoch)
        for step in range(job.steps):
            method.weight_step(job.train.batch(epoch, step))
        if (epoch + 1) % every == 0:
            loss = losses(method, drawn, valid)
            best = ", ".join(f"{value:.2f}" for value in true[loss.argsort()[:5]].tolist())
            steps = (epoch + 1) * job.steps
            taus = f"{kendall(-loss, true):.2f}", f"{kendall(-loss[better], true[better]):.2f}"
            shown.add_row(str(steps), f"{loss.mean():.3f}", *taus, best)
            typer.echo(f"{steps} steps: tau {taus[0]}, in the better half {taus[1]}")
    Console().print(shown)


if __name__ == "__main__":
    typer.run(main)
