import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.config.data import Augment
from nas.data import colours, crops
from nas.data.dataset import CUT_COLUMN, CUT_ROW, LEFT, MIRROR, TOP, ImageSet, Stream, below, draw, load_split
from nas.data.prepare import prepare
from nas.data.spec import DataError, DataSpec
from nas.records import RecordError, write_record
from tests.data.samples import random_arrays, saved

CPU = torch.device("cpu")
FULL = Augment(crop_padding=2, resized_crop=None, flip=True, color_jitter=None, cutout=4)
NONE = Augment(crop_padding=0, resized_crop=None, flip=False, color_jitter=None, cutout=0)
BOXES = Augment(crop_padding=0, resized_crop=(0.2, 0.9), flip=True, color_jitter=None, cutout=0)
COLOURS = Augment(crop_padding=2, resized_crop=None, flip=True, color_jitter=(0.4, 0.4, 0.4, 0.2), cutout=4)


def image_set(count: int = 23, form: tuple[int, int, int] = (8, 10, 3), seed: int = 0) -> ImageSet:
    """Random images [N, H, W, C] whose positions in their part are 3, 10, 17, ..."""
    height, width, channels = form
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *form), generator=generator, dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.25, 0.2, 0.3)[:channels]
    spec = DataSpec(
        "some", (channels, height, width), 5, tuple("abcde"), mean, std, {"train": 7 * count + 3, "test": 1}
    )
    return ImageSet(images, torch.arange(count) % 5, 7 * torch.arange(count) + 3, spec)


def epoch_of(stream: Stream, epoch: int, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """All images and labels of an epoch, in the order of the batches."""
    images, labels = zip(*stream.epoch(epoch, start), strict=True)
    return torch.cat(images), torch.cat(labels)


# hash


def splitmix(words: tuple[int, ...]) -> int:
    """The same hash, computed with Python's unbounded integers."""
    mask, state = 2**64 - 1, 0
    for word in words:
        state = (state + (word + 1) * 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=4))
def test_draws_equal_splitmix_with_unsigned_integers(words):
    *first, last = words
    drawn = draw(*first, torch.tensor([last]))
    assert int(drawn) % 2**64 == splitmix(tuple(words))


def test_the_first_draw_is_splitmix64_seeded_with_zero():
    assert int(draw(0)) % 2**64 == 0xE220A8397B1DCDAF  # the reference generator's first output


@given(st.integers(1, 1000), st.integers(0, 2**31))
def test_draws_below_a_limit_are_below_it(limit, seed):
    values = below(draw(seed, torch.arange(200)), limit)
    assert 0 <= int(values.min()) <= int(values.max()) < limit


def test_draws_below_a_limit_are_uniform():
    counts = below(draw(0, torch.arange(90_000)), 9).bincount(minlength=9)
    assert (counts - 10_000).abs().max() < 500  # five standard deviations are 471


# loading


def test_a_split_holds_its_samples(tmp_path):
    arrays = random_arrays()
    prepare(saved(tmp_path, arrays), tmp_path)
    for name, positions in {"search_train": range(12), "search_valid": range(12, 24), "retrain": range(24)}.items():
        split = load_split(tmp_path, name, CPU)
        assert split.indices.tolist() == list(positions)
        assert np.array_equal(split.images.numpy(), arrays["train_images"][list(positions)])
        assert np.array_equal(split.labels.numpy(), arrays["train_labels"][list(positions)])


def test_training_splits_need_no_test_file(tmp_path):
    prepare(saved(tmp_path, random_arrays()), tmp_path)
    (tmp_path / "test.safetensors").unlink()
    for name in ("search_train", "search_valid", "retrain"):
        assert len(load_split(tmp_path, name, CPU)) > 0
    with pytest.raises(DataError, match=r"test\.safetensors: not the images of 'test'"):
        load_split(tmp_path, "test", CPU)


def test_inconsistent_files_are_refused(tmp_path):
    for name, train in (("one", 24), ("two", 30)):
        (tmp_path / name).mkdir()
        prepare(saved(tmp_path / name, random_arrays(train=train)), tmp_path / name)
    (tmp_path / "two" / "train.safetensors").replace(tmp_path / "one" / "train.safetensors")
    with pytest.raises(
        DataError, match=r"found torch.uint8 \[30, 8, 8, 3\].*spec.json says torch.uint8 \[24, 8, 8, 3\]"
    ):
        load_split(tmp_path / "one", "retrain", CPU)


def test_an_unknown_split_and_a_missing_record_are_named(tmp_path):
    with pytest.raises(RecordError, match=r"spec\.json: no such record"):
        load_split(tmp_path, "retrain", CPU)
    prepare(saved(tmp_path, random_arrays()), tmp_path)
    with pytest.raises(RecordError, match=r"splits/valid\.json: no such record"):
        load_split(tmp_path, "valid", CPU)
    write_record(tmp_path / "splits" / "retrain.json", "split", {"part": "train", "indices": [24]})
    with pytest.raises(DataError, match=r"retrain\.json: expected positions from 0 to 23, the images of 'train'"):
        load_split(tmp_path, "retrain", CPU)


def test_a_broken_tensor_file_is_named(tmp_path):
    prepare(saved(tmp_path, random_arrays()), tmp_path)
    Path(tmp_path / "train.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match=r"train\.safetensors: not the images of 'train'"):
        load_split(tmp_path, "retrain", CPU)


# batches


def reference(data: ImageSet, position: int, augment: Augment, seed: int, epoch: int) -> npt.NDArray[Any]:
    """One training image [H, W, C], one step at a time: pad, crop, mirror, normalise, cut out."""
    height, width = data.images.shape[1:3]

    def drawn(purpose: int, limit: int) -> int:
        bits = splitmix((seed, epoch, purpose, int(data.indices[position])))
        return (bits >> 33) * limit >> 31

    p = augment.crop_padding
    padded = np.pad(data.images[position].numpy(), ((p, p), (p, p), (0, 0)))
    top, left = drawn(TOP, 2 * p + 1), drawn(LEFT, 2 * p + 1)
    image = padded[top : top + height, left : left + width]
    if augment.flip and drawn(MIRROR, 2):
        image = image[:, ::-1]
    result = (image / 255 - np.array(data.spec.mean)) / np.array(data.spec.std)
    y, x, half = drawn(CUT_ROW, height), drawn(CUT_COLUMN, width), augment.cutout // 2
    y1, y2 = np.clip(y - half, 0, height), np.clip(y + half, 0, height)
    x1, x2 = np.clip(x - half, 0, width), np.clip(x + half, 0, width)
    result[y1:y2, x1:x2] = 0
    return result


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "augment",
    [
        FULL,
        NONE,
        Augment(crop_padding=3, resized_crop=None, flip=False, color_jitter=None, cutout=0),
        Augment(crop_padding=0, resized_crop=None, flip=True, color_jitter=None, cutout=0),
        Augment(crop_padding=0, resized_crop=None, flip=False, color_jitter=None, cutout=5),
        Augment(crop_padding=1, resized_crop=None, flip=True, color_jitter=None, cutout=16),
    ],
)
def test_augmentation_equals_the_reference_for_single_images(augment, channels):
    data = image_set(form=(8, 10, channels))
    order = sorted(range(len(data)), key=lambda i: _signed(splitmix((5, 2, 0, int(data.indices[i])))))
    images, labels = epoch_of(Stream(data, 6, augment, seed=5), 2)
    expected = np.stack([reference(data, i, augment, 5, 2) for i in order]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert labels.tolist() == data.labels[order].tolist()


def _signed(bits: int) -> int:
    return bits - 2**64 if bits >> 63 else bits


def test_evaluation_keeps_file_order_and_normalises():
    data = image_set()
    images, labels = epoch_of(Stream(data, 6, None, seed=0), 0)
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (data.spec.mean, data.spec.std))
    expected = ((data.images.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(images.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(labels, data.labels)
    assert torch.equal(epoch_of(Stream(data, 6, None, seed=9), 4)[0], images)


def test_normalised_training_pixels_have_mean_zero_and_deviation_one(tmp_path):
    prepare(saved(tmp_path, random_arrays(train=60)), tmp_path)
    images, _ = epoch_of(Stream(load_split(tmp_path, "retrain", CPU), 16, NONE, 0), 0)
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    assert (images.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_batches_are_float32_and_channels_last():
    images, labels = Stream(image_set(), 4, FULL, 0).batch(0, 0)
    assert (images.shape, images.dtype, labels.dtype) == ((4, 3, 8, 10), torch.float32, torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=25)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(2, 30), st.integers(2, 30))
def test_samples_do_not_depend_on_the_batch_size(seed, epoch, first, second):
    data = image_set()
    one, other = (epoch_of(Stream(data, size, FULL, seed), epoch) for size in (first, second))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@settings(max_examples=25)
@given(st.integers(0, 2), st.integers(0, 4))
def test_a_new_stream_resumes_at_any_step(epoch, start):
    stream = Stream(image_set(), 5, FULL, 1)
    whole = [stream.batch(epoch, step) for step in range(stream.steps)]
    stream.batch(epoch + 1, 0)  # replaces the cached plan by that of another epoch
    for again in (stream, Stream(image_set(), 5, FULL, 1)):
        rest = list(again.epoch(epoch, start))
        assert len(rest) == stream.steps - start
        for batch, expected in zip(rest, whole[start:], strict=True):
            assert torch.equal(batch.images, expected.images)
            assert torch.equal(batch.labels, expected.labels)


def test_a_sample_is_augmented_in_the_same_way_in_any_split():
    """Random values depend on the sample, and not on the other samples of the split."""
    data, keep = image_set(), torch.tensor([2, 3, 11, 20])
    few = ImageSet(data.images[keep], data.labels[keep], data.indices[keep], data.spec)
    whole = epoch_of(Stream(data, 23, FULL, 0), 0)[0]
    for image in epoch_of(Stream(few, 4, FULL, 0), 0)[0]:
        assert (whole == image).flatten(1).all(1).sum() == 1


def test_epochs_and_seeds_differ():
    data = image_set()
    stream = Stream(data, 8, FULL, 0)
    first = epoch_of(stream, 0)
    for images, labels in (epoch_of(stream, 1), epoch_of(Stream(data, 8, FULL, 1), 0)):
        assert not torch.equal(images, first[0])
        assert not torch.equal(labels, first[1])


def test_every_epoch_holds_every_sample_once():
    data = image_set()
    for epoch in range(3):
        images, _ = epoch_of(Stream(data, 8, NONE, 0), epoch)
        plain, _ = epoch_of(Stream(data, 8, None, 0), 0)
        assert sorted(images.flatten(1).sum(1).tolist()) == sorted(plain.flatten(1).sum(1).tolist())


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(12, 4, [4, 4, 4]), (11, 4, [4, 4, 3]), (13, 4, [4, 4, 5]), (3, 8, [3]), (1, 8, [1]), (5, 4, [5]), (2, 1, [1, 1])],
)
@pytest.mark.parametrize("augment", [FULL, None])
def test_the_last_batch_is_not_dropped_and_never_a_single_image(count, size, sizes, augment):
    stream = Stream(image_set(count), size, augment, 0)
    assert stream.steps == len(sizes)
    assert [len(batch.labels) for batch in stream.epoch(0)] == sizes


@pytest.mark.parametrize("step", [-1, 3])
def test_a_step_outside_the_epoch_is_refused(step):
    with pytest.raises(IndexError, match="of an epoch with 3 steps"):
        Stream(image_set(12), 4, FULL, 0).batch(0, step)


# resized crops


def test_batches_without_resized_crops_have_the_bits_of_earlier_versions():
    digest = hashlib.sha256()
    for epoch in range(2):
        for images, labels in Stream(image_set(), 6, FULL, seed=5).epoch(epoch):
            digest.update(images.permute(0, 2, 3, 1).contiguous().numpy().tobytes() + labels.numpy().tobytes())
    assert digest.hexdigest() == "4e2b7180e81613ae73a81823d2f2a44af879fcc997e3c8d3fb1c45a6e306f96a"


def test_boxes_have_the_area_shares_and_ratios_of_torchvision():
    boxes = Stream(image_set(4000, (64, 64, 1)), 4000, BOXES, 0)._plan_of(0).boxes
    assert boxes is not None
    top, left, height, width = boxes
    assert 0 <= int(top.min()) <= int((top + height).max()) <= 64
    assert 0 <= int(left.min()) <= int((left + width).max()) <= 64
    share, ratio = (height * width).double() / 64**2, (width.double() / height).log()
    assert 0.18 < share.min() < 0.25
    assert 0.8 < share.max() < 0.93
    assert abs(ratio.mean()) < 0.01
    assert ratio.abs().max() < math.log(4 / 3) + 0.05
    small = ratio[share < 0.5]  # every box fits there, so log ratios are uniform, and so is their standard deviation
    assert small.std() == pytest.approx(2 * math.log(4 / 3) / 12**0.5, rel=0.05)
    assert share.mean() == pytest.approx(0.53, abs=0.04)  # wide and tall boxes of large shares do not fit


@pytest.mark.parametrize(("height", "width", "box"), [(30, 10, (13, 10)), (10, 30, (10, 13)), (10, 12, (10, 12))])
def test_if_no_box_fits_the_largest_allowed_one_is_used(height, width, box):
    area, root = torch.full((10, 1), 9.0, dtype=torch.float64), torch.ones(10, 1, dtype=torch.float64)
    assert tuple(int(side) for side in crops.box_sizes(area, root, height, width)) == box
    area[3], area[5] = 0.25, 0.1
    side = round((height * width / 4) ** 0.5)
    assert tuple(int(length) for length in crops.box_sizes(area, root, height, width)) == (side, side)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_resized_crop_equals_torchvisions_within_a_grey_level(channels):
    from torchvision.transforms.v2.functional import resized_crop

    data = image_set(form=(20, 26, channels))
    plan = Stream(data, 6, BOXES, seed=5)._plan_of(1)
    assert plan.boxes is not None
    resized = crops.crop_and_resize(data.images, plan.order, plan.boxes, plan.mirror)
    for image, at, mirror, *box in zip(resized, plan.order, plan.mirror, *plan.boxes, strict=True):
        pixels = data.images[at].permute(2, 0, 1).float()
        expected = resized_crop(pixels, *map(int, box), [20, 26], antialias=True).permute(1, 2, 0)
        expected = expected.flip(1) if mirror else expected
        assert (
            image.double() - expected.double()
        ).abs().max() < 0.75  # half a level of rounding, and positions in units of 2^-11 pixels


def test_a_box_of_the_whole_image_changes_nothing():
    data, which, zero = image_set(), torch.arange(23), torch.zeros(23, dtype=torch.int64)
    whole = crops.Boxes(zero, zero, zero + 8, zero + 10)
    assert torch.equal(crops.crop_and_resize(data.images, which, whole, None), data.images)


def test_resized_crops_are_a_function_of_seed_epoch_and_step():
    stream = Stream(image_set(), 5, BOXES, 1)
    whole = [stream.batch(1, step).images for step in range(stream.steps)]
    again = Stream(image_set(), 5, BOXES, 1)
    assert torch.equal(again.batch(1, 3).images, whole[3])
    assert torch.equal(torch.cat([b.images for b in Stream(image_set(), 7, BOXES, 1).epoch(1)]), torch.cat(whole))
    assert not torch.equal(stream.batch(2, 0).images, whole[0])


# colour jitter


def as_pillow(property: str, image: torch.Tensor, amount: int) -> torch.Tensor:
    """The result of torchvision on a Pillow image, from [H, W, C]; `amount` in the units of Jitter."""
    from torchvision.transforms import functional as transforms

    picture = transforms.to_pil_image(image.permute(2, 0, 1))
    value = amount / (colours.LEVELS if property == "hue" else colours.ONE)
    changed = getattr(transforms, f"adjust_{property}")(picture, value)
    return transforms.pil_to_tensor(changed).permute(1, 2, 0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("property", ["brightness", "contrast", "saturation"])
def test_brightness_contrast_and_saturation_have_pillows_bits(property, channels):
    images = image_set(20, (9, 14, channels)).images
    images[0], images[1] = 0, 255
    order = colours.Jitter._fields.index(property)
    factors = torch.tensor([0, 1, 2457, 4095, 4096, 4097, 5734, 8192, 12000, 30000]).repeat(2)
    adjusted = colours.adjust(images, colours.Jitter(factors, factors, factors, factors), [order])
    for image, changed, factor in zip(images, adjusted, factors, strict=True):
        assert torch.equal(changed, as_pillow(property, image, int(factor)))


def test_a_shifted_hue_equals_pillows_up_to_its_rounding_of_floats():
    levels = torch.arange(0, 256, 5, dtype=torch.uint8)
    cube = torch.cartesian_prod(levels, levels, levels).view(len(levels), -1, 3)  # all colours, in steps of 5
    shifts = [-127, -51, -1, 0, 1, 30, 51, 127]
    amounts = torch.tensor(shifts)
    adjusted = colours.adjust(cube.expand(len(shifts), *cube.shape), colours.Jitter(*[amounts] * 4), [3])
    for changed, shift in zip(adjusted, shifts, strict=True):
        difference = (changed.int() - as_pillow("hue", cube, shift).int()).abs()
        assert (difference > 0).double().mean() < 0.01
        assert difference.max() <= 6  # one level of hue changes a channel by at most six levels


def test_hue_and_saturation_leave_a_grey_image_unchanged():
    images = image_set(4, (9, 14, 1)).images
    amounts = torch.full((4,), 100)
    assert torch.equal(colours.adjust(images, colours.Jitter(*[amounts] * 4), [2, 3]), images)


def test_strengths_of_zero_leave_the_pixels_unchanged():
    zero = COLOURS.model_copy(update={"color_jitter": (0.0, 0.0, 0.0, 0.0)})
    none = COLOURS.model_copy(update={"color_jitter": None})
    images = image_set()
    images.images[:] = images.images[..., :1]  # grey, because a hue of 8 bits does not reproduce every colour
    adjusted, expected = (epoch_of(Stream(images, 6, augment, 1), 2)[0] for augment in (zero, none))
    assert torch.equal(adjusted, expected)


def test_factors_are_uniform_around_one_and_every_order_occurs():
    stream = Stream(
        image_set(4000, (4, 4, 3)), 20, COLOURS.model_copy(update={"color_jitter": (0.4, 0.2, 2.0, 0.2)}), 0
    )
    jitter = stream._plan_of(0).jitter
    assert jitter is not None
    for amounts, low, high in zip(jitter, (2458, 3277, 0, -51), (5734, 4915, 12288, 51), strict=True):
        assert low <= int(amounts.min()) <= low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) <= int(amounts.max()) <= high
        assert amounts.double().mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
        assert amounts.double().std() == pytest.approx((high - low) / 12**0.5, rel=0.05)
    assert len({stream._colour_order(epoch, step) for epoch in range(3) for step in range(stream.steps)}) == 24


def test_jittered_batches_are_a_function_of_seed_epoch_and_step():
    stream = Stream(image_set(), 5, COLOURS, 1)
    whole = [stream.batch(1, step).images for step in range(stream.steps)]
    assert torch.equal(Stream(image_set(), 5, COLOURS, 1).batch(1, 3).images, whole[3])
    assert not torch.equal(stream.batch(2, 0).images, whole[0])
    assert not torch.equal(Stream(image_set(), 5, COLOURS, 2).batch(1, 3).images, whole[3])


def test_colour_jitter_of_images_without_one_or_three_channels_is_refused():
    data = image_set(form=(8, 10, 2))
    with pytest.raises(
        DataError, match=r"^augment\.color_jitter: expected images of 1 or 3 channels .* found 2 channels"
    ):
        Stream(data, 4, COLOURS, 0)
