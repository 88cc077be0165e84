"""What MLflow takes as names and numbers, and how our rows and trees become that."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
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
    """Numbers of one row of a history; the epoch is the step, and no number of its own."""
    return {name: value for name, value in numbers(flat(row)).items() if name.rpartition(".")[2] != "epoch"}


def histories(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, metrics) of each row. Where one stage trained several networks, each has its own names:

    {"architecture": "best", "seed": 0, "epoch": 3, "train_loss": 0.5} -> 3, {"best-0.train_loss": 0.5}
    """
    whose = [f"{row['architecture']}-{row['seed']}." if "architecture" in row else "" for row in rows]
    several = len(set(whose)) > 1
    for prefix, row in zip(whose, rows, strict=True):
        values = {name: value for name, value in row.items() if name not in ("architecture", "seed")}
        yield row["epoch"], epoch_metrics({prefix * several + name: value for name, value in values.items()})
