"""Search methods: one module per method, with the method's name, imported on first use.

A module defines `Method` (a subclass of `nas.methods.shared.base.SearchMethod`), `Params` (its section of `search`),
`DeriveParams` (its section of `derive`) and `derive`. nas/registry.py lists the methods.
"""

from importlib import import_module
from types import ModuleType

from nas.config.params import MethodParams
from nas.config.sections import Section
from nas.registry import METHODS


def method_module(name: str) -> ModuleType:
    """The module of a method. Raises KeyError, which lists the built-in methods, for an unknown name."""
    if name not in METHODS:
        raise KeyError(f"method {name!r} is not built in; built in: {', '.join(METHODS)}")
    return import_module(f"nas.methods.{name}")


def sections() -> tuple[dict[str, type[MethodParams]], dict[str, type[Section]]]:
    """The models of `search.<method>` and of `derive.<method>`, for the parameter loader."""
    modules = {name: method_module(name) for name in METHODS}
    search = {name: module.Params for name, module in modules.items()}
    derive = {name: module.DeriveParams for name, module in modules.items()}
    return search, derive
