"""The network that `form: masked` retrains: whole kernels behind constant gates, compact when it is done.

What no open gate reads has the gradient zero, so weight decay alone moves it, and none of it reaches the output. Begun
with equal weights, the others go the way of the compact network's: the two forms differ in their first weights, here
drawn for whole kernels, and in speed.
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
    """forward(images) -> (logits, auxiliary logits or None), as CompactNetwork. Deleted edges are not computed."""

    def __init__(self, masks: Masks, form: ImageForm, size: Size, auxiliary: bool) -> None:
        """`masks` are those of the size."""
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
        """The same function with what is open alone, without the auxiliary head."""
        return compacted(self.gated, self.masks, self.form, self.size)
