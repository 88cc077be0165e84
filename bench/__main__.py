"""python -m bench: compares the engine with the reference, prints ratios and writes bench/results/<device>.json."""

import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.kernels import kernels as count_kernels
from bench.measure import ceilings, first_steps, in_fresh_process, interleaved, peak_memory, ratios, seconds, spread
from bench.work import Step, Work, random_choices, retrain_step, search_halves, search_step
from nas.architectures.darts import PRIMITIVES
from nas.config.data import Augment
from nas.data.dataset import ImageSet, Stream
from nas.data.spec import DataSpec
from nas.engine.graphs import MIN_REPEATS
from nas.spaces.registry import get_space
from stages.trial import device_name

RESULTS = Path(__file__).parent / "results"
# The `growth` section runs the first two, four and six of these on every edge.
NESTED = ("skip_connect", "sep_conv_3x3", "max_pool_3x3", "dil_conv_3x3", "avg_pool_3x3", "sep_conv_5x5")
console = Console()
Section = Callable[["Bench"], dict[str, Any]]


class Bench:
    """The device, the engines that are measured on it, and the number of repeats."""

    def __init__(self, device: str, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        self.batch = 64 if device == "cuda" else 16
        matrix_unit = device == "cuda" or torch.cpu._is_amx_tile_supported()
        self.engines = ["reference", *(["reference-bf16"] if device == "cuda" else []), "float32"]
        self.engines += ["bf16"] if matrix_unit else []
        self.plain = self.engines[-1]  # without graphs, for work whose operations change from step to step
        self.engines += ["float32-graphs", "bf16-graphs"] if device == "cuda" else []

    @property
    def search(self) -> Work:
        """The work of a search step."""
        return Work(self.device, self.batch, channels=16, cells=8)

    def compare(self, step: Callable[[str, Work], Step], work: Work) -> dict[str, Any]:
        """Seconds of a step in every engine, and how many times faster the engine is than the reference."""
        times = interleaved(
            {name: step(name, work) for name in self.engines}, self.device, self.repeats, warmup=1 + MIN_REPEATS
        )
        engines = [name for name in self.engines if not name.startswith("reference")]
        references = [name for name in self.engines if name.startswith("reference")]
        return {
            "seconds": {name: spread(values) for name, values in times.items()},
            "ratio": {f"{fast} against {base}": ratios(times, base, fast) for base in references for fast in engines},
            "batch": work.batch,
        }


def search(bench: Bench) -> dict[str, Any]:
    """A step of first-order DARTS, C=16, 8 cells."""
    compared = bench.compare(search_step, bench.search)
    work = bench.search
    macs = get_space("darts").supernet_macs(work.form, work.size) * work.batch
    share = {}
    for engine in bench.engines:
        dtype = torch.bfloat16 if "bf16" in engine else torch.float32
        # Architecture step: forward, and backward to the inputs. Weight step: also backward to the weights.
        passes = 2 + 3
        rate = passes * macs / compared["seconds"][engine]["median"] / 1e9
        share[engine] = rate / ceilings(bench.device, dtype)["gmacs"]
    return {**compared, "share_of_product": share, "ceilings": ceilings(bench.device, torch.float32)}


def retrain(bench: Bench) -> dict[str, Any]:
    """A step of retraining DARTS_V2, C=36, 20 cells."""
    work = Work(bench.device, 96 if bench.device == "cuda" else 16, channels=36, cells=20)
    return bench.compare(retrain_step, work)


def memory(bench: Bench) -> dict[str, Any]:
    """Peak memory of a search step, C=16, 8 cells; each engine in its own process."""
    peaks = {name: in_fresh_process(peak_memory, name, bench.search) for name in bench.engines}
    return {"mib": peaks, "ratio": {name: peak / peaks["reference"] for name, peak in peaks.items()}}


def kernels(bench: Bench) -> dict[str, Any]:
    """Kernels that a search step launches on a GPU, C=16, 8 cells; counted, so the same on every machine."""
    work = Work("meta", 64, channels=16, cells=8)
    counts = {engine: count_kernels(engine, work) for engine in ("reference", "float32")}
    reference, engine = (sum(of_steps.values()) for of_steps in counts.values())
    return {"counts": counts, "ratio": reference / engine}


def hard(bench: Bench) -> dict[str, Any]:
    """Time of a weight step with a hard mix (one random operation per edge) as a share of one with a soft mix."""
    engine = bench.plain
    _, weight_step = search_halves(engine, bench.search)
    generator = torch.Generator().manual_seed(0)
    runs = {"soft": lambda: weight_step(None), "hard": lambda: weight_step(random_choices(generator))}
    times = interleaved(runs, bench.device, 2 * bench.repeats)
    return {"share": ratios(times, "hard", "soft"), "seconds": {name: spread(t) for name, t in times.items()}}


def growth(bench: Bench) -> dict[str, Any]:
    """Time of the engine's search step as one size grows; the others: C=16, 8 cells (batch: C=8, 5 cells)."""
    small = Work(bench.device, 16, channels=8, cells=5)
    tables = {
        "ops": {
            n: Work(bench.device, bench.batch, 16, 8, ops=(NESTED[:n] if n < 8 else PRIMITIVES)) for n in (2, 4, 6, 8)
        },
        "cells": {n: Work(bench.device, bench.batch, 16, n) for n in (5, 8, 14, 20)},
        "batch": {n: Work(bench.device, n, small.channels, small.cells) for n in (16, 64, 256)},
        "channels": {n: Work(bench.device, bench.batch, n, small.cells) for n in (8, 16, 36)},
    }
    growths = {}
    for name, column in tables.items():
        steps = {str(n): search_step(bench.plain, work) for n, work in column.items()}
        times = interleaved(steps, bench.device, max(2, bench.repeats // 2))
        first = next(iter(times))
        growths[name] = {n: {"growth": ratios(times, n, first)["median"], **spread(t)} for n, t in times.items()}
    return growths


def loader(bench: Bench) -> dict[str, Any]:
    """Images per second with padding, crop, flip, cutout and normalisation at 32x32, on one CPU thread or the GPU."""
    images = torch.randint(256, (4096, 32, 32, 3), dtype=torch.uint8).to(bench.device)
    numbers = torch.arange(len(images), device=bench.device)
    spec = DataSpec(
        name="bench",
        shape=(3, 32, 32),
        classes=10,
        class_names=tuple("0123456789"),
        counts={"train": len(images)},
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    augment = Augment(crop_padding=4, resized_crop=None, flip=True, color_jitter=None, cutout=16)
    stream = Stream(ImageSet(images, numbers % 10, numbers, spec), 64, augment, seed=0)

    def epoch(number: list[int] = [0]) -> None:  # noqa: B006 (counts the epochs)
        number[0] += 1
        for _ in stream.epoch(number[0]):
            pass

    times = interleaved({"epoch": epoch}, bench.device, 4 * bench.repeats)["epoch"]
    return {"images_per_s": spread([len(images) / t for t in times])}


def start(bench: Bench) -> dict[str, Any]:
    """Seconds until the first step: imports, building, and the first and second step."""
    imports = seconds(lambda: subprocess.run([sys.executable, "-c", "import nas.methods.darts"], check=True), "cpu")
    return {"imports": imports, **{name: in_fresh_process(first_steps, name, bench.search) for name in bench.engines}}


SECTIONS: dict[str, Section] = {
    section.__name__: section for section in (search, retrain, memory, kernels, hard, growth, loader, start)
}


def show(title: str, tree: dict[str, Any]) -> None:
    """Print the figures of a section as a table."""
    table = Table("figure", "value", title=title, title_justify="left")

    def rows(prefix: str, node: Any) -> None:
        if isinstance(node, dict) and set(node) == {"min", "median", "max"}:
            table.add_row(prefix, f"{node['median']:.3g}  ({node['min']:.3g} to {node['max']:.3g})")
        elif isinstance(node, dict):
            for name, child in node.items():
                rows(f"{prefix}, {name}" if prefix else name, child)
        else:
            table.add_row(prefix, f"{node:.3g}" if isinstance(node, float) else str(node))

    rows("", tree)
    console.print(table)


def table(*devices: dict[str, Any]) -> str:
    """The rows of the table in README.md, with a column per device. Takes the contents of the devices' files."""
    columns = [figures(results) for results in devices]
    return "".join(f"| {name} | {' | '.join(column[name] for column in columns)} |\n" for name in columns[0])


def figures(results: dict[str, Any]) -> dict[str, str]:
    """The column of a device in that table."""

    def times(ratio: dict[str, float]) -> str:
        return f"{ratio['median']:.1f} × ({ratio['min']:.1f} to {ratio['max']:.1f})"

    growth, images = results["growth"]["ops"]["8"]["growth"], results["loader"]["images_per_s"]["median"]
    return {
        "search step against the plain code, float32": times(results["search"]["ratio"]["float32 against reference"]),
        "retrain step (DARTS_V2, C=36, 20 cells), float32": times(
            results["retrain"]["ratio"]["float32 against reference"]
        ),
        "peak memory of a search step": f"{results['memory']['ratio']['float32']:.2f} of the plain code",
        "a step with one operation per edge": f"{results['hard']['share']['median']:.2f} of a step with all eight",
        "from two operations per edge to eight": f"{growth:.1f} × the time",
        "batches with pad, crop, flip and cutout, 32×32": f"{images:,.0f} images/s",
    }


def commit() -> str:
    """The current commit, marked if files have changed."""
    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"


def main(
    device: str = typer.Option("auto", help="cpu, cuda, or auto: cuda if available."),
    only: str = typer.Option("", help=f"Sections, separated by commas: {', '.join(SECTIONS)}. Empty: all."),
    repeats: int = typer.Option(5, min=1, help="Rounds of interleaved runs."),
) -> None:
    """Measure, print, and save the results in bench/results/."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    bench = Bench("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu", repeats)
    name = device_name(torch.device(bench.device))
    if bench.device == "cpu":
        name += f", {torch.backends.cpu.get_cpu_capability()}, 1 thread"
    path = RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    saved: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    conditions = {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "repeats": repeats,
    }
    for wanted in filter(None, only.split(",")):
        if wanted not in SECTIONS:
            raise typer.BadParameter(f"'{wanted}' is not one of {', '.join(SECTIONS)}", param_hint="--only")
    for title, section in SECTIONS.items():
        if only and title not in only.split(","):
            continue
        started = time.perf_counter()
        results = section(bench)
        console.print(f"[dim]{title}: {section.__doc__} ({time.perf_counter() - started:.0f} s)[/dim]")
        show(f"{title} ({name})", results)
        saved[title] = {**conditions, **results}
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(saved, indent=1) + "\n")
    console.print(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    typer.run(main)
