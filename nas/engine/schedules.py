"""Schedules: values that depend on the epoch.

Pure functions. `epoch` counts from 0, `epochs` is the number of epochs of the run, E below.
"""

import math


def cosine(epoch: int, epochs: int, first: float, last: float) -> float:
    """lr(e) = last + (first - last) (1 + cos(pi e / E)) / 2, so epoch 0 runs at `first` (DARTS, cnn/train.py)."""
    return last + (first - last) * (1 + math.cos(math.pi * epoch / epochs)) / 2


TAIL = 5  # epochs of the last, slower phase of the linear schedule
DECAY = 0.97  # factor per epoch of the exponential schedule


def linear(epoch: int, epochs: int, first: float) -> float:
    """lr(e) = first (E - 5 - e) / (E - 5); in the last five epochs first (E - e) / (5 (E - 5)).

    Source: P-DARTS and PC-DARTS, train_imagenet.py.
    """
    left, whole = epochs - epoch, epochs - TAIL
    return first * (left - TAIL) / whole if left > TAIL else first * left / (TAIL * whole)


def exponential(epoch: int, first: float) -> float:
    """lr(e) = 0.97^e first (DARTS, cnn/train_imagenet.py)."""
    return first * DECAY**epoch


def one_cycle(epoch: int, epochs: int, warmup: int, first: float, last: float) -> float:
    """Falls linearly from `first`, the value at the end of the warm-up, and would reach `last` at epoch E.

    After Smith and Topin 2017, arXiv 1708.07120.
    """
    return first + (last - first) * max(epoch - warmup, 0) / (epochs - warmup)


def warmup_from_zero(epoch: int, warmup: int, peak: float, scheduled: float) -> float:
    """peak (e + 1) / warmup during the warm-up, then the scheduled value of the epoch (PC-DARTS, train_imagenet.py)."""
    return peak * (epoch + 1) / warmup if epoch < warmup else scheduled


def warmup_from_third(epoch: int, warmup: int, peak: float, scheduled: float) -> float:
    """Rises in equal steps from peak / 3 during the warm-up, then the scheduled value of the epoch.

    Source: aiaccel, 5 epochs from lr / 3. That the steps are equal is our reading.
    """
    return peak * (1 + 2 * epoch / warmup) / 3 if epoch < warmup else scheduled


def drop_path(epoch: int, epochs: int, largest: float) -> float:
    """p(e) = p_max e / E: p(0) = 0, and p stays below p_max (DARTS, cnn/train.py)."""
    return largest * epoch / epochs
