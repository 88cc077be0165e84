"""Spaces `darts` and `layered`: the cells of DARTS."""
