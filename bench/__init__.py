"""Benchmarks of the engine: python -m bench. They report ratios of interleaved runs; no test asserts a time."""
