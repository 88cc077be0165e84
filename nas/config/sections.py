"""Base class for the sections of params.yaml, and error messages with one line per invalid key."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

S = TypeVar("S", bound="Section")


class ParamsError(ValueError):
    """Invalid parameters. The message names the file, the key, its value and what is allowed."""


class Section(BaseModel):
    """A section of params.yaml. Frozen; refuses unknown keys; the only type conversion is from integer to float."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def as_tuple(value: Any) -> Any:
    """Convert a list to a tuple: YAML has only lists, and a frozen model needs tuples."""
    return tuple(value) if isinstance(value, list) else value


def validate(model: type[S], value: Any, prefix: str, source: str) -> S:
    """Validate `value` against `model`.

    Args:
        model: The section's class.
        value: What the YAML file holds at this place.
        prefix: The key of the section, for instance `search.darts`; empty for the whole file.
        source: The file's name, for error messages.

    Raises:
        ParamsError: One line per invalid key.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # By key. A key that accepts several types has one detail per type that pydantic tried.
        details_of: dict[tuple[str, ...], list[Any]] = {}
        for detail in error.errors():
            details_of.setdefault(_locate(detail, model)[0], []).append(detail)
        # An inner error causes the outer one: pydantic drops an invalid element of a list, then reports the list as
        # too short. Only the inner error is reported.
        outer = {path[:end] for path in details_of for end in range(len(path))}
        lines = [
            _line(path, details, model, prefix, source) for path, details in details_of.items() if path not in outer
        ]
        raise ParamsError("\n".join(lines)) from None


def _line(path: tuple[str, ...], details: list[Any], model: type[BaseModel], prefix: str, source: str) -> str:
    key = ".".join([prefix, *path] if prefix else path)
    if details[0]["type"] == "extra_forbidden":
        return unknown(key, _locate(details[0], model)[1], source)
    if details[0]["type"] == "missing":
        return f"{source}: '{key}' is missing."
    messages = [
        detail["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "List")  # YAML's word
        for detail in details
    ]
    message = ", or ".join(f"{message[0].lower()}{message[1:]}" for message in dict.fromkeys(messages))
    value = details[0]["input"]
    value = list(value) if isinstance(value, tuple) else value
    shown = "" if isinstance(value, dict | BaseModel) else f" is {value!r}"
    place = f"'{key}'{shown}: " if key else ""  # a fault of the whole file names its keys itself
    return f"{source}: {place}{message}."


def _locate(detail: Any, model: type[BaseModel]) -> tuple[tuple[str, ...], Sequence[str]]:
    """The path of an error as the user wrote it, and the keys that are known at that path.

    pydantic's `loc` also names the members of a union that it tried; these are left out.
    """
    path: list[str] = []
    annotation: Any = model  # of the value at `path`
    for at, part in enumerate(detail["loc"], start=1):
        known = _fields(_section_in(annotation))
        is_unknown_key = detail["type"] == "extra_forbidden" and at == len(detail["loc"])
        if get_origin(annotation) in (dict, Mapping):  # its keys are names that the user chose
            path, annotation = [*path, str(part)], get_args(annotation)[1]
        elif part in known:
            path, annotation = [*path, str(part)], known[part]
        elif isinstance(part, int) or is_unknown_key:
            path.append(str(part))
    return tuple(path), list(_fields(_section_in(annotation)))


def _fields(section: type[BaseModel] | None) -> dict[str, Any]:
    """Keys and annotations of a section."""
    fields = {} if section is None else section.model_fields
    return {field.alias or name: field.annotation for name, field in fields.items()}


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section class within an annotation; None if the annotation allows plain values only."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for inner in get_args(annotation) if (section := _section_in(inner))), None)


def unknown(key: str, known: Sequence[str], source: str) -> str:
    """The message for an unknown key: a close match if there is one, and all known keys."""
    hint = did_you_mean(key.rpartition(".")[2], known)
    return f"{source}: '{key}' is not a known key.{hint} Known: {', '.join(sorted(known))}."


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A sentence that suggests the closest known word; empty if no word is close."""
    near = get_close_matches(word, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
