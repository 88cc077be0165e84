"""Clocks and peaks. Runs are interleaved, so that a slow minute of the machine slows all that is compared."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from bench.work import Work, search_step
from nas.engine.graphs import MIN_REPEATS

Times = dict[str, list[float]]


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: str) -> float:
    synchronise(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - started


def interleaved(runs: Mapping[str, Callable[[], object]], device: str, repeats: int, warmup: int = 1) -> Times:
    """Seconds of every run, `repeats` rounds of all of them in turn, after `warmup` rounds."""
    times: Times = {name: [] for name in runs}
    for turn in range(warmup + repeats):
        for name, run in runs.items():
            spent = seconds(run, device)
            if turn >= warmup:
                times[name].append(spent)
    return times


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def ratios(times: Times, slow: str, fast: str) -> dict[str, float]:
    """How many times faster `fast` is, round by round."""
    return spread([a / b for a, b in zip(times[slow], times[fast], strict=True)])


def ceilings(device: str, dtype: torch.dtype) -> dict[str, float]:
    """What the machine can do at best here: multiply-adds of a large product, bytes of a large copy; 1e9 per second."""
    side, length = (8192, 2**28) if device == "cuda" else (1536, 2**25)
    a = torch.randn(side, side, device=device, dtype=dtype)
    source = torch.empty(length, device=device)
    target = torch.empty_like(source)
    product = interleaved({"product": lambda: a @ a, "copy": lambda: target.copy_(source)}, device, 5)
    return {
        "gmacs": side**3 / min(product["product"]) / 1e9,
        "copy_gb": 8 * length / min(product["copy"]) / 1e9,
    }


def alone(run: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `run` in a fresh process."""
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        return pool.submit(run, *arguments).result()


def peak_memory(engine: str, work: Work) -> float:
    """MiB that a search step takes beyond what was there before it; in a process of its own."""
    step = search_step(engine, work)
    gc.collect()
    if work.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2 + MIN_REPEATS):  # graphs are recorded on the way
            step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = status("VmRSS")
    step()
    return (status("VmHWM") - before) / 2**10


def status(field: str) -> int:
    """KiB of this process, from Linux."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0])


def first_steps(engine: str, work: Work) -> dict[str, float]:
    """Seconds to build a search, to its first step and to its second; in a process of its own."""
    started = time.perf_counter()
    step = search_step(engine, work)
    built = time.perf_counter() - started
    return {"build": built, "first": seconds(step, work.device), "second": seconds(step, work.device)}
