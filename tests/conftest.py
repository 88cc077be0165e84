"""One thread and fixed hypothesis examples, so that the tests give the same result on every machine."""

import os

# Read when torch is imported, here or in a process that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it once, in the first test on a GPU
os.environ["DVC_NO_ANALYTICS"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import torch
from hypothesis import settings

torch.set_num_threads(1)

# A deadline would measure the machine and not the code. Random examples would make a failure irreproducible.
settings.register_profile("nas", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("nas")

pytest_plugins = ["tests.jobs"]
