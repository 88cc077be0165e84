"""Converts rows and nested mappings to the names and numbers that MLflow accepts."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ILLEGAL = re.compile(r"[^A-Za-z0-9_\-.: ]")  # a slash is legal too, but creates folders


def legal(name: str) -> str:
    """`eps=0.1` -> `eps-0.1`."""
    return ILLEGAL.sub("-", name)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested mapping, keyed by dotted names that MLflow accepts."""
    return dict(_leaves(tree, prefix))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = prefix + legal(str(key))
        if isinstance(value, Mapping):
            yield from _leaves(value, name + ".")
        else:
            yield name, value


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among the values. NaN, None, booleans, text and lists are dropped."""
    return {name: float(value) for name, value in values.items() if is_number(value)}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a `*.metrics.json` under flat names. A level with a single section adds no prefix:

    {"best": {"test_error": 3.1}} -> test_error; with two architectures -> best.test_error, other.test_error
    """
    while len(metrics) == 1 and isinstance(section := next(iter(metrics.values())), Mapping):
        metrics = section
    return numbers(flat(metrics))


def epoch_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one history row without `epoch`, which is the step."""
    return {name: value for name, value in numbers(flat(row)).items() if name.rpartition(".")[2] != "epoch"}


def histories(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, metrics) of each row. If a stage trained several networks, each gets its own names:

    {"architecture": "best", "seed": 0, "epoch": 3, "train_loss": 0.5} -> 3, {"best-0.train_loss": 0.5}
    """
    networks = [f"{row['architecture']}-{row['seed']}." if "architecture" in row else "" for row in rows]
    several = len(set(networks)) > 1
    for prefix, row in zip(networks, rows, strict=True):
        values = {name: value for name, value in row.items() if name not in ("architecture", "seed")}
        yield row["epoch"], epoch_metrics({prefix * several + name: value for name, value in values.items()})
