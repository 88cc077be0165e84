"""From prepared files to batches: a batch is a pure function of (seed, epoch, step), bit for bit on every device.

Shapes: N images of a split, B of a batch, [C, H, W] of one. Pixels stay uint8 [N, H, W, C] on the device until a batch
is asked for. Every random draw of a sample is a hash of (seed, epoch, what for, position of the sample in its part):
no generator has a state, so nothing needs saving and a run may start at any step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.config import data as config
from nas.data import colours, crops
from nas.data.colours import Jitter
from nas.data.crops import Boxes
from nas.data.spec import DataError, DataSpec
from nas.records import read_record

ORDER, TOP, LEFT, MIRROR, CUT_ROW, CUT_COLUMN, AREA, RATIO, COLOUR_ORDER = range(9)  # what a draw is for
COLOURS = range(9, 13)  # and each of the four of Jitter
GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # splitmix64's increment and multipliers, as signed numbers
FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


@dataclass(frozen=True)
class ImageSet:
    """The samples of one split, on one device."""

    images: Tensor  # uint8 [N, H, W, C]
    labels: Tensor  # int64 [N]
    indices: Tensor  # int64 [N], position of each sample in its part
    spec: DataSpec

    def __len__(self) -> int:
        return len(self.labels)


class Batch(NamedTuple):
    images: Tensor  # float32 [B, C, H, W], channels last in memory
    labels: Tensor  # int64 [B]


def load_split(folder: Path, name: str, device: torch.device) -> ImageSet:
    """The split `name` (search_train, search_valid, retrain or test) of the prepared files in `folder`.

    Only the file of the split's own part is opened: a stage that trains never reads a test image.

    Raises:
        RecordError: spec.json or the split's record is missing.
        DataError: the files do not belong together.
    """
    spec = DataSpec.read(folder)
    record = folder / "splits" / f"{name}.json"
    split = read_record(record, "split")
    part, indices = split["part"], torch.tensor(split["indices"], dtype=torch.int64)
    images, labels = _read_part(folder / f"{part}.safetensors", part, spec)
    if len(indices) == 0 or not 0 <= int(indices.min()) <= int(indices.max()) < len(labels):
        raise DataError(
            f"{record}: the split reaches outside the {len(labels)} images of '{part}'. Run `dvc repro -f prepare`."
        )
    return ImageSet(images[indices].to(device), labels[indices].to(device), indices.to(device), spec)


def _read_part(path: Path, part: str, spec: DataSpec) -> tuple[Tensor, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    channels, height, width = spec.shape
    expected = [spec.counts[part], height, width, channels]
    try:
        tensors = load_file(path)
        images, labels = tensors["images"], tensors["labels"]
    except (OSError, KeyError, SafetensorError) as error:
        raise DataError(f"{path}: not the images of '{part}' ({error}). Run `dvc repro -f prepare`.") from None
    if list(images.shape) != expected or images.dtype != torch.uint8 or len(labels) != len(images):
        raise DataError(
            f"{path}: found {images.dtype} {list(images.shape)} with {len(labels)} labels, expected torch.uint8"
            f" {expected} (spec.json). Run `dvc repro -f prepare`."
        )
    return images, labels


def draw(*words: int | Tensor) -> Tensor:
    """64 hashed bits, as int64, for a tuple of whole numbers and (last) tensors of them: the shape these broadcast to.

    Folds splitmix64 (Steele, Lea, Flood 2014) over the words; int64 arithmetic wraps around on every device.
    """
    state: Tensor = torch.zeros((), dtype=torch.int64)
    for word in words:
        state = state + (torch.as_tensor(word) + 1) * GOLDEN
        state = (state ^ _shifted(state, 30)) * FACTORS[0]
        state = (state ^ _shifted(state, 27)) * FACTORS[1]
        state = state ^ _shifted(state, 31)
    return state


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Logical shift to the right: torch's own copies the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def below(bits: Tensor, limit: int | Tensor) -> Tensor:
    """Hashed bits to whole numbers 0 .. limit - 1, uniform to within limit / 2^31."""
    return (_shifted(bits, 33) * limit) >> 31


@dataclass(frozen=True)
class _Plan:
    """What an epoch does to each sample, in the order of the batches: tensors [N]."""

    epoch: int
    order: Tensor  # position in the set
    labels: Tensor
    top: Tensor  # corner of the crop in the padded image
    left: Tensor
    mirror: Tensor  # bool
    cut_row: Tensor  # centre of the square that is cut out
    cut_column: Tensor
    boxes: Boxes | None  # that are stretched to the whole, in place of the crop of the padded image
    jitter: Jitter | None


class Stream:
    """Batches of a split. With `augment`, shuffled and augmented anew each epoch; without, as they lie (evaluation).

    A last batch of one image joins the batch before it, because batch norm needs two.
    """

    def __init__(self, data: ImageSet, batch: int, augment: config.Augment | None, seed: int) -> None:
        self.data, self.size, self.augment, self.seed = data, batch, augment, seed
        channels, self.height, self.width = data.spec.shape
        count, device = len(data), data.images.device
        self.steps = max(1, -(-count // batch) - (batch > 1 and count % batch == 1))
        per_pixel = self.height * self.width
        # One value per entry of an image: a broadcast over three channels is several times slower on a CPU.
        self._mean = torch.tensor([255 * m for m in data.spec.mean], device=device).repeat(per_pixel)
        self._scale = torch.tensor([1 / (255 * s) for s in data.spec.std], device=device).repeat(per_pixel)
        self._rows = torch.arange(self.height, device=device)
        self._columns = torch.arange(self.width, device=device)
        self._entry_columns = self._columns.repeat_interleave(channels)
        self._margin = augment.crop_padding if augment else 0
        border = (0, 0, *[self._margin] * 4)
        self._padded = F.pad(data.images, border) if self._margin else data.images
        self._plan: _Plan | None = None
        if augment and augment.color_jitter and channels not in (1, 3):
            raise DataError(
                f"augment.color_jitter: found images of {channels} channels, expected 1 or 3 (grey, or red, green and"
                " blue); set it to null."
            )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start` on."""
        return (self.batch(epoch, step) for step in range(start, self.steps))

    def batch(self, epoch: int, step: int) -> Batch:
        """Batch `step` of `epoch`; nothing in here waits for the device. Raises IndexError past the last step."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of an epoch with {self.steps} steps")
        stop = len(self.data) if step == self.steps - 1 else (step + 1) * self.size
        part = slice(step * self.size, stop)
        if self.augment is None:
            return Batch(self._finished(self.data.images[part]), self.data.labels[part])
        plan = self._plan_of(epoch)
        images = self._cropped(plan, part)
        if plan.jitter is not None:
            images = colours.jittered(images, plan.jitter.part(part), self._colour_order(epoch, step))
        return Batch(self._finished(images, plan, part), plan.labels[part])

    def _plan_of(self, epoch: int) -> _Plan:
        if self._plan is None or self._plan.epoch != epoch:
            self._plan = self._planned(epoch)
        return self._plan

    def _planned(self, epoch: int) -> _Plan:
        order = draw(self.seed, epoch, ORDER, self.data.indices).argsort(stable=True)
        samples = self.data.indices[order]

        def bits(purpose: int) -> Tensor:
            return draw(self.seed, epoch, purpose, samples)

        return _Plan(
            epoch=epoch,
            order=order,
            labels=self.data.labels[order],
            top=below(bits(TOP), 2 * self._margin + 1),
            left=below(bits(LEFT), 2 * self._margin + 1),
            mirror=below(bits(MIRROR), 2) == 1,
            cut_row=below(bits(CUT_ROW), self.height),
            cut_column=below(bits(CUT_COLUMN), self.width),
            boxes=self._boxes(epoch, samples),
            jitter=self._jitter(epoch, samples),
        )

    def _boxes(self, epoch: int, samples: Tensor) -> Boxes | None:
        if self.augment is None or self.augment.resized_crop is None:
            return None
        low, high = self.augment.resized_crop
        tries = torch.arange(crops.TRIES, device=samples.device)[:, None]
        area, ratio = (draw(self.seed, epoch, purpose, tries, samples) for purpose in (AREA, RATIO))
        share = low + (high - low) * (_shifted(area, 33).double() / 2**31)
        roots = torch.tensor(crops.ROOTS, dtype=torch.float64).to(samples.device, non_blocking=True)
        height, width = crops.sizes(share, roots[below(ratio, len(roots))], self.height, self.width)
        top, left = (draw(self.seed, epoch, purpose, samples) for purpose in (TOP, LEFT))
        return Boxes(below(top, self.height + 1 - height), below(left, self.width + 1 - width), height, width)

    def _jitter(self, epoch: int, samples: Tensor) -> Jitter | None:
        if self.augment is None or self.augment.color_jitter is None:
            return None
        limits = colours.ranges(self.augment.color_jitter)
        return Jitter(
            *(
                low + below(draw(self.seed, epoch, purpose, samples), high - low + 1)
                for purpose, (low, high) in zip(COLOURS, limits, strict=True)
            )
        )

    def _colour_order(self, epoch: int, step: int) -> tuple[int, ...]:
        orders = list(permutations(range(len(COLOURS))))
        return orders[int(below(draw(self.seed, epoch, COLOUR_ORDER, step), len(orders)))]  # no device has part in it

    def _cropped(self, plan: _Plan, part: slice) -> Tensor:
        """Padding, random crop and mirror as one gather of whole pixels: uint8 [B, H, W, C]; or a resized crop."""
        assert self.augment is not None
        if plan.boxes is not None:
            mirror = plan.mirror[part] if self.augment.flip else None
            return crops.stretched(self.data.images, plan.order[part], plan.boxes.part(part), mirror)
        height, width, channels = self._padded.shape[1:]
        columns = self._columns.expand(len(plan.top[part]), -1)
        if self.augment.flip:
            columns = torch.where(plan.mirror[part, None], self.width - 1 - columns, columns)
        rows = plan.order[part, None] * height + plan.top[part, None] + self._rows
        pixels = (rows * width + plan.left[part, None])[:, :, None] + columns[:, None, :]
        gathered = self._padded.view(-1, channels).index_select(0, pixels.flatten())
        return gathered.view(-1, self.height, self.width, channels)

    def _finished(self, images: Tensor, plan: _Plan | None = None, part: slice = slice(None)) -> Tensor:
        """uint8 [B, H, W, C] to normalised float32 [B, C, H, W], the square cut out when there is a plan for it."""
        # Subtract, then multiply: two rounded steps are the same bits everywhere, a fused one is not.
        values = images.flatten(1).float().sub_(self._mean).mul_(self._scale)
        if plan is not None and self.augment is not None and self.augment.cutout:
            rows = self._inside(self._rows, plan.cut_row[part, None])
            columns = self._inside(self._entry_columns, plan.cut_column[part, None])
            by_row = values.view(len(images), self.height, -1)
            by_row.masked_fill_(rows[:, :, None] & columns[:, None, :], 0.0)
        return values.view(images.shape).permute(0, 3, 1, 2)

    def _inside(self, positions: Tensor, centres: Tensor) -> Tensor:
        """[B, n]: positions in [centre - half, centre + half), the box of quark0/darts; an odd side loses a pixel."""
        assert self.augment is not None
        half = self.augment.cutout // 2
        return (positions >= centres - half) & (positions < centres + half)
