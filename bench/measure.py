"""Times and peak memory. Runs are interleaved, so that a slow phase of the machine affects all of them alike."""

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
    """Wall time of one call, including the work that it queues on the device."""
    synchronise(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - started


def interleaved(runs: Mapping[str, Callable[[], object]], device: str, repeats: int, warmup: int = 1) -> Times:
    """Seconds of each run in each of `repeats` rounds, after `warmup` rounds. A round calls every run once, in turn."""
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
    """Spread, over the rounds, of the time of `slow` divided by the time of `fast`."""
    return spread([a / b for a, b in zip(times[slow], times[fast], strict=True)])


def ceilings(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Measured peak rates: 1e9 multiply-adds per second of a large matrix product, GB per second of a large copy."""
    side, length = (8192, 2**28) if device == "cuda" else (1536, 2**25)
    a = torch.randn(side, side, device=device, dtype=dtype)
    source = torch.empty(length, device=device)
    target = torch.empty_like(source)
    times = interleaved({"product": lambda: a @ a, "copy": lambda: target.copy_(source)}, device, 5)
    return {
        "gmacs": side**3 / min(times["product"]) / 1e9,
        "copy_gb": 8 * length / min(times["copy"]) / 1e9,
    }


def in_fresh_process(run: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `run`, called in a new process with one CPU thread."""
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        return pool.submit(run, *arguments).result()


def peak_memory(engine: str, work: Work) -> float:
    """Peak memory of a search step above the memory in use before it, in MiB. Call it in a fresh process."""
    step = search_step(engine, work)
    gc.collect()
    if work.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2 + MIN_REPEATS):  # enough steps to record the graphs
            step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = status("VmRSS")
    step()
    return (status("VmHWM") - before) / 2**10


def status(field: str) -> int:
    """A memory field of this process in KiB, from /proc/self/status (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0])


def first_steps(engine: str, work: Work) -> dict[str, float]:
    """Seconds to build a search, of its first step and of its second. Call it in a fresh process."""
    started = time.perf_counter()
    step = search_step(engine, work)
    built = time.perf_counter() - started
    return {"build": built, "first": seconds(step, work.device), "second": seconds(step, work.device)}
