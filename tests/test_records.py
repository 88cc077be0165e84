import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.records import (
    SCHEMA,
    RecordError,
    canonical,
    content_id,
    file_sha256,
    finite,
    in_project,
    read_json,
    read_record,
    replacing,
    write_json,
    write_record,
    write_text,
)

TEXT = st.text(st.sampled_from('abcdé"\\\n 1'), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def test_a_path_in_params_is_relative_to_the_folder_in_dvc_root(monkeypatch, tmp_path):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert in_project("data/raw") == Path("data/raw")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert in_project("data/raw") == tmp_path / "data/raw"
    assert in_project("/elsewhere") == Path("/elsewhere")


def test_nan_and_infinity_become_null_at_any_depth():
    value = {"a": float("nan"), "b": [1.5, float("inf"), {"c": (-float("inf"), 2, "x", None, True)}]}
    assert finite(value) == {"a": None, "b": [1.5, None, {"c": [None, 2, "x", None, True]}]}
    assert canonical(finite(value))


def test_the_canonical_form_has_sorted_keys_and_no_spaces():
    assert canonical({"b": [1, 2.5, None], "a": {"é": True, "B": ""}}) == '{"a":{"B":"","é":true},"b":[1,2.5,null]}'


@given(JSON)
def test_the_canonical_form_keeps_the_whole_value(value):
    assert json.loads(canonical(value)) == value
    assert canonical(json.loads(canonical(value))) == canonical(value)


@given(st.dictionaries(TEXT, st.integers(), min_size=2, max_size=5))
def test_an_id_does_not_depend_on_the_order_of_keys(value):
    turned = dict(reversed(value.items()))
    assert content_id(turned) == content_id(value)
    assert content_id({**value, next(iter(value)): -1.5}) != content_id(value)


def test_an_id_is_the_start_of_the_checksum_of_the_canonical_form():
    digest = hashlib.sha256(b'{"a":1}').hexdigest()
    assert content_id({"a": 1}) == digest[:12]
    assert content_id({"a": 1}, length=32) == digest[:32]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, {"a": float("-inf")}]])
def test_numbers_that_json_cannot_represent_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical(value)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []


def test_the_checksum_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_file_is_replaced_atomically_and_is_readable_by_others(tmp_path):
    path = tmp_path / "below" / "a.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new, half")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@given(JSON)
def test_equal_values_give_equal_bytes(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("json")
    for name in ("a", "b"):
        write_json(folder / name, json.loads(json.dumps(value)))
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    assert read_json(folder / "a") == value


def test_json_files_are_indented_sorted_and_end_with_a_newline(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "a": "é",\n "b": 1\n}\n'


def test_a_record_is_read_as_it_was_written(tmp_path):
    write_record(tmp_path / "a.json", "search", {"key": "darts-0"})
    assert read_record(tmp_path / "a.json", "search") == {"schema": SCHEMA, "kind": "search", "key": "darts-0"}


def test_the_error_for_a_missing_record_says_how_to_make_it(tmp_path):
    with pytest.raises(RecordError, match=r"a\.json: no such record; run `dvc repro`"):
        read_record(tmp_path / "a.json", "search")


def test_a_broken_record_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"schema": 1,')
    with pytest.raises(RecordError, match=r"a\.json: not JSON \(.*\); remove it"):
        read_record(tmp_path / "a.json", "search")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1, "kind": "data"}', "kind 'data' with schema 1, expected kind 'search' with schema 1; remove it"),
        ('{"schema": 2, "kind": "search"}', "found a record of kind 'search' with schema 2"),
        ('{"key": "darts-0"}', "found a record of kind None with schema None"),
        ("[1, 2]", "found a record of kind None with schema None"),
    ],
)
def test_a_record_of_another_kind_or_schema_is_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RecordError, match=message):
        read_record(tmp_path / "a.json", "search")
