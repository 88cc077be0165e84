"""Spaces by name."""

from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

from nas.contracts import Space
from nas.registry import SPACES

_CLASSES: dict[str, type[Space]] = {}
T = TypeVar("T", bound=type[Space])


def register_space(name: str) -> Callable[[T], T]:
    """Register a space under its name. Raises ValueError if the name is taken."""

    def register(space: T) -> T:
        if name in _CLASSES:
            raise ValueError(f"'{name}' is already registered")
        space.name = name
        _CLASSES[name] = space
        return space

    return register


def get_space(name: str) -> Space:
    """The space of this name. Raises KeyError with the names that are built in."""
    if name not in SPACES:
        raise KeyError(f"space {name!r} is not built in; built in: {', '.join(SPACES)}")
    import_module(SPACES[name].space)
    return _CLASSES[name]()
