"""Spaces `nasbench201` and `nasbench201_layered`: the cells of NAS-Bench-201."""
