"""Running and training a network: device placement, CUDA graphs, losses and schedules. Independent of methods and
search spaces."""
