"""One thread, and the same few examples each time: the suite says the same on every machine."""

import os

# Read when torch is loaded, here or in a process that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS asks once, in whichever test is the first on a GPU
os.environ["DVC_NO_ANALYTICS"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import torch
from hypothesis import settings

torch.set_num_threads(1)

# A deadline measures the machine, not the code; drawn examples would make a failure come and go.
settings.register_profile("nas", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("nas")

pytest_plugins = ["tests.jobs"]
