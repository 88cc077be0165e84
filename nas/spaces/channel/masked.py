"""The network that `form: masked` retrains: whole kernels with constant gates. The result is a compact network.

Weights that feed no open gate have zero gradients, so only weight decay changes them, and they do not affect the
output. From equal initial weights, the others train as in the compact network. The two forms differ in their initial
weights, which are drawn here for whole kernels, and in speed.
"""

from torch import Tensor, nn

from nas.architectures.cell_shape import NODES, reductions
from nas.architectures.channel_masks import Masks
from nas.config.params import Size
from nas.contracts import ImageForm
from nas.spaces.blocks.stems import AuxiliaryHead
from nas.spaces.channel.compact import CompactNetwork, compacted
from nas.spaces.channel.gated import GatedNetwork
from nas.spaces.channel.tables import to_gates


class MaskedNetwork(nn.Module):
    """forward(images) -> (logits, auxiliary logits or None), like CompactNetwork. Deleted edges are not computed."""

    def __init__(self, masks: Masks, form: ImageForm, size: Size, auxiliary: bool) -> None:
        """`masks` must have the size of the network."""
        super().__init__()
        self.masks, self.form, self.size = masks, form, size
        self.drop_path = 0.0  # probability, set by the training loop at each epoch
        self.gated = GatedNetwork(form, size, masks.op, affine=True)
        self.running = [[(gates.op > 0, gates.skip > 0) for gates in cell] for cell in masks.cells]
        for k, table in enumerate(to_gates(masks)):
            self.register_buffer(f"gates_{k}", table.float(), persistent=False)
        self.auxiliary_after = reductions(size.cells)[1]
        width = NODES * masks.widths[self.auxiliary_after]
        self.auxiliary = AuxiliaryHead(width, form.classes) if auxiliary else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        auxiliary = None
        before, last = self.gated.stem(images)
        for k, (cell, running) in enumerate(zip(self.gated.cells, self.running, strict=True)):
            gates = self.get_buffer(f"gates_{k}")
            before, last = last, cell(before, last, gates, running, self.drop_path)
            if self.auxiliary is not None and self.training and k == self.auxiliary_after:
                auxiliary = self.auxiliary(last)
        return self.gated.classifier(last.mean((2, 3))), auxiliary

    def compact(self) -> CompactNetwork:
        """The same function with only the open channels, without the auxiliary head."""
        return compacted(self.gated, self.masks, self.form, self.size)
