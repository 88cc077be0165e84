"""Small data sets, and sections of params.yaml for them, for the tests of nas.data."""

from pathlib import Path
from typing import Any

import numpy as np

from nas.config.data import Data
from nas.records import file_sha256

HALVES = {"search_train": "train[:50%]", "search_valid": "train[50%:]", "retrain": "train", "test": "test"}


def section(splits: dict[str, Any] | None = None, **changes: Any) -> Data:
    """The `data` section of the digits preset with some keys changed."""
    keys: dict[str, Any] = {
        "name": "digits",
        "root": "data/raw",
        "download": False,
        "sha256": None,
        "image_size": None,
        "pad": None,
        "stratified": True,
        "splits": {**HALVES, **(splits or {})},
    }
    return Data(**{**keys, **changes})


def random_arrays(
    train: int = 24, test: int = 6, form: tuple[int, ...] = (8, 8, 3), classes: int = 3
) -> dict[str, Any]:
    """The four arrays of an .npz source, with labels 0, 1, 2, 0, 1, ... and random pixels."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", train), ("test", test)):
        arrays[f"{part}_images"] = generator.integers(0, 256, (count, *form), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % classes
    return arrays


def saved(folder: Path, arrays: dict[str, Any], **changes: Any) -> Data:
    """Write the arrays to an .npz file, and return the section that describes it."""
    path = folder / "set.npz"
    np.savez(path, **arrays)
    return section(name="arrays", root=str(path), sha256=file_sha256(path), **changes)
