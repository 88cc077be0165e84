"""The sources of images that `data.name` can name. A source returns images and labels of the train and test part.

Shapes: images uint8 [N, H, W, C], labels int64 [N] from 0 to classes - 1, in the source's own order.
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.config import data as config
from nas.data.spec import DataError
from nas.records import in_project

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # those of ImageFolder
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
# Modes of Pillow images. A conversion to RGB would clip the values of any other mode.
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")


@dataclass(frozen=True)
class Part:
    images: Images
    labels: Labels


@dataclass(frozen=True)
class Parts:
    train: Part
    test: Part
    class_names: tuple[str, ...]


Source = Callable[[config.Data, Path], Parts]
SOURCES: dict[str, Source] = {}


def register_source(name: str) -> Callable[[Source], Source]:
    """Register a source under a name. Raises ValueError if the name is taken."""

    def register(source: Source) -> Source:
        if name in SOURCES:
            raise ValueError(f"'{name}' is already registered")
        SOURCES[name] = source
        return source

    return register


def load_source(data: config.Data) -> Parts:
    """Read both parts of a data set. Raises DataError if it is missing or cannot be used."""
    return SOURCES[data.name](data, in_project(data.root))


# digits


@register_source("digits")
def digits(data: config.Data, root: Path) -> Parts:
    """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn. `root` is not used.

    The set has no official split. Ours: every fifth image of each class, in file order, belongs to the test part.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    ink = np.asarray(bunch.images).astype(np.int64)  # integers from 0 to 16
    images = ((ink * 255 + 8) // 16).astype(np.uint8)[..., None]
    labels = np.asarray(bunch.target, dtype=np.int64)
    test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return Parts(Part(images[~test], labels[~test]), Part(images[test], labels[test]), tuple(str(n) for n in range(10)))


# data sets that torchvision downloads and reads


def _cifar(loader: Any, folder: str, data: config.Data, root: Path) -> Parts:
    """Read with torchvision, which checks the official MD5 of every file before it opens one."""

    def part(train: bool) -> tuple[Part, list[str]]:
        try:
            loaded = loader(root, train=train, download=data.download)
        except (RuntimeError, OSError) as error:
            raise _missing(data, root, f"{folder}/ with the official files", error) from None
        return Part(loaded.data, np.asarray(loaded.targets, dtype=np.int64)), loaded.classes

    train, names = part(True)
    return Parts(train, part(False)[0], tuple(names))


def _missing(data: config.Data, root: Path, wanted: str, reason: object) -> DataError:
    remedy = "check the network connection" if data.download else "set data.download: true"
    return DataError(
        f"{root}: found no intact {data.name} ({reason}), expected {wanted}; {remedy}, or put the files there yourself."
    )


@register_source("cifar10")
def cifar10(data: config.Data, root: Path) -> Parts:
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, CIFAR10.base_folder, data, root)


@register_source("cifar100")
def cifar100(data: config.Data, root: Path) -> Parts:
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, CIFAR100.base_folder, data, root)


@register_source("fashion-mnist")
def fashion_mnist(data: config.Data, root: Path) -> Parts:
    """The four official .gz files, read with torchvision, from its URLs and with its MD5s.

    torchvision checks the MD5s only when it downloads, and later trusts unpacked copies. Here the packed files are
    checked and unpacked again on every call.
    """
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import extract_archive

    raw = root / "FashionMNIST" / "raw"
    for name, md5 in FashionMNIST.resources:
        _fetch(data, raw, name, md5, FashionMNIST.mirrors)
        extract_archive(str(raw / name), str(raw))

    def part(train: bool) -> Part:
        loaded = FashionMNIST(root, train=train)
        return Part(loaded.data.numpy()[..., None], loaded.targets.numpy().astype(np.int64))

    return Parts(part(True), part(False), tuple(FashionMNIST.classes))


def _fetch(data: config.Data, folder: Path, name: str, md5: str, mirrors: list[str]) -> None:
    """Ensure that file `name` is in `folder` and has this MD5. Downloads it if `data.download` is true."""
    from torchvision.datasets.utils import check_integrity, download_url

    reason: object = "no such file" if not (folder / name).exists() else "wrong MD5"
    for mirror in mirrors if data.download else []:
        try:
            download_url(f"{mirror}{name}", folder, name, md5)  # keeps an existing file with the right MD5
        except (RuntimeError, OSError) as error:
            reason = error
    if not check_integrity(folder / name, md5):
        raise _missing(data, folder, f"{name} with MD5 {md5}", reason)


# arrays in one file


@register_source("arrays")
def arrays(data: config.Data, root: Path) -> Parts:
    """One .npz file with train_images, train_labels, test_images and test_labels. Other arrays are ignored."""
    loaded = _read_arrays(root, data.sha256)
    parts = {}
    for part in ("train", "test"):
        images = _checked_images(root, f"{part}_images", loaded[f"{part}_images"])
        parts[part] = Part(images, _checked_labels(root, f"{part}_labels", loaded[f"{part}_labels"], len(images)))
    train, test = parts["train"], parts["test"]
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{root}: 'test_images' are {list(test.images.shape[1:])}, but 'train_images' are"
            f" {list(train.images.shape[1:])} ([H, W, C]): expected the same shape; convert one of them."
        )
    return Parts(train, test, _numbered_classes(root, train.labels, test.labels))


def _read_arrays(path: Path, sha256: str | None) -> dict[str, npt.NDArray[Any]]:
    """The four arrays of a data set."""
    if not path.is_file():
        reason = "this is a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {reason}; with name: arrays, set data.root to the .npz file itself.")
    loaded = _read_npz(path, sha256, "data", ARRAYS)
    missing = [key for key in ARRAYS if key not in loaded]
    if missing:
        raise DataError(f"{path}: found no '{missing[0]}', expected {', '.join(ARRAYS)}; save all four with np.savez.")
    return loaded


def read_positions(path: Path, array: str, sha256: str, name: str) -> Labels:
    """Read the positions of a split that is given as an array in a file (config.Positions): [n].

    Args:
        path: The .npz file.
        array: The name of the array.
        sha256: The checksum that the file must have.
        name: The name of the split, for error messages.

    Raises:
        DataError: The file or the array is missing or invalid, or the checksum differs.
    """
    key = f"data.splits.{name}"
    if not path.is_file():
        raise DataError(f"{path}: no such file ('{key}.file'); put it there, or use a slice, for instance train[:50%].")
    loaded = _read_npz(path, sha256, key, (array,))
    if array not in loaded:
        raise DataError(f"{path}: found no '{array}' ('{key}.array'), expected an array of the file; change the name.")
    positions = loaded[array]
    if positions.dtype.kind not in "iu" or positions.ndim != 1 or not len(positions):
        raise DataError(
            f"{path}: '{array}' is {positions.dtype} {list(positions.shape)}; expected integers [n], at least one."
        )
    return positions.astype(np.int64)


def _check_sha256(path: Path, actual: str, expected: str | None, key: str) -> None:
    """Raise DataError unless the checksum is the one in params.yaml, which thus identifies the data of every result."""
    if expected is None:
        raise DataError(f"{path}: '{key}' is null, expected the checksum of the data; set it to: {actual}")
    if actual != expected:
        raise DataError(
            f"{path}: sha256 is {actual}, expected {expected} ({key}); provide the right data, or change the key if you"
            " trust these."
        )


def _read_npz(path: Path, sha256: str | None, section: str, keys: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """The requested arrays that the file contains, read from the same open file whose checksum was compared."""
    broken = (ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile, zlib.error)
    with path.open("rb") as file:
        _check_sha256(path, hashlib.file_digest(file, "sha256").hexdigest(), sha256, f"{section}.sha256")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                return {key: archive[key] for key in keys if key in archive}
        except broken as error:
            raise DataError(f"{path}: not an .npz file of plain arrays ({error}); save it with np.savez.") from None


def _checked_images(path: Path, key: str, images: npt.NDArray[Any]) -> Images:
    actual = f"{path}: '{key}' is {images.dtype} {list(images.shape)}"
    if 0 in images.shape:
        raise DataError(f"{actual}, which contains no pixels; expected at least one image.")
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(f"{actual}; expected uint8 [N, H, W] or [N, H, W, C] with values from 0 to 255; convert it.")
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise DataError(f"{actual}, which looks like [N, C, H, W]; expected [N, H, W, C]; transpose(0, 2, 3, 1) it.")
    return images


def _checked_labels(path: Path, key: str, labels: npt.NDArray[Any], count: int) -> Labels:
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise DataError(
            f"{path}: '{key}' is {labels.dtype} {list(labels.shape)}; expected integers [{count}], one per image."
        )
    return labels.astype(np.int64)


def _numbered_classes(path: Path, train: Labels, test: Labels) -> tuple[str, ...]:
    known = np.unique(train)
    if len(known) < 2 or known[0] != 0 or known[-1] != len(known) - 1:
        raise DataError(
            f"{path}: 'train_labels' hold {len(known)} values from {known[0]} to {known[-1]}; expected 0 to K - 1, each"
            " at least once, with K at least 2; renumber them."
        )
    only_test = np.setdiff1d(test, known)
    if len(only_test):
        raise DataError(
            f"{path}: 'test_labels' hold {only_test[0]}, which no training image has; expected 0 to {known[-1]};"
            " renumber them as in 'train_labels'."
        )
    return tuple(str(label) for label in known)


# a folder of image files


@register_source("folder")
def folder(data: config.Data, root: Path) -> Parts:
    """A folder in ImageFolder's layout: root/train/<class>/* and root/test/<class>/* (or root/val/<class>/*).

    Classes and files are sorted by name. The checksum covers, in that order, the path below root, the length and the
    bytes of every image.
    """
    train, digest = root / "train", hashlib.sha256()
    test = root / "val" if (root / "val").is_dir() and not (root / "test").is_dir() else root / "test"
    names = _class_names(train)
    if _class_names(test) != names:
        in_one = sorted(set(names) ^ set(_class_names(test)))
        raise DataError(
            f"{test}: its class folders differ from those of {train}: '{in_one[0]}' is in only one of them"
            f" ({len(in_one)} such names); expected the same names in both."
        )
    size = data.image_size
    train_part = _read_folder(train, names, size, None, digest)
    test_part = _read_folder(test, names, size, train_part.images.shape[1:3], digest)
    _check_sha256(root, digest.hexdigest(), data.sha256, "data.sha256")
    return Parts(train_part, test_part, names)


def _class_names(part: Path) -> tuple[str, ...]:
    if not part.is_dir():
        raise DataError(f"{part}: no such folder; with name: folder, data.root has train/<class>/ and test/<class>/.")
    names = tuple(sorted(p.name for p in part.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(names) < 2:
        raise DataError(f"{part}: found {len(names)} class folders, expected at least 2, one per class.")
    return names


def _read_folder(
    part: Path, names: tuple[str, ...], image_size: int | None, shape: tuple[int, ...] | None, digest: Any
) -> Part:
    """Read all images of a part.

    Args:
        part: The folder of the part.
        names: Its class folders, in the order of their labels.
        image_size: `data.image_size`.
        shape: The (height, width) that every image must have; None for that of the first image.
        digest: The hash object that paths, lengths and bytes are added to.
    """
    files = [(path, label) for label, name in enumerate(names) for path in _image_files(part / name)]
    images = None
    for index, (path, _) in enumerate(files):
        content = _bytes_of(path)
        digest.update(f"{path.relative_to(part.parent).as_posix()}\0{len(content)}\0".encode() + content)
        image = _read_image(path, content, image_size)
        shape = shape or image.shape[:2]
        if image.shape[:2] != shape:
            raise DataError(
                f"{path}: {_pixels(image.shape)}, while the images before it have {_pixels(shape)}; set data.image_size"
                " to resize all images to one size."
            )
        images = np.empty((len(files), *shape, 3), np.uint8) if images is None else images
        images[index] = image
    assert images is not None  # every class has at least one image
    return Part(images, np.array([label for _, label in files], np.int64))


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: not a readable image ({error}); replace or remove it.") from None


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} pixels (width x height)"


def _image_files(folder: Path) -> list[Path]:
    files = [p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    if not files:
        raise DataError(f"{folder}: found no image, expected files that end with {', '.join(SUFFIXES)}.")
    return sorted(files, key=lambda path: path.as_posix())


def _read_image(path: Path, content: bytes, size: int | None) -> Images:
    """Decode the bytes of an image file: RGB [H, W, 3].

    With `size`, the short side is resized to it and the centre is cropped: [size, size, 3].
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.mode not in EIGHT_BIT:
                raise DataError(f"{path}: pixels of mode {opened.mode}, expected 8 bits per channel; convert the file.")
            image = opened.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({error}); replace or remove it.") from None
    return np.asarray(image if size is None else _centre(image, size))


def _centre(image: Any, size: int) -> Any:
    from PIL import Image

    short = min(image.size)
    width, height = (size * side // short for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))
