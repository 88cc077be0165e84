"""Tasks: a loss and a count of correct predictions. Methods and training loops use only this interface.

Shapes: logits [B, classes], targets int64 [B].
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class Classification:
    """Image classification with cross entropy."""

    label_smoothing: float = 0.0

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of the batch, in nats."""
        return cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Number of correct predictions in the batch: an int64 scalar that stays on the device, without a sync."""
        return (logits.argmax(-1) == targets).sum()


@dataclass(frozen=True)
class Tally:
    """Loss and correct predictions, summed over images. The sums stay on the device, so no step waits for them."""

    loss: Tensor
    correct: Tensor
    images: int

    @staticmethod
    def of(loss: Tensor, correct: Tensor, images: int) -> "Tally":
        """The tally of one batch, from its mean loss."""
        return Tally(loss.detach().double() * images, correct, images)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.loss + other.loss, self.correct + other.correct, self.images + other.images)

    def means(self) -> tuple[float, float]:
        """(loss in nats, accuracy in percent)."""
        return self.loss.item() / self.images, 100.0 * self.correct.item() / self.images


def judge(forward: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], task: Classification) -> Tally:
    """Loss and correct predictions over all batches, without gradients."""
    with torch.no_grad():
        tallies = []
        for images, labels in batches:
            logits = forward(images)
            tallies.append(Tally.of(task.loss(logits, labels), task.correct(logits, labels), len(labels)))
    return sum(tallies[1:], tallies[0])
