"""What stages and commands share: folders, parameters, and errors shown as one message."""

import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from nas.config.params import Config

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
PREPARED = Path("data/prepared")
RUNS = Path("runs")
REPORT = Path("report")

F = TypeVar("F", bound=Callable[..., Any])


class ProjectError(ValueError):
    """The current folder is not a project."""


def require(*files: Path) -> None:
    """Check that these files or folders of the project are in the current folder.

    Raises:
        ProjectError: one is missing; the message names it.
    """
    for file in files:
        if not file.exists():
            raise ProjectError(
                f"{file}: no such file in {Path.cwd()}. This command works on the project in the current folder: "
                "change to your clone of the repository, which has params.yaml, dvc.yaml and presets/"
            )


def parse(tree: Mapping[str, Any], source: str = "params.yaml") -> "Config":
    """A parameter tree as the validated model, with the sections of every method that is built in.

    Raises:
        ParamsError: a value is wrong, or a method cannot search the space that its section names.
    """
    from nas.config.params import parse_config
    from nas.methods import sections

    config = parse_config(tree, *sections(), source)
    for method in (name for name in config.search if name != "common"):
        _check_search(config, method, source)
    return config


def _check_search(config: "Config", method: str, source: str) -> None:
    """Raises ParamsError if the space of a method is unknown, or if its facts rule out what the section asks for."""
    from nas.config.sections import ParamsError, did_you_mean
    from nas.registry import SPACES
    from nas.spaces.registry import get_space

    params, key = config.search[method], f"{source}: 'search.{method}"
    name = params.space
    if name not in SPACES:
        known = f"Known: {', '.join(SPACES)}."
        raise ParamsError(f"{key}.space' is '{name}', which is not a space.{did_you_mean(name, list(SPACES))} {known}")
    space = get_space(name)
    if not params.accepts(space):
        accepted = [other for other in SPACES if params.accepts(get_space(other))]
        raise ParamsError(f"{key}.space' is '{name}', but {method} needs {params.needs}: {', '.join(accepted)}.")
    used = method in config.methods
    if used and not config.retrain.seeds and not space.has_table:
        tabled = ", ".join(other for other in SPACES if get_space(other).has_table)
        raise ParamsError(
            f"{key}.space' is '{name}', which has no benchmark table, and 'retrain.seeds' is empty: search in "
            f"{tabled}, give a retrain seed, or leave {method} out of 'methods'."
        )
    try:
        params.check_space(space)
        if used:
            params.check(config.common)
    except ValueError as error:
        raise ParamsError(f"{key}': {error}.") from None


def load(path: Path = PARAMS) -> "Config":
    """The validated parameters in a file. Raises ProjectError if it is missing, ParamsError if it cannot be used."""
    from nas.config.yaml_file import read_yaml

    require(path)

    return parse(read_yaml(path), str(path))


def clear_errors(command: F) -> F:
    """Print the message of our own errors and exit with 1. Any other exception is a bug and keeps its traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ValueError as error:
            if not type(error).__module__.startswith(("nas.", "stages.")):
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except BaseException as stopped:
            if not hasattr(stopped, "exit_code") or not type(stopped).__module__.startswith("nas."):
                raise
            print(stopped, file=sys.stderr)
            sys.exit(stopped.exit_code)

    return run  # type: ignore[return-value]
