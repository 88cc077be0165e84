"""YAML parsed by DVC's rules, with clear errors."""

import re
from pathlib import Path
from typing import Any

import yaml

from nas.config.sections import ParamsError


class _Loader(yaml.SafeLoader):
    """Follows YAML 1.2, as DVC does: 1e-3 is a number, a repeated key is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ParamsError(
                    f"key '{key}' appears more than once in the mapping at line {node.start_mark.line + 1}"
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"), list("-+.0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file. Raises ParamsError if the file is missing or does not hold a mapping."""
    if not path.is_file():
        raise ParamsError(f"{path}: no such file; run from the project's folder")
    return parse_yaml(path.read_text(encoding="utf-8"), str(path))


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Parse a YAML mapping. Errors (ParamsError) name `source`, the file that the text was read from."""
    try:
        tree = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ParamsError(f"{source}: not valid YAML: {error}") from None
    except ParamsError as error:
        raise ParamsError(f"{source}: {error}") from None
    if not isinstance(tree, dict):
        raise ParamsError(f"{source}: expected a mapping of sections, found {type(tree).__name__}")
    return tree
