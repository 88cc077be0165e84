"""What MLflow takes as names and numbers, and how our rows and trees become that."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

ILLEGAL = re.compile(r"[^A-Za-z0-9_\-.: ]")  # a slash is legal as well, but makes folders


def legal(name: str) -> str:
    """`eps=0.1` -> `eps-0.1`."""
    return ILLEGAL.sub("-", name)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of a nested mapping under dotted, legal names."""
    return dict(_leaves(tree, prefix))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = prefix + legal(str(key))
        if isinstance(value, Mapping):
            yield from _leaves(value, name + ".")
        else:
            yield name, value


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among the values; NaN, None, booleans, text and lists are left out."""
    return {name: float(value) for name, value in values.items() if is_number(value)}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a `*.metrics.json` under flat names. A level that holds one section alone is no name:

    {"best": {"test_error": 3.1}} -> test_error; with two architectures -> best.test_error, other.test_error
    """
    while len(metrics) == 1 and isinstance(section := next(iter(metrics.values())), Mapping):
        metrics = section
    return numbers(flat(metrics))


def epoch_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of one row of a history, without what only says which row it is.

    The networks that one retrain stage fits share its run, so their rows carry architecture and seed as a prefix.
    """
    whose = f"{row['architecture']}-{row.get('seed', 0)}." if "architecture" in row else ""
    identity = {"epoch", "architecture", "seed"}
    return numbers(flat({name: value for name, value in row.items() if name not in identity}, legal(whose)))
