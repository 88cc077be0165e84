"""CUDA graphs: record the kernels of a pass once, then replay them with one launch forward and one backward.

A supernet runs thousands of small kernels, and a GPU runs them faster than Python launches them. PyTorch records a pass
(torch.cuda.make_graphed_callables); this module decides which passes to record and how long to keep a recording.
"""

import gc
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from nas.contracts import SoftMix

# A pass is recorded when its signature occurs more than MIN_REPEATS times among the last WINDOW passes. This leaves out
# the smaller last batch of an epoch.
MIN_REPEATS = 3
WINDOW = 32
MAX_RECORDINGS = 4  # the least recently used one is dropped first


class Graphs:
    """Replaces the forward function of a network, and replays recorded passes where possible.

    Called as forward(images) or forward(images, SoftMix). A recording is valid for passes of the same signature: tensor
    sizes, training mode, the tensors that require gradients, the operations that run and the dropout probabilities.
    Passes without gradients, and passes with single paths or gates, run eagerly. Results are bit-identical to eager
    execution, random masks included, because a replay reads the generator's current state.

    A recording owns its memory. The logits and gradients of a pass are in that memory and are overwritten by the next
    pass of the same signature: copy them to keep them longer.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self.forward = network, network.forward
        self.recent: deque[Hashable] = deque(maxlen=WINDOW)  # signatures of the last passes
        self.recordings: OrderedDict[Hashable, _Pass] = OrderedDict()

    def __call__(self, images: Tensor, *mix: Any) -> Any:
        if not torch.is_grad_enabled() or any(not isinstance(part, SoftMix) for part in mix):
            return self.forward(images, *mix)
        signature = self._signature(images, *mix)
        self.recent.append(signature)
        if signature not in self.recordings:
            if self.recent.count(signature) <= MIN_REPEATS:
                return self.forward(images, *mix)
            self._make_room(mix)
            self.recordings[signature] = self._record(images, *mix)
        self.recordings.move_to_end(signature)
        recorded = self.recordings[signature]
        return recorded.restore(recorded(images, *_tables(mix)))

    def _signature(self, images: Tensor, *mix: SoftMix) -> Hashable:
        return (
            images.shape,
            self.network.training,
            self._dropout(mix),
            bytes(parameter.requires_grad for parameter in self.network.parameters()),
            tuple((table.shape, table.requires_grad) for table in _tables(mix)),
            tuple((*part.weights, _alive(part)) for part in mix),
        )

    def _dropout(self, mix: tuple[SoftMix, ...]) -> Hashable:
        """The dropout probabilities, which change with the epoch."""
        return getattr(self.network, "drop_path", None), tuple(part.skip_dropout for part in mix)

    def _make_room(self, mix: tuple[SoftMix, ...]) -> None:
        """Drop recordings with other dropout probabilities, which are not used again, then the least recently used.

        Each recording holds all feature maps of a pass.
        """
        now = self._dropout(mix)
        for signature, recorded in list(self.recordings.items()):
            if recorded.dropout != now or len(self.recordings) >= MAX_RECORDINGS:
                del self.recordings[signature]
        gc.collect()  # now, because no memory may be freed while a pass is being recorded

    def _record(self, images: Tensor, *mix: SoftMix) -> "_Pass":
        """Record a pass. PyTorch runs it a few times first, so buffers and the generator's state are restored after."""
        samples = [t.detach().clone().requires_grad_(t.requires_grad) for t in (images, *_tables(mix))]
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        state = torch.cuda.get_rng_state(images.device)
        warn_on_mismatch = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
        if warn_on_mismatch is not None:  # intended: a pass is recorded on one stream and replayed on another
            warn_on_mismatch(False)
        eager = _Pass(self.network, self.forward, mix, self._dropout(mix))
        recorded = torch.cuda.make_graphed_callables(eager, tuple(samples), allow_unused_input=True)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        torch.cuda.set_rng_state(state, images.device)
        assert isinstance(recorded, _Pass)
        return recorded


class _Pass(nn.Module):
    """Passes of one signature, with tensors only as inputs and outputs: forward(images, *tables of weights)."""

    def __init__(
        self, network: nn.Module, run: Callable[..., Any], mix: tuple[SoftMix, ...], dropout: Hashable
    ) -> None:
        super().__init__()
        self.network, self.run, self.mix, self.training = network, run, mix, network.training
        self.dropout = dropout
        self.is_tensor: list[bool] | None = None  # for each output of the network: a tensor, or None

    def forward(self, images: Tensor, *tables: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tables)
        weights = [{cell_type: next(rest) for cell_type in part.weights} for part in self.mix]
        mix = [SoftMix(given, part.alive, part.skip_dropout) for given, part in zip(weights, self.mix, strict=True)]
        outputs = self.run(images, *mix)
        if not isinstance(outputs, tuple):
            return (outputs,)
        self.is_tensor = [output is not None for output in outputs]
        return tuple(output for output in outputs if output is not None)

    def restore(self, tensors: tuple[Tensor, ...]) -> Any:
        """The network's own output, from the tensors that `forward` returned."""
        rest = iter(tensors)
        if self.is_tensor is None:
            return next(rest)
        return tuple(next(rest) if is_tensor else None for is_tensor in self.is_tensor)


def _tables(mix: tuple[SoftMix, ...]) -> list[Tensor]:
    return [table for part in mix for table in part.weights.values()]


def _alive(mix: SoftMix) -> Hashable:
    return mix.alive and tuple((cell_type, tuple(map(tuple, edges))) for cell_type, edges in mix.alive.items())
