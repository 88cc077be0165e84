"""How fast the engine is, measured: python -m bench. Ratios of interleaved runs; no test asserts a time."""
