"""What the stages share: params, folders, and errors that end as one clear message."""

import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from nas.config.params import Config

PARAMS = Path("params.yaml")
PREPARED = Path("data/prepared")
RUNS = Path("runs")
REPORT = Path("report")

F = TypeVar("F", bound=Callable[..., Any])


def parse(tree: Mapping[str, Any], source: str = "params.yaml") -> "Config":
    """A parameter tree as the validated model, with the sections of every method that is built in."""
    from nas.config.params import parse_config
    from nas.methods import sections

    return parse_config(tree, *sections(), source)


def load(path: Path = PARAMS) -> "Config":
    from nas.config.yaml_file import read_yaml

    return parse(read_yaml(path), str(path))


def clear_errors(command: F) -> F:
    """Our own errors are for people: print the message, exit with 1. Anything else is a fault and keeps its trace."""

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
