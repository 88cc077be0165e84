"""The prepare stage: any source to four files that the later stages read, equal bytes for equal sources."""

from math import sqrt
from pathlib import Path

import numpy as np

from nas.config import data as config
from nas.data.sources import Images, Labels, Part, Parts, load_source, read_positions
from nas.data.spec import DataError, DataSpec
from nas.records import in_project, replacing, write_record

FITTED = ("search_train", "search_valid", "retrain")  # splits that a network or its architecture is fitted to
CHUNK = 4096  # images whose histogram is taken at once: numpy widens them to 8 bytes per value


def prepare(data: config.Data, folder: Path) -> DataSpec:
    """Write spec.json, train.safetensors, test.safetensors and splits/<name>.json into `folder`. Raises DataError."""
    parts = load_source(data)
    mean, std = statistics(parts.train.images)  # before padding, whose zeros are no pixels of the set
    splits = {name: split(data, name, parts) for name in config.Splits.model_fields}
    refuse_overlap(splits["search_train"], splits["search_valid"])
    train = pad(parts.train.images, data.pad)
    test = pad(parts.test.images, data.pad)
    _, height, width, channels = train.shape
    spec = DataSpec(
        name=called(data),
        shape=(channels, height, width),
        classes=len(parts.class_names),
        class_names=parts.class_names,
        mean=mean,
        std=std,
        counts={"train": len(train), "test": len(test)},
    )
    _write_part(folder / "train.safetensors", train, parts.train.labels)
    _write_part(folder / "test.safetensors", test, parts.test.labels)
    for name, indices in splits.items():  # a file each, so that a stage depends on its own splits alone
        body = {"part": data.splits.part(name), "indices": indices.tolist()}
        write_record(folder / "splits" / f"{name}.json", "split", body)
    write_record(folder / "spec.json", "data", spec.to_dict())
    return spec


def called(data: config.Data) -> str:
    """The name of the set in records and report: an own one has that of its file or folder."""
    root = Path(data.root)
    return {"arrays": root.stem, "folder": root.name}.get(data.name) or data.name


def statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of [N, H, W, C] / 255, from integer sums: exact in any order.

    Raises:
        DataError: a channel has one value everywhere, so that nothing can be divided by its deviation.
    """
    moments = [_moments(_histogram(images[..., channel])) for channel in range(images.shape[-1])]
    for channel, (mean, std) in enumerate(moments):
        if std == 0:
            raise DataError(
                f"train images: channel {channel} is {mean * 255:.0f} in every pixel, expected at least two values;"
                " leave the channel out."
            )
    return tuple(mean for mean, _ in moments), tuple(std for _, std in moments)


def _histogram(values: Images) -> list[int]:
    chunks = (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
    total = np.zeros(256, np.int64)
    for chunk in chunks:
        total += np.bincount(chunk.ravel(), minlength=256)
    return [int(count) for count in total]


def _moments(histogram: list[int]) -> tuple[float, float]:
    count = sum(histogram)
    first = sum(value * n for value, n in enumerate(histogram))
    second = sum(value * value * n for value, n in enumerate(histogram))
    return first / count / 255, sqrt(count * second - first * first) / count / 255


def pad(images: Images, size: int | None) -> Images:
    """Zeros around [N, H, W, C] to height and width `size`; an odd difference puts one more below and on the right."""
    if size is None:
        return images
    height, width = images.shape[1:3]
    if size < max(height, width):
        raise DataError(
            f"params.yaml: 'data.pad' is {size}, but the images have {height}x{width} pixels (height x width); expected"
            f" at least {max(height, width)}, or null."
        )
    border = [((size - side) // 2, size - side - (size - side) // 2) for side in (height, width)]
    return np.pad(images, ((0, 0), *border, (0, 0)))


def split(data: config.Data, name: str, parts: Parts) -> Labels:
    """Ascending positions of the split's samples within its part: [n]. Raises DataError."""
    wanted, part = getattr(data.splits, name), getattr(parts, data.splits.part(name))
    found = sliced(data, name, part) if isinstance(wanted, str) else listed(wanted, name, part)
    indices = np.sort(found).astype(np.int64)
    if name in FITTED:
        remedy = "set data.stratified: true or change the bounds" if isinstance(wanted, str) else "name another array"
        _refuse_missing_class(f"'data.splits.{name}' is '{wanted}'", part.labels, indices, parts.class_names, remedy)
    return indices


def sliced(data: config.Data, name: str, part: Part) -> Labels:
    """Of a slice. Stratified, it is taken of the samples in `interleaved` order, so that any has the part's shares."""
    text = getattr(data.splits, name)
    try:
        start, stop = config.Slice.parse(text).bounds(len(part.labels))
    except ValueError as error:
        raise DataError(
            f"params.yaml: 'data.splits.{name}' is '{text}': {error}; expected at least one sample, all within the"
            " part. Change the bounds."
        ) from None
    order = interleaved(part.labels) if data.stratified else np.arange(len(part.labels))
    return order[start:stop]


def listed(wanted: config.Positions, name: str, part: Part) -> Labels:
    """Of a file's array, whose order says nothing."""
    found = read_positions(in_project(wanted.file), wanted.array, wanted.sha256, name)
    strange = found[(found < 0) | (found >= len(part.labels))]
    if len(strange):
        raise DataError(
            f"{wanted.file}: '{wanted.array}' holds {strange[0]}, expected positions from 0 to {len(part.labels) - 1},"
            f" those of the part ('data.splits.{name}'); name another array."
        )
    known, times = np.unique(found, return_counts=True)
    if len(known) < len(found):
        raise DataError(
            f"{wanted.file}: '{wanted.array}' holds {known[times > 1][0]} twice or more ('data.splits.{name}'),"
            " expected each position once; save np.unique of it."
        )
    return found


def interleaved(labels: Labels) -> Labels:
    """Positions such that every stretch of them has the classes' shares, to a sample or two: [n].

    Sample r of a class of n stands at (r + 1/2) / n of the way; ties keep the order of the file.
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable").astype(np.int64)


def _refuse_missing_class(
    split: str, labels: Labels, indices: Labels, class_names: tuple[str, ...], remedy: str
) -> None:
    """A source sorted by class and a plain slice would leave whole classes untrained without a word."""
    missing = np.setdiff1d(np.arange(len(class_names)), labels[indices])
    if len(missing):
        if (count := int((labels == missing[0]).sum())) < 2:  # no slices give it to both halves of a search
            remedy = f"the part has {count} of it, and both halves of a search need one: bring more, or leave it out"
        raise DataError(
            f"params.yaml: {split} and holds no image of class '{class_names[missing[0]]}'"
            f" ({len(missing)} of {len(class_names)} classes missing); {remedy}."
        )


def refuse_overlap(search_train: Labels, search_valid: Labels) -> None:
    """An architecture chosen on images that its weights have seen is chosen on training accuracy."""
    common = np.intersect1d(search_train, search_valid)
    if len(common):
        raise DataError(
            f"params.yaml: 'data.splits.search_train' and 'data.splits.search_valid' share {len(common)} samples,"
            " expected none; give slices like train[:50%] and train[50%:], or arrays without common positions."
        )


def _write_part(path: Path, images: Images, labels: Labels) -> None:
    from safetensors.numpy import save_file

    with replacing(path) as beside:
        save_file({"images": np.ascontiguousarray(images), "labels": np.ascontiguousarray(labels)}, beside)
