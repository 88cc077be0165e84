"""How an architecture is found: one module per method, named like the method, loaded when asked for.

`METHODS` is the list of what is built in. A module defines `Method` (a subclass of `nas.methods.base.SearchMethod`),
`Params` (its section of `search`, a MethodParams), `DeriveParams` (its section of `derive`) and `derive`.
"""

from importlib import import_module
from types import ModuleType

from nas.config import MethodParams, Section

METHODS = ("given", "random", "darts", "eoinas", "lfr-darts", "tenas", "asng", "is-nas")  # in the order of the table


def method_module(name: str) -> ModuleType:
    """The module of a method; the file has the method's very name, which DVC needs to watch it alone."""
    if name not in METHODS:
        raise KeyError(f"method {name!r} is not built in; built in: {', '.join(METHODS)}")
    return import_module(f"nas.methods.{name}")


def sections() -> tuple[dict[str, type[MethodParams]], dict[str, type[Section]]]:
    """The models of `search.<method>` and `derive.<method>`, for the parameter loader."""
    modules = {name: method_module(name) for name in METHODS}
    search = {name: module.Params for name, module in modules.items()}
    derive = {name: module.DeriveParams for name, module in modules.items()}
    return search, derive
