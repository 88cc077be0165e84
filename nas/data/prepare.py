"""The prepare stage: write any source in the form that later stages read. Equal sources give equal bytes."""

from math import sqrt
from pathlib import Path

import numpy as np

from nas.config import data as config
from nas.data.sources import Images, Labels, Part, Parts, load_source, read_positions
from nas.data.spec import DataError, DataSpec
from nas.records import in_project, replacing, write_record

FITTED = ("search_train", "search_valid", "retrain")  # splits that weights or an architecture are fitted to
CHUNK = 4096  # images per histogram, to limit memory: numpy widens them to 8 bytes per value


def prepare(data: config.Data, folder: Path) -> DataSpec:
    """Write spec.json, train.safetensors, test.safetensors and splits/<name>.json into `folder`.

    Raises:
        DataError: The source or a split cannot be used.
    """
    parts = load_source(data)
    mean, std = statistics(parts.train.images)  # before padding, so that its zeros do not count
    splits = {name: split_indices(data, name, parts) for name in config.Splits.model_fields}
    refuse_overlap(splits["search_train"], splits["search_valid"])
    train = pad(parts.train.images, data.pad)
    test = pad(parts.test.images, data.pad)
    _, height, width, channels = train.shape
    spec = DataSpec(
        name=data_set_name(data),
        shape=(channels, height, width),
        classes=len(parts.class_names),
        class_names=parts.class_names,
        mean=mean,
        std=std,
        counts={"train": len(train), "test": len(test)},
    )
    _write_part(folder / "train.safetensors", train, parts.train.labels)
    _write_part(folder / "test.safetensors", test, parts.test.labels)
    for name, indices in splits.items():  # one file each, so that a stage depends only on the splits it reads
        body = {"part": data.splits.part(name), "indices": indices.tolist()}
        write_record(folder / "splits" / f"{name}.json", "split", body)
    write_record(folder / "spec.json", "data", spec.to_dict())
    return spec


def data_set_name(data: config.Data) -> str:
    """The name of the data set in records and report. Arrays and folders are named after their file or folder."""
    root = Path(data.root)
    return {"arrays": root.stem, "folder": root.name}.get(data.name) or data.name


def statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of images [N, H, W, C] / 255.

    They are computed from integer sums, so the order of the images does not matter.

    Raises:
        DataError: A channel is constant, so it cannot be divided by its standard deviation.
    """
    moments = [_moments(_histogram(images[..., channel])) for channel in range(images.shape[-1])]
    for channel, (mean, std) in enumerate(moments):
        if std == 0:
            raise DataError(
                f"train images: channel {channel} is {mean * 255:.0f} in every pixel: expected at least two different"
                " values; remove the channel."
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
    """Zero-pad images [N, H, W, C] to height and width `size`, in pixels.

    If the difference is odd, the extra row or column is at the bottom or on the right.
    """
    if size is None:
        return images
    height, width = images.shape[1:3]
    if size < max(height, width):
        raise DataError(
            f"params.yaml: 'data.pad' is {size}, but the images have {height}x{width} pixels (height x width): expected"
            f" at least {max(height, width)}, or null."
        )
    border = [((size - side) // 2, size - side - (size - side) // 2) for side in (height, width)]
    return np.pad(images, ((0, 0), *border, (0, 0)))


def split_indices(data: config.Data, name: str, parts: Parts) -> Labels:
    """Positions of a split's samples within its part, ascending: [n]. Raises DataError."""
    wanted, part = getattr(data.splits, name), getattr(parts, data.splits.part(name))
    unsorted = slice_indices(data, name, part) if isinstance(wanted, str) else file_indices(wanted, name, part)
    indices = np.sort(unsorted).astype(np.int64)
    if name in FITTED:
        remedy = "set data.stratified: true or change the bounds" if isinstance(wanted, str) else "name another array"
        _refuse_missing_class(f"'data.splits.{name}' is '{wanted}'", part.labels, indices, parts.class_names, remedy)
    return indices


def slice_indices(data: config.Data, name: str, part: Part) -> Labels:
    """Positions of a split that is given as a slice: [n].

    With `data.stratified` the samples are sliced in the order of `interleave`, so that every slice has the part's
    class proportions.
    """
    text = getattr(data.splits, name)
    try:
        start, stop = config.Slice.parse(text).bounds(len(part.labels))
    except ValueError as error:
        raise DataError(
            f"params.yaml: 'data.splits.{name}' is '{text}': {error}: expected at least one sample, all within the"
            " part; change the bounds."
        ) from None
    order = interleave(part.labels) if data.stratified else np.arange(len(part.labels))
    return order[start:stop]


def file_indices(wanted: config.Positions, name: str, part: Part) -> Labels:
    """Positions of a split that is given as an array in a file, in any order: [n]."""
    positions = read_positions(in_project(wanted.file), wanted.array, wanted.sha256, name)
    outside = positions[(positions < 0) | (positions >= len(part.labels))]
    if len(outside):
        raise DataError(
            f"{wanted.file}: '{wanted.array}' holds {outside[0]}, expected positions from 0 to {len(part.labels) - 1},"
            f" within the part of the data set ('data.splits.{name}'); name another array."
        )
    known, times = np.unique(positions, return_counts=True)
    if len(known) < len(positions):
        raise DataError(
            f"{wanted.file}: '{wanted.array}' holds {known[times > 1][0]} twice or more ('data.splits.{name}'),"
            " expected each position once; save np.unique of it."
        )
    return positions


def interleave(labels: Labels) -> Labels:
    """A permutation of positions in which every slice has the class proportions, up to a sample or two: [n].

    Sample r of a class with n samples is placed at (r + 1/2) / n of the length; ties keep the order of the file.
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable").astype(np.int64)


def _refuse_missing_class(
    split: str, labels: Labels, indices: Labels, class_names: tuple[str, ...], remedy: str
) -> None:
    """Raise DataError if a class has no sample: a plain slice of a source sorted by class would silently omit some."""
    missing = np.setdiff1d(np.arange(len(class_names)), labels[indices])
    if len(missing):
        if (count := int((labels == missing[0]).sum())) < 2:  # too few for search_train and search_valid
            remedy = (
                f"the part has {count} of it, and both halves of a search need one: add images, or remove the class"
            )
        raise DataError(
            f"params.yaml: {split} and holds no image of class '{class_names[missing[0]]}'"
            f" ({len(missing)} of {len(class_names)} classes are missing), expected images of every class; {remedy}."
        )


def refuse_overlap(search_train: Labels, search_valid: Labels) -> None:
    """Raise DataError if the halves of the search overlap: an architecture must not be chosen by training accuracy."""
    common = np.intersect1d(search_train, search_valid)
    if len(common):
        raise DataError(
            f"params.yaml: 'data.splits.search_train' and 'data.splits.search_valid' share {len(common)} samples,"
            " expected none; use slices like train[:50%] and train[50%:], or arrays without common positions."
        )


def _write_part(path: Path, images: Images, labels: Labels) -> None:
    from safetensors.numpy import save_file

    with replacing(path) as temporary:
        save_file({"images": np.ascontiguousarray(images), "labels": np.ascontiguousarray(labels)}, temporary)
