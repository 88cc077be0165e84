"""python -m bench.ranking: how well a supernet of sampled paths ranks cells, epoch by epoch, by a table of true ones.

What methods learn from ranks (asng, is_nas) rests on these. Supernet, weight steps (`mixture_epochs`, then paths) and
data are those of `asng` in the params.yaml of the moment, the distribution left uniform; random cells are judged by the
loss in training mode, as a pool is, but all on the same batches of search_valid, not augmented and each four times as
large. Needs space nasbench201, `evaluate.table`, and what stage prepare writes:
make preset NAME=nasbench201-small && dvc repro prepare. It prints and keeps nothing.
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

JUDGED = "cifar10_test_acc"


def kendall(a: Tensor, b: Tensor) -> float:
    """Kendall's tau-a of two rows of figures [n]: pairs in the same order less pairs in the other, over all pairs."""
    order = torch.sign(a[:, None] - a) * torch.sign(b[:, None] - b)
    return order.sum().item() / (len(a) * (len(a) - 1))


def losses(method: Any, cells: Tensor, batches: Sequence[Batch]) -> Tensor:
    """Mean loss of each cell [n] over the batches, none of which is learnt from."""
    task = method.setting.task

    def loss(cell: Tensor) -> Tensor:
        return torch.stack([task.loss(method.run(cell, b, backward=False), b.labels) for b in batches]).mean()

    with torch.no_grad():
        return torch.stack([loss(cell) for cell in cells]).cpu()


@clear_errors
def main(
    epochs: int = typer.Option(60, min=2, help="Length of the training, and of its cosine."),
    every: int = typer.Option(10, min=1, help="Epochs from one look to the next."),
    cells: int = typer.Option(60, min=10, help="Random cells that are ranked."),
    batches: int = typer.Option(
        2, min=1, help="Of search_valid, as many as there are; four times search.common.batch each."
    ),
    seed: int = typer.Option(0, min=0),
) -> None:
    """Train and print."""
    config = load()
    own, file = config.search["asng"], config.evaluate.table
    if own.space != "nasbench201" or file is None:
        raise ParamsError("params.yaml: expected search.asng.space: nasbench201 and an evaluate.table; use a preset")
    torch.set_num_threads(config.runtime.threads)
    if every > epochs:
        raise ParamsError(f"--every is {every}: expected at most the {epochs} of --epochs")
    own = own.model_copy(update={"eps": (0.0,), "epochs": epochs, "warmup_epochs": epochs - 1})
    config = config.model_copy(update={"search": {**config.search, "asng": own}})
    job = SearchJob(config, "asng", seed, PREPARED, torch.device(config.runtime.device))
    method: Any = job.method
    judged = [job.plain.batch(0, at) for at in range(min(batches, job.plain.steps))]
    space: Any = job.space
    table = read_table(in_project(file.path), file.sha256)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack([torch.randint(n, (cells,), generator=generator) for n in method.counts], dim=1)
    texts = [space.text(space.choose(method.split(cell.tolist()))) for cell in drawn]
    true = torch.tensor([table.judge(text)[JUDGED] for text in texts])
    better = true >= true.median()  # where searches end, and cells differ little
    heads = "weight steps", "mean loss", "tau", "tau of the better half", "true accuracy of the best five, %"
    shown = Table(*heads, title=f"{cells} random cells")
    for epoch in range(epochs):
        method.start_epoch(epoch)
        for step in range(job.steps):
            method.weight_step(job.train.batch(epoch, step))
        if (epoch + 1) % every == 0:
            found = losses(method, drawn, judged)
            best = ", ".join(f"{value:.2f}" for value in true[found.argsort()[:5]].tolist())
            steps = (epoch + 1) * job.steps
            taus = f"{kendall(-found, true):.2f}", f"{kendall(-found[better], true[better]):.2f}"
            shown.add_row(str(steps), f"{found.mean():.3f}", *taus, best)
            typer.echo(f"{steps} steps: tau {taus[0]}, of the better half {taus[1]}")
    Console().print(shown)


if __name__ == "__main__":
    typer.run(main)
