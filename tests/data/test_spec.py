import json
from dataclasses import replace

import pytest

from nas.data.spec import DataError, DataSpec

SPEC = DataSpec("digits", (1, 8, 8), 2, ("a", "b"), (0.1 + 0.2,), (1 / 3,), {"train": 3, "test": 1})


def test_a_spec_is_unchanged_by_json():
    assert DataSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC
    assert DataSpec.from_dict(replace(SPEC, classes=3).to_dict()) != SPEC


def test_other_keys_of_the_record_are_ignored():
    assert DataSpec.from_dict({"schema": 1, "kind": "data", **SPEC.to_dict()}) == SPEC


def test_a_missing_key_is_named():
    body = SPEC.to_dict()
    del body["mean"]
    with pytest.raises(DataError, match="found no mean"):
        DataSpec.from_dict(body)
