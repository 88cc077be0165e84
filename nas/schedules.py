"""Values that follow the epoch. Pure functions: epoch counts from 0, `epochs` is the length of the run."""

import math


def cosine(epoch: int, epochs: int, first: float, last: float) -> float:
    """lr(e) = last + (first - last) (1 + cos(pi e / E)) / 2: epoch 0 runs at `first` (DARTS, cnn/train.py)."""
    return last + (first - last) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def drop_path(epoch: int, epochs: int, largest: float) -> float:
    """p(e) = p_max e / E, so that p(0) = 0 and p_max is never quite reached (DARTS, cnn/train.py)."""
    return largest * epoch / epochs
