"""A search: a method, trained on the two halves of its data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.architectures.base import ArchitectureError
from nas.collapse import collapsed, parameterless
from nas.config.params import Config, Size
from nas.config.sections import ParamsError
from nas.contracts import ImageForm, Space
from nas.data.dataset import Batch, Stream, load_split
from nas.data.spec import DataSpec
from nas.engine.tasks import Tally
from nas.methods import method_module
from nas.methods.shared.base import SearchMethod, Setting
from nas.registry import seed_name
from nas.spaces.registry import get_space
from nas.training.checkpoint import Checkpoint
from nas.training.determinism import derived_seed, seed_everything
from nas.training.loop import Job, Row, run


@dataclass(frozen=True)
class Searched:
    """What a search ends with. `state` is all that derive needs; `passes` counts images, `macs` multiply-adds."""

    space: str
    state: dict[str, Any]
    passes: Mapping[str, int]
    macs: int
    history: Sequence[Row]
    seconds: float
    resumed: int

    @property
    def images(self) -> int:
        """Images that went forward and backward."""
        return sum(self.passes.values())

    @property
    def metrics(self) -> dict[str, Any]:
        """The numbers of the last epoch, the number of collapsed cell types, and multiply-adds in tera (`macs_t`)."""
        row = self.history[-1] if self.history else {}  # empty where nothing is searched
        last = {name: value for name, value in row.items() if not name.startswith(("ops.", "incumbent"))}
        collapse = {"collapsed": len(collapsed(row))} if "parameterless" in last else {}
        return {**last, **collapse, "macs_t": self.macs / 1e12}


def search(
    config: Config,
    method: str,
    seed: int,
    prepared: Path,
    device: torch.device,
    checkpoint: Checkpoint,
    on_row: Callable[[Row], None],
) -> Searched:
    """Search by one method and seed, from its checkpoint if there is one.

    Args:
        prepared: the folder that `prepare` writes.
        on_row: called with the row of each epoch.

    Raises:
        ParamsError: the space has no networks of the size in `retrain`.
    """
    space = config.search[method].space
    refuse_size(get_space(space), DataSpec.read(prepared).form, config.retrain)
    job = SearchJob(config, method, seed, prepared, device)
    outcome = run(job, checkpoint, on_row)
    searched = job.method
    return Searched(
        space,
        searched.search_state(),
        searched.passes,
        searched.macs(),
        outcome.history,
        outcome.seconds,
        outcome.resumed,
    )


def refuse_size(space: Space, form: ImageForm, size: Size) -> None:
    """Check the size of the networks to retrain, so that an impossible one is reported before the search.

    Raises:
        ParamsError: the space has no networks of this size.
    """
    try:
        space.check(form, size)
    except ArchitectureError as error:
        raise ParamsError(f"params.yaml: 'retrain': {error}") from None


class SearchJob(Job):
    """The method's epochs over the weight half. The architecture half is read in parallel and restarted at its end."""

    def __init__(self, config: Config, method: str, seed: int, prepared: Path, device: torch.device) -> None:
        common, params = config.common, config.search[method]
        train = load_split(prepared, "search_train", device)
        valid = load_split(prepared, "search_valid", device)
        self.train = Stream(train, common.batch, common.augment, derived_seed("search", seed, "train"))
        self.valid = Stream(valid, common.batch, common.augment, derived_seed("search", seed, "valid"))
        self.plain = Stream(valid, 4 * common.batch, None, 0)
        self.name, self.device = f"search {method}-{seed}", device
        self.steps, self.images = self.train.steps, len(train)
        seed_everything("search", seed_name(method), seed)
        runtime = config.runtime
        self.space = get_space(params.space)
        form, precision = train.spec.form, runtime.precision
        setting = Setting(self.space, form, common, device, precision, self.steps, runtime.graphs)
        self.method: SearchMethod[Any] = method_module(method).Method(params, setting)
        self.epochs = self.method.epochs
        self.collapsed: dict[str, str] = {}  # cell type -> message, after the last epoch

    def start_epoch(self, epoch: int) -> None:
        self.method.start_epoch(epoch)

    def step(self, epoch: int, step: int) -> Tally:
        turn, at = divmod(epoch * self.steps + step, self.valid.steps)
        return self.method.step(self.train.batch(epoch, step), self.valid.batch(turn, at))

    def end_epoch(self, epoch: int) -> Row:
        row = self.method.end_epoch(self._valid_pass)
        self.epochs = self.method.epochs  # a method may stop early
        if (share := parameterless(row)) is not None:
            row["parameterless"] = share
        self.warn(epoch, collapsed(row))
        return row | self._incumbent()

    def warn(self, epoch: int, messages: dict[str, str]) -> None:
        """Print each collapse (cell type -> message) in the epoch in which it begins."""
        for cell_type in messages.keys() - self.collapsed.keys():
            print(f"warning: collapse in epoch {epoch + 1}: {messages[cell_type]}", flush=True)
        self.collapsed = messages

    def _incumbent(self) -> Row:
        """`incumbent`, or `incumbent.<name>`: the cell that would be derived now, in a space with a benchmark table."""
        texts = {name: self.space.text(architecture) for name, architecture in self.method.incumbent().items()}
        return {"incumbent" + f".{name}" * (name != "main"): text for name, text in texts.items() if text is not None}

    def _valid_pass(self) -> Iterator[Batch]:
        return self.plain.epoch(0)

    def state_dict(self) -> dict[str, Any]:
        return self.method.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.method.load_state_dict(state)
        self.epochs = self.method.epochs
