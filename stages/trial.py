"""What the stages of a trial share: parameters, folder, device, checkpoints and the MLflow run."""

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.config.params import Config, parse_run_key
from nas.config.sections import ParamsError
from nas.project import RUNS, load
from nas.records import write_json
from nas.tracking import Tracker
from stages.lineage import checkpoints

if TYPE_CHECKING:
    import torch

    from nas.training.checkpoint import Checkpoint, Stop


@dataclass(frozen=True)
class Trial:
    """One running stage of one trial."""

    verb: str
    key: str
    method: str
    seed: int
    config: Config
    device: "torch.device"
    tracker: Tracker
    stop: "Stop"
    cache: Path

    @property
    def folder(self) -> Path:
        return RUNS / self.key

    @property
    def head(self) -> dict[str, Any]:
        """The fields that every record of the trial starts with."""
        return {"key": self.key, "method": self.method, "seed": self.seed}

    def checkpoint(self, job: str) -> "Checkpoint":
        from nas.training.checkpoint import Checkpoint

        return Checkpoint(self.cache / f"{job}.pt", self.stop)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        write_json(self.folder / f"{self.verb}.metrics.json", metrics)
        self.tracker.log_metrics(metrics)

    def write_cost(self, seconds: float, images: int, resumed: int) -> None:
        """Write seconds, rate and machine: the only file of a stage that differs between runs."""
        import torch

        cost = {
            "seconds": round(seconds, 3),
            "images_per_s": round(images / max(seconds, 1e-9), 1),
            "peak_memory_mb": round(peak_memory_mb(self.device), 1),
            "device": device_name(self.device),
            "threads": self.config.runtime.threads,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "resumed": resumed,
        }
        write_json(self.folder / f"{self.verb}.cost.json", cost)
        self.tracker.log_cost(cost)


@contextmanager
def trial(verb: str, key: str) -> Iterator[Trial]:
    """Validate params.yaml and set up everything that a stage of a trial needs.

    Raises:
        ParamsError: params.yaml is invalid or does not ask for this trial.
    """
    with Tracker.start() as tracker:  # before torch is imported, so that MLflow is imported at the same time
        config = load()
        method, seed = parse_run_key(key)
        if (key, method, seed) not in config.runs():
            expected = ", ".join(run for run, _, _ in config.runs())
            raise ParamsError(f"--run {key}: not a trial of params.yaml, which asks for {expected}")

        from nas.training.checkpoint import workplace
        from nas.training.determinism import prepare_device

        device = prepare_device(config.runtime)
        if verb in ("search", "retrain"):
            from nas.engine.placement import describe

            print(describe(config.runtime, device), flush=True)
        cache = checkpoints(verb, key, method, seed)
        with workplace(cache) as stop:
            tracker.begin(verb, key, params_of(config, method), {}, cache.name, Path())
            yield Trial(verb, key, method, seed, config, device, tracker, stop, cache)


def params_of(config: Config, method: str) -> dict[str, Any]:
    """The sections of params.yaml that a trial depends on, as plain values."""
    return {
        "search": {"common": config.common.model_dump(), method: config.search[method].model_dump(by_alias=True)},
        "derive": {method: config.derive[method].model_dump(by_alias=True)},
        **config.model_dump(include={"runtime", "data", "retrain", "evaluate"}),
    }


def device_name(device: "torch.device") -> str:
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def peak_memory_mb(device: "torch.device") -> float:
    """Peak memory in MiB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if os.uname().sysname == "Darwin" else 2**10)
