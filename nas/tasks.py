"""What is learnt: the loss and the figure of merit. Methods and loops know a task, never its kind.

Shapes: logits [B, classes], targets int64 [B].
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class Classification:
    label_smoothing: float = 0.0

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of the batch, in nats."""
        return cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Number of hits in the batch, as an int64 scalar on the device: no host synchronisation."""
        return (logits.argmax(-1) == targets).sum()
