"""A search that trains the weights of a supernet: its weight step, its cost, the figures of an epoch, its state."""

from typing import Any

from torch import nn

from nas.data.dataset import Batch
from nas.engine.tasks import Tally, judge
from nas.methods.shared.base import P, SearchMethod, ValidPass, WeightTrainer


class SupernetSearch(SearchMethod[P]):
    """A subclass calls `use` with its supernet in `setup`, and sets `image_macs` whenever other operations run."""

    supernet: nn.Module
    trainer: WeightTrainer
    image_macs: int  # multiply-adds of one image, forward, with the operations that run now
    spent = 0  # multiply-adds on training so far

    def use(self, supernet: nn.Module, epochs: int) -> None:
        """Train this supernet from now on, with a fresh optimiser whose schedule spans `epochs`."""
        self.supernet = self.setting.place(supernet)
        self.trainer = WeightTrainer(self.supernet, self.setting.common, epochs)

    def weight_epoch(self, epoch: int) -> int:
        """The epoch of the weights' schedule in this epoch of the search."""
        return epoch

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.trainer.start_epoch(self.weight_epoch(epoch))
        self.supernet.train()

    def weight_step(self, batch: Batch, mix: Any) -> Tally:
        """One step of the weights along the loss of this batch, with the operations that `mix` runs."""
        logits = self.supernet(batch.images, mix)
        loss = self.setting.task.loss(logits, batch.labels)
        self.trainer.descend(loss)
        self.spend("train_images", len(batch.labels))
        return Tally.of(loss, self.setting.task.correct(logits, batch.labels), len(batch.labels))

    def spend(self, part: str, images: int) -> None:
        """Count images that went forward and backward, as three forward passes each."""
        self.passes[part] += images
        self.spent += 3 * self.image_macs * images

    def macs(self) -> int:
        return self.spent

    def measured(self, mix: Any, valid_pass: ValidPass) -> dict[str, Any]:
        """`valid_loss` (nats) and `valid_acc` (percent) of this mix on all validation images, in evaluation mode."""
        self.supernet.eval()
        tally = judge(lambda images: self.supernet(images, mix), valid_pass(), self.setting.task)
        valid_loss, valid_acc = tally.means()
        return {"valid_loss": valid_loss, "valid_acc": valid_acc}

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "passes": self.passes,
            "spent": self.spent,
            "supernet": self.supernet.state_dict(),
            "weights": self.trainer.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Overrides restore what `start_epoch` depends on before they call this."""
        self.passes, self.spent = dict(state["passes"]), state["spent"]
        self.start_epoch(state["epoch"])
        self.supernet.load_state_dict(state["supernet"])
        self.trainer.optimiser.load_state_dict(state["weights"])
