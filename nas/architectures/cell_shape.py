"""The shape of a cell and of a network of cells (DARTS, section 2.1). Imports nothing."""

STEM_MULTIPLIER = 3  # width of the CIFAR stem, in widths of the first cell
NODES = 4  # intermediate nodes of a cell, numbered 2..5 after the two inputs
# (node, predecessor) of each edge, by node, then by predecessor: the order of the rows of an alpha table
DARTS_EDGES = tuple((node, pred) for node in range(2, 2 + NODES) for pred in range(node))


def reductions(cells: int) -> tuple[int, int]:
    """Positions of the reduction cells, at one third and two thirds of the depth."""
    return cells // 3, 2 * cells // 3


def is_reduction(cell_type: str) -> bool:
    """Whether a cell type halves the map and doubles the channels, by its name."""
    return cell_type.startswith("reduce")
