"""CUDA graphs: the kernels of a pass are recorded once, then replayed by one launch forward and one backward.

A supernet is thousands of small kernels, which a GPU runs faster than Python can start them. How a pass is recorded is
torch's business (torch.cuda.make_graphed_callables); which pass is, and how long a recording holds, is this page's.
"""

import gc
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from nas.contracts import SoftMix

SEEN, WATCHED = (
    3,
    32,
)  # a pass is recorded when more than SEEN of the last WATCHED are of its kind: no epoch's last batch
KEPT = 4  # recordings, the last used


class Graphs:
    """The forward function of a network, from graphs where it can be: forward(images) or forward(images, SoftMix).

    A recording holds for one kind of pass: sizes, mode, which tensors take gradients, the operations that run, and the
    probabilities of dropout. What is evaluated (no gradients), or runs single paths or gates, runs as it is written.
    The bits are the same, those of random masks too: a recording reads the generator's state when it is replayed.

    A recording has memory of its own. Logits and gradients lie in it, so the next pass of its kind writes over them;
    whoever keeps one longer copies it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self.forward = network, network.forward
        self.seen: deque[Hashable] = deque(maxlen=WATCHED)  # kinds of the last passes
        self.kept: OrderedDict[Hashable, _Pass] = OrderedDict()

    def __call__(self, images: Tensor, *mix: Any) -> Any:
        if not torch.is_grad_enabled() or any(not isinstance(part, SoftMix) for part in mix):
            return self.forward(images, *mix)
        kind = self._kind(images, *mix)
        self.seen.append(kind)
        if kind not in self.kept:
            if self.seen.count(kind) <= SEEN:
                return self.forward(images, *mix)
            self._make_room(mix)
            self.kept[kind] = self._recorded(images, *mix)
        self.kept.move_to_end(kind)
        recorded = self.kept[kind]
        return recorded.whole(recorded(images, *_tables(mix)))

    def _kind(self, images: Tensor, *mix: SoftMix) -> Hashable:
        return (
            images.shape,
            self.network.training,
            self._dropping(mix),
            bytes(parameter.requires_grad for parameter in self.network.parameters()),
            tuple((table.shape, table.requires_grad) for table in _tables(mix)),
            tuple((*part.weights, _alive(part)) for part in mix),
        )

    def _dropping(self, mix: tuple[SoftMix, ...]) -> Hashable:
        """The probabilities of dropout, which change with the epoch."""
        return getattr(self.network, "drop_path", None), tuple(part.skip_dropout for part in mix)

    def _make_room(self, mix: tuple[SoftMix, ...]) -> None:
        """Recordings of other probabilities do not come back, and each holds the maps of a pass."""
        now = self._dropping(mix)
        for kind, recorded in list(self.kept.items()):
            if recorded.dropping != now or len(self.kept) >= KEPT:
                del self.kept[kind]
        gc.collect()  # now, for nothing may go while another one is recorded

    def _recorded(self, images: Tensor, *mix: SoftMix) -> "_Pass":
        """torch runs what it records a few times before; nothing of that stays in buffers or in the generator."""
        samples = [t.detach().clone().requires_grad_(t.requires_grad) for t in (images, *_tables(mix))]
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        state = torch.cuda.get_rng_state(images.device)
        apart = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
        if apart is not None:  # it is meant: what was recorded on one stream is replayed on another
            apart(False)
        one = _Pass(self.network, self.forward, mix, self._dropping(mix))
        recorded = torch.cuda.make_graphed_callables(one, tuple(samples), allow_unused_input=True)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        torch.cuda.set_rng_state(state, images.device)
        assert isinstance(recorded, _Pass)
        return recorded


class _Pass(nn.Module):
    """Passes of one kind, tensors in and tensors out: forward(images, tables of weights)."""

    def __init__(
        self, network: nn.Module, run: Callable[..., Any], mix: tuple[SoftMix, ...], dropping: Hashable
    ) -> None:
        super().__init__()
        self.network, self.run, self.mix, self.training = network, run, mix, network.training
        self.dropping = dropping
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
