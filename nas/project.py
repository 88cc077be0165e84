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
    """A parameter tree as the validated model, with the sections of every method that is built in."""
    from nas.config.params import parse_config
    from nas.methods import sections

    return parse_config(tree, *sections(), source)


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
