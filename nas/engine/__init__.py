"""How a network runs and learns: placement, CUDA graphs, tasks and schedules. Knows no method and no space."""
