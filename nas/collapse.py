"""Collapse: operations without parameters lead, and the network that is found has little to learn with.

Seen in relaxed searches above all, whose skip connections win while the other operations are still untrained: Liang et
al. 2019 (DARTS+), arXiv 1909.06035; Zela et al. 2020, arXiv 1909.09656. On NAS-Bench-201 DARTS ends in skip connections
alone (Dong and Yang 2020, arXiv 2001.00326).
"""

from collections.abc import Mapping
from typing import Any

PARAMETERLESS = ("none", "skip_connect", "identity", "max_pool_3x3", "avg_pool_3x3", "zero")


def leaders(row: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Cell type -> operation -> on how many edges it leads, from the columns `ops.<cell type>.<operation>`."""
    found: dict[str, dict[str, float]] = {}
    for name, value in row.items():
        if name.startswith("ops.") and value is not None:
            _, kind, operation = name.split(".", 2)
            found.setdefault(kind, {})[operation] = value
    return found


def parameterless(row: Mapping[str, Any]) -> float | None:
    """On how many of all edges an operation without parameters leads, percent; None where the row does not say."""
    cells = leaders(row).values()
    total = sum(sum(cell.values()) for cell in cells)
    idle = sum(cell.get(operation, 0) for cell in cells for operation in PARAMETERLESS)
    return 100 * idle / total if total else None


def collapsed(row: Mapping[str, Any]) -> dict[str, str]:
    """Cell types in which one operation without parameters leads on more than half of the edges, with a sentence."""
    return {
        kind: f"{operation} leads on {cell[operation]:g} of {sum(cell.values()):g} edges of the {kind} cell"
        for kind, cell in leaders(row).items()
        for operation in PARAMETERLESS
        if 2 * cell.get(operation, 0) > sum(cell.values())
    }
