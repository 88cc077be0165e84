"""JSON records and files: canonical form, checksums and atomic writing.

A record of results contains no time, host name or path, so equal work gives equal bytes. The costs of a run (`seconds`,
`device`, ...) go to a separate file.
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

SCHEMA = 1  # of every record that this version writes


class RecordError(ValueError):
    """A record that cannot be used. The message names the file, what was found and what to do."""


def canonical(value: Any) -> str:
    """The canonical JSON text of a value: sorted keys, no spaces. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_id(value: Any, length: int = 12) -> str:
    """The first `length` hex digits of the SHA-256 of the canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_project(path: str) -> Path:
    """Resolve a path of params.yaml, which is relative to the project's folder: DVC_ROOT if set, else the current one.

    DVC sets DVC_ROOT for a stage. `dvc exp run --temp` runs in a copy that holds only the files that Git tracks.
    """
    return Path(os.environ.get("DVC_ROOT") or ".") / path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file atomically: yields a temporary path for the caller to write, which then replaces `path`.

    If the block raises, the temporary file is removed and `path` keeps its content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys atomically. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises RecordError if it is missing or not valid JSON."""
    if not path.is_file():
        raise RecordError(f"{path}: no such record; run `dvc repro` to make it")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path}: not JSON ({error}); remove it and run `dvc repro`") from None


def finite(value: Any) -> Any:
    """Replace NaN and infinity with None at any depth, because JSON cannot represent them."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def write_record(path: Path, kind: str, body: dict[str, Any]) -> None:
    """Write a record of this kind, for instance `search`, with the schema version."""
    write_json(path, {"schema": SCHEMA, "kind": kind, **body})


def read_record(path: Path, kind: str) -> dict[str, Any]:
    """Read a record of this kind. Raises RecordError if it is missing or has another kind or schema version."""
    record = read_json(path)
    actual = (record.get("schema"), record.get("kind")) if isinstance(record, dict) else (None, None)
    if actual != (SCHEMA, kind):
        raise RecordError(
            f"{path}: found a record of kind {actual[1]!r} with schema {actual[0]}, expected kind {kind!r} with schema"
            f" {SCHEMA}; remove it and run `dvc repro`"
        )
    return dict(record)
