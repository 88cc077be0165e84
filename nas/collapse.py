"""Collapse: operations without parameters lead on most edges, so the derived network has few weights to train.

Most common in relaxed searches, where skip connections win while the other operations are still untrained: Liang et al.
2019 (DARTS+), arXiv 1909.06035; Zela et al. 2020, arXiv 1909.09656. On NAS-Bench-201, DARTS ends with skip connections
only (Dong and Yang 2020, arXiv 2001.00326).
"""

from collections.abc import Mapping
from typing import Any

PARAMETERLESS = ("none", "skip_connect", "identity", "max_pool_3x3", "avg_pool_3x3", "zero")


def leaders(row: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Cell type -> operation -> number of edges on which it leads, from the columns `ops.<cell type>.<operation>`."""
    counts: dict[str, dict[str, float]] = {}
    for name, value in row.items():
        if name.startswith("ops.") and value is not None:
            _, cell_type, operation = name.split(".", 2)
            counts.setdefault(cell_type, {})[operation] = value
    return counts


def parameterless(row: Mapping[str, Any]) -> float | None:
    """Percent of all edges on which an operation without parameters leads; None if the row has no such columns."""
    cells = leaders(row).values()
    total = sum(sum(cell.values()) for cell in cells)
    idle = sum(cell.get(operation, 0) for cell in cells for operation in PARAMETERLESS)
    return 100 * idle / total if total else None


def collapsed(row: Mapping[str, Any]) -> dict[str, str]:
    """Cell type -> description, for those in which one operation without parameters leads on over half of the edges."""
    return {
        cell_type: f"{operation} leads on {cell[operation]:g} of {sum(cell.values()):g} edges of the {cell_type} cell"
        for cell_type, cell in leaders(row).items()
        for operation in PARAMETERLESS
        if 2 * cell.get(operation, 0) > sum(cell.values())
    }
