"""Sections of params.yaml as frozen models, and one clear line for every fault in them."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

S = TypeVar("S", bound="Section")


class ParamsError(ValueError):
    """A parameter file that cannot be used; the message names file, key, value and what is allowed."""


class Section(BaseModel):
    """A section of params.yaml: frozen, refuses unknown keys, converts nothing but whole numbers to floats."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def as_tuple(value: Any) -> Any:
    """YAML has lists, frozen models hold tuples."""
    return tuple(value) if isinstance(value, list) else value


def validate(model: type[S], value: Any, prefix: str, source: str) -> S:
    """The value as a model. Raises ParamsError: a line per wrong key, each below `prefix` and with its `source`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults: dict[tuple[str, ...], list[Any]] = {}  # by key; several where a key may be one of several things
        for detail in error.errors():
            faults.setdefault(_place(detail, model)[0], []).append(detail)
        # A deeper fault explains the outer one: pydantic drops a bad element of a list, then finds the list too short.
        outer = {place[:end] for place in faults for end in range(len(place))}
        lines = [_line(place, found, model, prefix, source) for place, found in faults.items() if place not in outer]
        raise ParamsError("\n".join(lines)) from None


def _line(place: tuple[str, ...], found: list[Any], model: type[BaseModel], prefix: str, source: str) -> str:
    key = ".".join([prefix, *place] if prefix else place)
    if found[0]["type"] == "extra_forbidden":
        return unknown(key, _place(found[0], model)[1], source)
    if found[0]["type"] == "missing":
        return f"{source}: '{key}' is missing."
    messages = [
        detail["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "List")  # as YAML says
        for detail in found
    ]
    told = ", or ".join(f"{message[0].lower()}{message[1:]}" for message in dict.fromkeys(messages))
    value = found[0]["input"]
    value = list(value) if isinstance(value, tuple) else value
    shown = "" if isinstance(value, dict | BaseModel) else f" is {value!r}"
    return f"{source}: '{key}'{shown}: {told}."


def _place(detail: Any, model: type[BaseModel]) -> tuple[tuple[str, ...], Sequence[str]]:
    """Where a fault is as a user wrote it, without the forms that pydantic tried there; the keys known beside it."""
    place: list[str] = []
    held: Any = model  # what stands at the place: an annotation
    for at, part in enumerate(detail["loc"], start=1):
        known = _fields(_section_in(held))
        strange = detail["type"] == "extra_forbidden" and at == len(detail["loc"])
        if get_origin(held) in (dict, Mapping):  # of names that a user chose
            place, held = [*place, str(part)], get_args(held)[1]
        elif part in known:
            place, held = [*place, str(part)], known[part]
        elif isinstance(part, int) or strange:
            place.append(str(part))
    return tuple(place), list(_fields(_section_in(held)))


def _fields(section: type[BaseModel] | None) -> dict[str, Any]:
    """Key -> what it may hold."""
    fields = {} if section is None else section.model_fields
    return {field.alias or name: field.annotation for name, field in fields.items()}


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key may hold; None where it holds a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_in(inner))), None)


def unknown(key: str, known: Sequence[str], source: str) -> str:
    hint = did_you_mean(key.rpartition(".")[2], known)
    return f"{source}: '{key}' is not a known key.{hint} Known: {', '.join(sorted(known))}."


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A sentence with the known word that comes nearest, empty when none is near."""
    near = get_close_matches(word, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
