"""Channel sets as tables of bool [E, 3, C], one per cell, and back."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nas.architectures.cell_shape import DARTS_EDGES
from nas.architectures.channel_masks import Gates, Masks


def to_masks(gates: Sequence[Tensor], op: str) -> Masks:
    """Tables [E, 3, C] of bool, on the CPU, as sets."""
    cells = []
    for table in gates:
        rows = np.packbits(table.numpy(), axis=-1, bitorder="little")
        cells.append(tuple(Gates(*(int.from_bytes(row.tobytes(), "little") for row in edge)) for edge in rows))
    return Masks(op, gates[0].shape[-1], tuple(cells))


def to_gates(masks: Masks) -> list[Tensor]:
    """The inverse of `to_masks`."""
    tables = []
    for cell, width in masks.each():
        length = -(-width // 8)
        rows = np.frombuffer(b"".join(s.to_bytes(length, "little") for edge in cell for s in edge), dtype=np.uint8)
        bits = np.unpackbits(rows.reshape(len(DARTS_EDGES), 3, length), axis=-1, count=width, bitorder="little")
        tables.append(torch.from_numpy(bits.astype(bool)))
    return tables
