"""Searching, deriving, retraining and evaluating; the training loop, checkpoints and determinism."""
