import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from nas.data.prepare import data_set_name, pad, prepare, refuse_overlap, split_indices, statistics
from nas.data.sources import Part, Parts
from nas.data.spec import DataError, DataSpec
from nas.records import file_sha256, read_record
from tests.data.samples import random_arrays, saved, section

SPLITS = ("retrain", "search_train", "search_valid", "test")
FILES = ("spec.json", *(f"splits/{name}.json" for name in SPLITS), "test.safetensors", "train.safetensors")


def labelled(train: Any, test: Any = (0, 1)) -> Parts:
    """Parts with these labels and black images of one pixel."""
    train, test = np.asarray(train, np.int64), np.asarray(test, np.int64)
    names = tuple(f"class {n}" for n in range(int(train.max()) + 1))
    blank = [Part(np.zeros((len(labels), 1, 1, 1), np.uint8), labels) for labels in (train, test)]
    return Parts(blank[0], blank[1], names)


def halves(parts: Parts, percent: int, stratified: bool = True) -> list[Any]:
    texts = {"search_train": f"train[:{percent}%]", "search_valid": f"train[{percent}%:]"}
    data = section(splits=texts, stratified=stratified)
    return [split_indices(data, name, parts) for name in texts]


LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=80).map(lambda few: [*few, *([0, 1, 2, 3] * 10)])


@given(LABELS, st.integers(10, 90))
def test_stratified_halves_are_sorted_disjoint_complete_and_keep_class_proportions(labels, percent):
    first, second = halves(labelled(labels), percent)
    assert sorted([*first, *second]) == list(range(len(labels)))
    for half in (first, second):
        assert (np.diff(half) > 0).all()
    for label in range(4):
        share = np.count_nonzero(np.asarray(labels)[first] == label)
        assert abs(share - labels.count(label) * percent / 100) < 1.5
    assert len(first) == len(labels) * percent // 100


@given(LABELS, st.integers(10, 90))
def test_a_stratified_slice_keeps_file_order_within_a_class(labels, percent):
    first = halves(labelled(labels), percent)[0]
    for label in range(4):
        of_class = np.flatnonzero(np.asarray(labels) == label)
        mine = of_class[np.isin(of_class, first)]
        assert list(mine) == list(of_class[: len(mine)])


def test_a_plain_slice_is_a_range_of_the_file():
    first, second = halves(labelled([0, 1] * 5), 40, stratified=False)
    assert first.tolist() == [0, 1, 2, 3]
    assert second.tolist() == [4, 5, 6, 7, 8, 9]


def test_bounds_without_a_percent_sign_count_images_and_keep_class_proportions():
    parts = labelled([0, 0, 0, 1, 1, 1])  # interleaved: 0 3 1 4 2 5
    data = section(splits={"retrain": "train[:4]", "search_valid": "train[2:6]"})
    assert split_indices(data, "retrain", parts).tolist() == [0, 1, 3, 4]
    assert split_indices(data, "search_valid", parts).tolist() == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("text", "stratified", "message"),
    [
        ("train[:7]", False, "asks for samples 0 to 7 of 6"),
        ("train[3:3]", False, "asks for samples 3 to 3 of 6"),
        ("train[:1%]", False, "asks for samples 0 to 0 of 6"),
        ("train[2:7]", True, "asks for samples 2 to 7 of 6"),
    ],
)
def test_the_error_for_an_empty_slice_names_its_key(text, stratified, message):
    data = section(splits={"search_valid": text}, stratified=stratified)
    with pytest.raises(DataError, match=rf"'data\.splits\.search_valid' is '.*': {message}"):
        split_indices(data, "search_valid", labelled([0, 0, 0, 0, 1, 1]))


def test_a_missing_class_is_refused_in_splits_for_training_only():
    parts = labelled([0, 0, 1, 1], test=[0, 0, 1, 1])
    data = section(splits={"retrain": "train[:50%]", "test": "test[:50%]"}, stratified=False)
    with pytest.raises(DataError, match=r"'data\.splits\.retrain'.*no image of class 'class 1'.*stratified: true"):
        split_indices(data, "retrain", parts)
    assert split_indices(data, "test", parts).tolist() == [0, 1]


def test_the_test_part_may_lack_classes():
    assert split_indices(section(), "test", labelled([0, 1, 2], test=[2, 0])).tolist() == [0, 1]


# --- Splits given as positions in a file


def drawn(folder, positions, **changes):
    """A section whose search_train is an array of positions in a file."""
    np.savez(folder / "drawn.npz", mine=positions)
    given = {"file": str(folder / "drawn.npz"), "array": "mine", "sha256": file_sha256(folder / "drawn.npz")} | changes
    return section(splits={"search_train": given})


def test_positions_from_a_file_are_sorted(tmp_path):
    parts = labelled([0, 0, 1, 1, 0, 1])
    assert split_indices(drawn(tmp_path, np.array([5, 0, 3], np.int32)), "search_train", parts).tolist() == [0, 3, 5]


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 6], r"'mine' holds 6, expected positions from 0 to 5, within the part .* \('data.splits.search_train'\)"),
        ([0, -1], "'mine' holds -1, expected positions from 0"),
        ([0, 3, 0], r"'mine' holds 0 twice or more \('data.splits.search_train'\)"),
        ([0.5], r"'mine' is float64 \[1\]; expected integers"),
        ([[0, 3]], r"'mine' is int64 \[1, 2\]; expected integers \[n\]"),
        ([0, 1], "'mine of .*' and holds no image of class 'class 1'.*; name another array"),
    ],
)
def test_invalid_positions_are_refused(tmp_path, positions, message):
    with pytest.raises(DataError, match=message):
        split_indices(drawn(tmp_path, np.array(positions)), "search_train", labelled([0, 0, 1, 1, 0, 1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"array": "yours"}, r"found no 'yours' \('data\.splits\.search_train\.array'\)"),
        ({"file": "none.npz"}, r"none\.npz: no such file \('data\.splits\.search_train\.file'\)"),
        ({"sha256": "0" * 64}, r"expected 0{64} \(data\.splits\.search_train\.sha256\)"),
    ],
)
def test_a_file_other_than_the_stated_one_is_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        split_indices(drawn(tmp_path, np.array([0, 3]), **changes), "search_train", labelled([0, 0, 1, 1]))


def test_a_split_from_a_file_is_recorded_with_its_part(tmp_path):
    np.savez(tmp_path / "drawn.npz", valid=np.arange(0, 8, 2), test=np.array([1, 0]))
    head = {"file": str(tmp_path / "drawn.npz"), "sha256": file_sha256(tmp_path / "drawn.npz")}
    splits = {"search_valid": head | {"array": "valid"}, "test": head | {"array": "test"}, "search_train": "train[8:]"}
    data = saved(tmp_path, random_arrays(), splits=splits).model_copy(update={"stratified": False})
    prepare(data, tmp_path / "prepared")
    records = [read_record(tmp_path / f"prepared/splits/{name}.json", "split") for name in ("search_valid", "test")]
    assert [(record["part"], record["indices"]) for record in records] == [("train", [0, 2, 4, 6]), ("test", [0, 1])]


def test_overlapping_search_splits_are_counted(tmp_path):
    with pytest.raises(DataError, match=r"search_train' and 'data\.splits\.search_valid' share 2 samples"):
        refuse_overlap(np.array([0, 1, 2, 3]), np.array([2, 3, 4]))
    data = saved(tmp_path, random_arrays(), splits={"search_train": "train[:75%]"})
    with pytest.raises(DataError, match="share 6 samples"):
        prepare(data, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_statistics_equal_their_definition():
    images = random_arrays(train=50)["train_images"]
    mean, std = statistics(images)
    assert mean == pytest.approx((images / 255).mean((0, 1, 2)), abs=1e-12)
    assert std == pytest.approx((images / 255).std((0, 1, 2)), abs=1e-12)


@given(st.permutations(range(12)))
def test_statistics_do_not_depend_on_the_order(order):
    images = random_arrays(train=12)["train_images"]
    assert statistics(images[list(order)]) == statistics(images)


def test_a_constant_channel_is_refused():
    images = random_arrays()["train_images"]
    images[..., 1] = 7
    with pytest.raises(DataError, match="channel 1 is 7 in every pixel"):
        statistics(images)


def test_padding_is_symmetric_and_zero():
    images = np.ones((2, 28, 27, 1), np.uint8)
    padded = pad(images, 32)
    assert padded.shape == (2, 32, 32, 1)
    assert np.array_equal(padded[:, 2:30, 2:29], images)
    assert padded.sum() == images.sum()
    assert pad(images, None) is images


def test_a_pad_below_the_image_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"'data\.pad' is 8, but the images have 8x9 pixels.*at least 9"):
        prepare(saved(tmp_path, random_arrays(form=(8, 9)), pad=8), tmp_path / "prepared")


def test_prepared_files_match_the_spec(tmp_path):
    arrays = random_arrays()
    spec = prepare(saved(tmp_path, arrays, pad=10), tmp_path / "prepared")
    assert spec == DataSpec.from_dict(read_record(tmp_path / "prepared" / "spec.json", "data"))
    assert (spec.shape, spec.classes, spec.counts) == ((3, 10, 10), 3, {"train": 24, "test": 6})
    assert (spec.mean, spec.std) == statistics(arrays["train_images"])  # of the images before padding
    train = load_file(tmp_path / "prepared" / "train.safetensors")
    assert np.array_equal(train["images"][:, 1:-1, 1:-1], arrays["train_images"])
    assert np.array_equal(train["labels"], arrays["train_labels"])
    splits = {name: read_record(tmp_path / "prepared" / "splits" / f"{name}.json", "split") for name in SPLITS}
    assert (splits["search_train"]["part"], splits["search_train"]["indices"]) == ("train", list(range(12)))
    assert (splits["test"]["part"], splits["test"]["indices"]) == ("test", list(range(6)))


def test_the_same_source_gives_the_same_bytes(tmp_path):
    data = saved(tmp_path, random_arrays())
    for name in ("one", "two"):
        prepare(data, tmp_path / name)
    written = [path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*.*")]
    assert sorted(written) == sorted(FILES)
    for name in FILES:
        assert file_sha256(tmp_path / "one" / name) == file_sha256(tmp_path / "two" / name)


def test_digits_need_no_files(tmp_path):
    spec = prepare(section(), tmp_path)
    assert (spec.shape, spec.classes, spec.counts) == ((1, 8, 8), 10, {"train": 1442, "test": 355})
    assert spec.mean == pytest.approx((0.3052,), abs=1e-4)
    assert len(json.loads((tmp_path / "splits" / "search_train.json").read_text())["indices"]) == 721


def test_a_users_data_set_is_named_after_its_file_or_folder(tmp_path):
    assert prepare(saved(tmp_path, random_arrays(), splits={"retrain": "train[:6]"}), tmp_path / "out").name == "set"
    names = {"data/raw/flowers": "flowers", "data/raw/flowers/": "flowers", "../my.photos": "my.photos", ".": "folder"}
    for root, name in names.items():
        assert data_set_name(section(name="folder", root=root)) == name
    assert data_set_name(section(root="data/raw")) == "digits"
