"""CUDA graphs: the kernels of a pass are recorded once, then replayed by one launch forward and one backward.

A supernet is thousands of small kernels, which a GPU runs faster than Python can start them. How a pass is recorded is
torch's business (torch.cuda.make_graphed_callables); which pass is, and how long a recording holds, is this page's.
"""

import gc
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from nas.contracts import SoftMix

SEEN = 3  # passes of a kind that run as they are written before one is recorded: most kinds do not come back
COUNTED, KEPT = 64, 4  # kinds whose passes are counted, and recordings: the last used of each


class Graphs:
    """The forward function of a network, from graphs where it can be: forward(images) or forward(images, SoftMix).

    A recording holds for one kind of pass: sizes, mode, which tensors take gradients, the operations that run, and the
    probabilities of dropout. What is evaluated (no gradients), or runs single paths or gates, runs as it is written.
    The bits are the same, those of random masks too: a recording reads the generator's state when it is replayed.

    A gradient of a weight may lie in memory that the next pass of its kind writes; whoever keeps it longer copies it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self.forward = network, network.forward
        self.seen: OrderedDict[Hashable, int] = OrderedDict()
        self.kept: OrderedDict[Hashable, _Pass] = OrderedDict()
        self.pool: Any = None  # of memory, which all recordings share: they never run at once

    def __call__(self, images: Tensor, *mix: Any) -> Any:
        if not torch.is_grad_enabled() or any(not isinstance(part, SoftMix) for part in mix):
            return self.forward(images, *mix)
        kind = self._kind(images, *mix)
        if kind not in self.kept:
            if self._seen_before(kind) < SEEN:
                return self.forward(images, *mix)
            _keep(self.kept, kind, self._recorded(images, *mix), KEPT)
        self.kept.move_to_end(kind)
        recorded = self.kept[kind]
        return recorded.whole(recorded(images, *_tables(mix)))

    def _kind(self, images: Tensor, *mix: SoftMix) -> Hashable:
        return (
            images.shape,
            self.network.training,
            getattr(self.network, "drop_path", None),
            bytes(parameter.requires_grad for parameter in self.network.parameters()),
            tuple((table.shape, table.requires_grad) for table in _tables(mix)),
            tuple((*part.weights, part.skip_dropout, _alive(part)) for part in mix),
        )

    def _seen_before(self, kind: Hashable) -> int:
        times = self.seen.pop(kind, 0)
        _keep(self.seen, kind, times + 1, COUNTED)
        return times

    def _recorded(self, images: Tensor, *mix: SoftMix) -> "_Pass":
        """torch runs what it records a few times before; nothing of that stays in buffers or in the generator."""
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        samples = [t.detach().clone().requires_grad_(t.requires_grad) for t in (images, *_tables(mix))]
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        state = torch.cuda.get_rng_state(images.device)
        gc.collect()  # what is left of older graphs may not go while another one is recorded
        recorded = torch.cuda.make_graphed_callables(
            _Pass(self.network, self.forward, mix), tuple(samples), allow_unused_input=True, pool=self.pool
        )
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        torch.cuda.set_rng_state(state, images.device)
        assert isinstance(recorded, _Pass)
        return recorded


class _Pass(nn.Module):
    """Passes of one kind, tensors in and tensors out: forward(images, tables of weights)."""

    def __init__(self, network: nn.Module, run: Callable[..., Any], mix: tuple[SoftMix, ...]) -> None:
        super().__init__()
        self.network, self.run, self.mix, self.training = network, run, mix, network.training
        self.there: list[bool] | None = None  # of a tuple that the network gives, what is not None

    def forward(self, images: Tensor, *tables: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tables)
        weights = [{kind: next(rest) for kind in part.weights} for part in self.mix]
        mix = [SoftMix(given, part.alive, part.skip_dropout) for given, part in zip(weights, self.mix, strict=True)]
        found = self.run(images, *mix)
        if not isinstance(found, tuple):
            return (found,)
        self.there = [part is not None for part in found]
        return tuple(part for part in found if part is not None)

    def whole(self, parts: tuple[Tensor, ...]) -> Any:
        """What the network gives, of the tensors in it."""
        rest = iter(parts)
        return next(rest) if self.there is None else tuple(next(rest) if there else None for there in self.there)


def _tables(mix: tuple[SoftMix, ...]) -> list[Tensor]:
    return [table for part in mix for table in part.weights.values()]


def _alive(mix: SoftMix) -> Hashable:
    return mix.alive and tuple((kind, tuple(map(tuple, edges))) for kind, edges in mix.alive.items())


def _keep(among: OrderedDict[Hashable, Any], kind: Hashable, value: Any, most: int) -> None:
    among[kind] = value
    if len(among) > most:
        among.popitem(last=False)
