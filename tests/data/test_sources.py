import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.config.data import Data
from nas.data.sources import SOURCES, load_source, register_source
from nas.data.spec import DataError
from tests.data.samples import random_arrays, saved, section

NAMES = ("digits", "cifar10", "cifar100", "fashion-mnist", "arrays", "folder")


def picture(path: Path, value: object, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)  # type: ignore[arg-type]


def pictures(root: Path, test: str = "test") -> Path:
    """Two classes with two training images, one of them grey, and one test image each."""
    for label, name in enumerate(("cat", "dog")):
        picture(root / "train" / name / "1.png", (10 * label, 1, 2))
        picture(root / "train" / name / "2.png", 100 + label, mode="L")
        picture(root / test / name / "9.png", (7, 8, 9 + label))
    return root


def test_every_name_in_params_has_a_source():
    assert tuple(sorted(SOURCES)) == tuple(sorted(NAMES))


def test_a_name_can_be_taken_only_once():
    with pytest.raises(ValueError, match="'digits' is already registered"):
        register_source("digits")(SOURCES["digits"])


def test_the_test_part_of_digits_is_every_fifth_image_of_each_class():
    from sklearn.datasets import load_digits

    parts = load_source(section())
    official = load_digits()
    assert parts.train.images.shape == (1442, 8, 8, 1)
    assert parts.test.images.shape == (355, 8, 8, 1)
    assert parts.class_names == tuple("0123456789")
    for label in range(10):
        of_class = official.images[official.target == label]
        kept = parts.test.images[parts.test.labels == label, ..., 0]
        assert np.array_equal(kept, np.floor(of_class[4::5] * 255 / 16 + 0.5))
    assert set(np.unique(parts.train.images)) == {(v * 255 + 8) // 16 for v in range(17)}


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist"])
def test_the_error_for_a_missing_data_set_says_what_to_do(name, tmp_path):
    with pytest.raises(DataError, match=rf"found no intact {name} .*set data.download: true"):
        load_source(section(name=name, root=str(tmp_path)))


def test_a_changed_official_file_is_refused(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(DataError, match=r"wrong MD5.*8d4fb7e6c68d591d4c3dfef9ec88bf0d"):
        load_source(section(name="fashion-mnist", root=str(tmp_path)))


def test_arrays_are_read_unchanged(tmp_path):
    arrays = random_arrays()
    parts = load_source(saved(tmp_path, {**arrays, "extra": np.array([None])}))  # a pickled array, which is not read
    assert np.array_equal(parts.train.images, arrays["train_images"])
    assert np.array_equal(parts.test.labels, arrays["test_labels"])
    assert parts.test.labels.dtype == np.int64
    assert parts.class_names == ("0", "1", "2")


def test_grey_arrays_get_a_channel(tmp_path):
    assert load_source(saved(tmp_path, random_arrays(form=(8, 9)))).train.images.shape == (24, 8, 9, 1)


def test_arrays_with_another_checksum_are_refused_and_the_error_states_theirs(tmp_path):
    right = saved(tmp_path, random_arrays())
    wrong = right.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(DataError, match=f"sha256 is {right.sha256}, expected {'0' * 64}"):
        load_source(wrong)


def test_the_checksum_is_compared_before_anything_is_parsed(tmp_path):
    (tmp_path / "set.npz").write_bytes(b"no archive at all")
    with pytest.raises(DataError, match="sha256 is"):
        load_source(section(name="arrays", root=str(tmp_path / "set.npz"), sha256="0" * 64))


def test_a_file_that_is_not_an_archive_is_refused(tmp_path):
    data = saved(tmp_path, random_arrays())
    Path(data.root).write_bytes(b"no archive at all")
    with pytest.raises(DataError, match=r"sha256 is (\w{64})") as caught:
        load_source(data)
    actual = str(caught.value).split("sha256 is ")[1][:64]
    with pytest.raises(DataError, match=r"not an \.npz file of plain arrays"):
        load_source(data.model_copy(update={"sha256": actual}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train_images", np.zeros((24, 8, 8, 3), np.float32), "'train_images' is float32.*expected uint8"),
        ("train_images", np.zeros((24, 3, 8, 8), np.uint8), r"looks like \[N, C, H, W\]"),
        ("train_images", np.zeros((24, 64), np.uint8), r"uint8 \[24, 64\]; expected"),
        ("test_images", np.zeros((6, 9, 8, 3), np.uint8), r"'test_images' are \[9, 8, 3\]"),
        (
            "test_images",
            np.zeros((0, 8, 8, 3), np.uint8),
            r"uint8 \[0, 8, 8, 3\], which contains no pixels; expected",
        ),
        ("train_labels", np.arange(24) % 3 + 1, "3 values from 1 to 3; expected 0 to K - 1"),
        ("train_labels", np.arange(24) % 2 * 2, "2 values from 0 to 2; expected 0 to K - 1"),
        ("train_labels", np.zeros(24, int), "K at least 2"),
        ("train_labels", np.arange(23) % 3, r"'train_labels' is int64 \[23\]; expected integers \[24\]"),
        ("test_labels", np.array([0, 1, 2, 3, 0, 1]), "'test_labels' hold 3, which no training image has"),
        ("test_labels", np.zeros(6), "'test_labels' is float64"),
        ("test_labels", np.array([None] * 6), "not an .npz file of plain arrays .*allow_pickle"),
    ],
)
def test_invalid_arrays_are_named(tmp_path, key, value, message):
    with pytest.raises(DataError, match=message):
        load_source(saved(tmp_path, {**random_arrays(), key: value}))


@pytest.mark.parametrize("key", sorted(random_arrays()))
def test_a_missing_array_is_named(tmp_path, key):
    arrays = random_arrays()
    del arrays[key]
    with pytest.raises(DataError, match=f"found no '{key}'"):
        load_source(saved(tmp_path, arrays))


def of_folder(root: Path, **changes: Any) -> Data:
    """The section for a folder, with the checksum of its images (classes and files in sorted order)."""
    digest = hashlib.sha256()
    parts = ["train", "test" if (root / "test").is_dir() else "val"]
    for path in [file for part in parts for file in sorted(root.glob(f"{part}/*/*"))]:
        content = path.read_bytes()
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + str(len(content)).encode() + b"\0" + content)
    return section(name="folder", root=str(root), **{"sha256": digest.hexdigest(), **changes})


@pytest.mark.parametrize("change", ["another byte", "another name", "one more"])
def test_a_folder_with_another_checksum_is_refused(tmp_path, change):
    data = of_folder(pictures(tmp_path))
    load_source(data)
    first = tmp_path / "train" / "cat" / "1.png"
    if change == "another byte":
        picture(first, (1, 1, 1))
    elif change == "another name":
        first.rename(first.with_name("0.png"))
    else:
        picture(tmp_path / "test" / "dog" / "9.png", 3)
    now = of_folder(tmp_path).sha256
    with pytest.raises(
        DataError, match=rf"sha256 is {now}, expected {data.sha256} \(data\.sha256\); provide the right"
    ):
        load_source(data)


def test_the_error_for_a_missing_checksum_ends_with_it(tmp_path):
    stated = of_folder(pictures(tmp_path))
    with pytest.raises(DataError, match=rf"'data\.sha256' is null, expected the checksum.*: {stated.sha256}$"):
        load_source(of_folder(tmp_path, sha256=None))
    arrays = saved(tmp_path, random_arrays())
    with pytest.raises(DataError, match=rf"'data\.sha256' is null, .*: {arrays.sha256}$"):
        load_source(arrays.model_copy(update={"sha256": None}))


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_folder_is_read_in_sorted_order_as_rgb(tmp_path, test):
    parts = load_source(of_folder(pictures(tmp_path, test)))
    assert parts.class_names == ("cat", "dog")
    assert parts.train.images[:, 0, 0].tolist() == [[0, 1, 2], [100] * 3, [10, 1, 2], [101] * 3]
    assert parts.train.labels.tolist() == [0, 0, 1, 1]
    assert parts.test.images[:, 7, 7].tolist() == [[7, 8, 9], [7, 8, 10]]


def test_the_folder_test_takes_precedence_over_val(tmp_path):
    pictures(tmp_path)
    picture(tmp_path / "val" / "cat" / "1.png", (200, 0, 0))
    assert load_source(of_folder(tmp_path)).test.images.max() == 10


def test_the_error_for_an_image_of_another_size_says_what_to_do(tmp_path):
    picture(pictures(tmp_path) / "train" / "dog" / "0.png", 0, size=(9, 8))
    with pytest.raises(DataError, match=r"dog/0\.png: 9x8 pixels.*have 8x8.*set data\.image_size"):
        load_source(of_folder(tmp_path))


def test_a_test_image_of_another_size_is_named_too(tmp_path):
    picture(pictures(tmp_path) / "test" / "cat" / "9.png", 0, size=(4, 4))
    with pytest.raises(DataError, match=r"test/cat/9\.png: 4x4 pixels"):
        load_source(of_folder(tmp_path))


def test_image_size_resizes_the_short_side_and_crops_the_centre(tmp_path):
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, 24:40] = 250  # the middle 16 columns, which a centred square keeps
    pictures(tmp_path)
    Image.fromarray(wide).save(tmp_path / "train" / "cat" / "1.png")
    parts = load_source(of_folder(tmp_path, image_size=8))
    assert parts.train.images.shape == (4, 8, 8, 3)
    assert (parts.train.images[0, :, 1:-1] == 250).all()  # bilinear resizing mixes only the outermost columns
    assert (parts.train.images[1] == 100).all()


def test_class_folders_must_match(tmp_path):
    picture(pictures(tmp_path) / "test" / "emu" / "1.png", 0)
    with pytest.raises(DataError, match="'emu' is in only one of them"):
        load_source(of_folder(tmp_path))


def test_sixteen_bit_pixels_are_refused(tmp_path):
    picture(pictures(tmp_path) / "train" / "cat" / "3.png", 40000, mode="I;16")
    with pytest.raises(DataError, match=r"3\.png: pixels of mode I;16, expected 8 bits"):
        load_source(of_folder(tmp_path))


def test_a_broken_image_is_named(tmp_path):
    (pictures(tmp_path) / "train" / "cat" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png: not a readable image"):
        load_source(of_folder(tmp_path))


def test_a_broken_link_is_named(tmp_path):
    (pictures(tmp_path) / "train" / "cat" / "3.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"3\.png: not a readable image .*; replace or remove it"):
        load_source(section(name="folder", root=str(tmp_path)))


def test_an_empty_class_and_a_missing_part_are_named(tmp_path):
    with pytest.raises(DataError, match="train: no such folder"):
        load_source(of_folder(tmp_path))
    pictures(tmp_path)
    (tmp_path / "train" / "emu").mkdir()
    (tmp_path / "test" / "emu").mkdir()
    with pytest.raises(DataError, match="emu: found no image"):
        load_source(of_folder(tmp_path))
