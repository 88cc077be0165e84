"""From categorical distributions to architectures, with controls of matched size."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor

from nas.config.sections import Section, as_tuple
from nas.contracts import CategoricalSpace, Space
from nas.methods.shared import distributions as ds
from nas.methods.shared.base import Derived

MATCHED = 100  # draws among which a random architecture of matched size is chosen


class SampledDeriveParams(Section):
    rule: Literal["mode"]
    controls: Annotated[tuple[Literal["random_matched"], ...], BeforeValidator(as_tuple)]


def padded(rows: Sequence[Sequence[float]]) -> Tensor:
    """Rows of different lengths as a table, padded with zeros."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows], dtype=torch.float64)


def trimmed(table: Tensor, counts: Sequence[int]) -> list[list[float]]:
    return [row[:count] for row, count in zip(table.tolist(), counts, strict=True)]


def split(choices: Sequence[int], names: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, list[int]]:
    """The choices of all variables by cell type."""
    by_type, start = {}, 0
    for cell_type, rows in names.items():
        by_type[cell_type] = list(choices[start : start + len(rows)])
        start += len(rows)
    return by_type


def derive(states: Sequence[Mapping[str, Any]], params: SampledDeriveParams, space: Space) -> list[Derived]:
    """One architecture per distribution of every search: its likeliest category of each variable (ASNG's rule; ties:
    the lowest). The control `random_matched` adds a random architecture of about the same size for each, as a baseline.

    Equal architectures are all kept; `equal_to` names the first of them.
    """
    assert isinstance(space, CategoricalSpace)
    modes: list[Derived] = []
    controls: list[Derived] = []
    for state in states:
        costs, generator = padded(state["costs"]), torch.Generator().manual_seed(state["seed"])
        columns = (state[key] for key in ("labels", "eps", "tables", "found"))
        for label, eps, rows, figures in zip(*columns, strict=True):
            choices = ds.mode(padded(rows))
            modes.append(composed(label, choices, {"m": len(modes), "eps": eps, **figures}, costs, space))
            for control in params.controls:
                drawn = matched(costs, [len(row) for row in rows], choices, generator)
                notes = {"m": len(modes) - 1, "eps": eps, "control": control}
                controls.append(composed(f"{label}-{control}", drawn, notes, costs, space))
    return marked([*modes, *controls])


def composed(
    name: str, choices: Sequence[int], notes: Mapping[str, Any], costs: Tensor, space: CategoricalSpace
) -> Derived:
    architecture = space.choose(split(choices, space.categories()))
    return Derived(name, architecture, {**notes, "complexity": int(complexity(choices, costs)), "choices": choices})


def marked(derived: Sequence[Derived]) -> list[Derived]:
    """Add the note `equal_to`: the name of the first one with the same architecture, None if it is the first."""
    first: dict[str, str] = {}
    for one in derived:
        first.setdefault(one.architecture.id, one.name)
    names = [first[one.architecture.id] for one in derived]
    return [
        replace(one, notes={**one.notes, "equal_to": None if name == one.name else name})
        for one, name in zip(derived, names, strict=True)
    ]


def complexity(choices: Sequence[int], costs: Tensor) -> float:
    return ds.complexities(torch.tensor([choices]), costs).item()


def matched(costs: Tensor, counts: Sequence[int], choices: Sequence[int], generator: torch.Generator) -> list[int]:
    """Random choices of about the same complexity as these: the closest of a hundred draws from the distribution of
    largest entropy among those with this expected complexity (ours)."""
    target = complexity(choices, costs)
    table = tilted(costs, counts, target)
    steps = table.cumsum(1)
    uniform = torch.rand(MATCHED, len(table), 1, generator=generator, dtype=torch.float64)
    drawn = (uniform * steps[:, -1:] >= steps).sum(-1)
    gaps = (ds.complexities(drawn, costs) - target).abs().tolist()
    return drawn[gaps.index(min(gaps))].tolist()


def tilted(costs: Tensor, counts: Sequence[int], target: float) -> Tensor:
    """The table [D, K] of p ~ exp(-t c), with t such that the expected complexity is the target (by bisection)."""
    scale = costs.max().item() or 1.0

    def table(t: float) -> Tensor:
        return (-t * costs / scale).masked_fill(~ds.used(counts), -torch.inf).softmax(1)

    low, high = -50.0, 50.0  # e^50: only the most expensive, only the cheapest
    for _ in range(60):
        middle = (low + high) / 2
        if (table(middle) * costs).sum() > target:
            low = middle
        else:
            high = middle
    return table((low + high) / 2)
