"""Loops, checkpoints, determinism."""
