"""JSON records and files: canonical form, checksums, atomic writing.

A record that holds a result holds no clock, host or path, so that equal work gives equal bytes. What a run cost
(`seconds`, `device`, ...) goes to a file of its own.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

SCHEMA = 1  # of every record this version writes


class RecordError(ValueError):
    """A record that cannot be used; the message names the file, what was found and what to do."""


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_id(value: Any, length: int = 12) -> str:
    """First hex digits of the SHA-256 of the canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_project(path: str) -> Path:
    """A path of params.yaml, relative to the project: DVC names its folder in DVC_ROOT, else it is the current one.

    `dvc exp run --temp` works in a copy, which has what Git knows and nothing else.
    """
    return Path(os.environ.get("DVC_ROOT") or ".") / path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside `path`, to be written by the caller, that takes its place when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.chmod(0o644)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Indented for people, sorted for bytes; NaN is refused."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises RecordError when the file is missing or is no JSON."""
    if not path.is_file():
        raise RecordError(f"{path}: no such record; run `dvc repro` to make it")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path}: not JSON ({error}); remove it and run `dvc repro`") from None


def finite(value: Any) -> Any:
    """The value with null for every number that is none (NaN, infinity), however deep: JSON has no other word."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def write_record(path: Path, kind: str, body: dict[str, Any]) -> None:
    write_json(path, {"schema": SCHEMA, "kind": kind, **body})


def read_record(path: Path, kind: str) -> dict[str, Any]:
    """The record in `path`, when it is of this kind and of a schema that this version reads."""
    record = read_json(path)
    found = (record.get("schema"), record.get("kind")) if isinstance(record, dict) else (None, None)
    if found != (SCHEMA, kind):
        raise RecordError(f"{path}: found schema {found[0]} of kind {found[1]!r}, expected schema {SCHEMA} of {kind!r}")
    return dict(record)
