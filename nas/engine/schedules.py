"""Values that follow the epoch. Pure functions: epoch counts from 0, `epochs` is the length of the run."""

import math


def cosine(epoch: int, epochs: int, first: float, last: float) -> float:
    """lr(e) = last + (first - last) (1 + cos(pi e / E)) / 2: epoch 0 runs at `first` (DARTS, cnn/train.py)."""
    return last + (first - last) * (1 + math.cos(math.pi * epoch / epochs)) / 2


TAIL = 5  # epochs at the end of the linear schedule
DECAY = 0.97  # from one epoch to the next of the exponential one


def linear(epoch: int, epochs: int, first: float) -> float:
    """lr(e) = first (E - 5 - e) / (E - 5), in the last five epochs first (E - e) / (5 (E - 5)) (P-DARTS and PC-DARTS,
    train_imagenet.py)."""
    left, whole = epochs - epoch, epochs - TAIL
    return first * (left - TAIL) / whole if left > TAIL else first * left / (TAIL * whole)


def exponential(epoch: int, first: float) -> float:
    """lr(e) = 0.97^e first (DARTS, cnn/train_imagenet.py)."""
    return first * DECAY**epoch


def one_cycle(epoch: int, epochs: int, warmup: int, first: float, last: float) -> float:
    """From `first`, which a warm-up has reached, in a straight line to `last` behind the last epoch (after Smith and
    Topin 2017, arXiv 1708.07120)."""
    return first + (last - first) * max(epoch - warmup, 0) / (epochs - warmup)


def warmed(epoch: int, warmup: int, first: float, planned: float) -> float:
    """first (e + 1) / warmup in the first epochs, then what is planned for the epoch (PC-DARTS, train_imagenet.py)."""
    return first * (epoch + 1) / warmup if epoch < warmup else planned


def raised(epoch: int, warmup: int, first: float, planned: float) -> float:
    """From a third of `first`, in equal parts, then what is planned for the epoch (aiaccel's 5 epochs from lr / 3; that
    the parts are equal is our reading)."""
    return first * (1 + 2 * epoch / warmup) / 3 if epoch < warmup else planned


def drop_path(epoch: int, epochs: int, largest: float) -> float:
    """p(e) = p_max e / E, so that p(0) = 0 and p_max is never quite reached (DARTS, cnn/train.py)."""
    return largest * epoch / epochs
