"""`nas table`: convert the file of NAS-Bench-201 or NATS-Bench to the CSV that `evaluate.table` reads.

nas table NAS-Bench-201-v1_1-096897.pth nasbench201.csv.gz
nas table NATS-tss-v1_0-3ffb9.pickle.pbz2 nasbench201.csv.gz

The structure of the file is that of the benchmark's API (D-X-Y/NATS-Bench, api_utils.py, api_topology.py). The command
has not been tried on the real files, of 2 GB and more. Only containers, texts and numbers are unpickled.
"""

import bz2
import csv
import gzip
import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from nas.benchmark_table import ACCURACIES, NAME, TableError, parse_table
from nas.project import clear_errors
from nas.records import file_sha256, replacing

SOURCES = {  # column -> the training and the images that the network is measured on, after 200 epochs
    "cifar10_valid_acc": ("cifar10-valid", "x-valid"),  # trained on 25,000 images
    "cifar10_test_acc": ("cifar10", "ori-test"),  # trained on 50,000
    "cifar100_valid_acc": ("cifar100", "x-valid"),
    "cifar100_test_acc": ("cifar100", "x-test"),
    "imagenet16_valid_acc": ("ImageNet16-120", "x-valid"),
    "imagenet16_test_acc": ("ImageNet16-120", "x-test"),
}
LONG = ("full", "200")  # what the two APIs call the schedule of 200 epochs


@clear_errors
def convert(
    source: Annotated[Path, typer.Argument(help="The benchmark's file: .pth or .pickle.pbz2.")],
    out: Annotated[Path, typer.Argument(help="The CSV to write: .csv or .csv.gz.")],
) -> None:
    """Convert a NAS-Bench-201 file to a benchmark table.

    Reads the file of NAS-Bench-201 or NATS-Bench, writes the CSV that `evaluate.table` reads, and prints the lines for
    params.yaml. Takes minutes, and the whole file must fit into memory.
    """
    text = as_csv(rows(load(source)))
    parse_table(text, str(source))  # before anything is written
    with replacing(out) as new:
        content = text.encode("utf-8")
        new.write_bytes(gzip.compress(content, mtime=0) if out.suffix == ".gz" else content)
    typer.echo(f"evaluate:\n  table:\n    path: {out}\n    sha256: {file_sha256(out)}")


# --- Reading an untrusted file


def load(path: Path) -> Mapping[str, Any]:
    """The benchmark in a file. Raises TableError if it is not one, or if it is not safe to unpickle."""
    if not path.is_file():
        raise TableError(f"{path}: no such file; docs/nasbench201.md explains where to get the benchmark")
    try:
        benchmark = _load_torch(path) if path.suffix == ".pth" else _load_packed(path)
    except (pickle.UnpicklingError, OSError, EOFError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise TableError(f"{path}: cannot be read, or only by running code in it: {reason}") from None
    wanted = ("meta_archs", "arch2infos")
    if not isinstance(benchmark, Mapping) or any(name not in benchmark for name in wanted):
        raise TableError(f"{path}: expected a mapping with {' and '.join(wanted)}, as the benchmark's API reads it")
    return benchmark


def numpy_number_types() -> dict[tuple[str, str], Any]:
    """(module, name) of what unpickles a numpy number. Files from before numpy 2 have an older name for `scalar`."""
    import numpy as np
    from numpy._core.multiarray import scalar

    return {
        ("numpy", "dtype"): np.dtype,
        ("numpy._core.multiarray", "scalar"): scalar,
        ("numpy.core.multiarray", "scalar"): scalar,
    }


def _load_torch(path: Path) -> Any:
    import numpy as np
    import torch

    named = [(made, f"{module}.{name}") for (module, name), made in numpy_number_types().items()]
    allowed: list[Any] = [*named, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


class _Unpickler(pickle.Unpickler):
    """Unpickles containers, texts and numbers; refuses anything else by name."""

    def find_class(self, module: str, name: str) -> Any:
        from collections import OrderedDict, defaultdict

        plain: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("collections", "defaultdict"): defaultdict,
            **{("builtins", builtin.__name__): builtin for builtin in (set, dict, list, tuple, int, float)},
        }
        allowed = plain | numpy_number_types()
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return allowed[module, name]


def _load_packed(path: Path) -> Any:
    with bz2.open(path) as file:
        return _Unpickler(file).load()


# --- The table


def rows(benchmark: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row per architecture, in the benchmark's order: accuracies in percent, means over the seeds, 200 epochs."""
    for index, text in enumerate(benchmark["meta_archs"]):
        schedules = benchmark["arch2infos"].get(index, {})
        results = next((schedules[name] for name in LONG if name in schedules), None)
        if results is None:
            raise TableError(f"architecture {index} ({text}) has no results of 200 epochs ({' or '.join(LONG)})")
        figures = {column: accuracy(results, *source, index) for column, source in SOURCES.items()}
        yield {"index": index, NAME: text, **figures}


def accuracy(results: Mapping[str, Any], training: str, images: str, index: int) -> str:
    """The accuracy after the last epoch, averaged over the seeds of a training."""
    try:
        trials = [results["all_results"][training, seed] for seed in results["dataset_seed"][training]]
        values = [float(trial["eval_acc1es"][f"{images}@{trial['epochs'] - 1}"]) for trial in trials]
        return f"{fmean(values):.4f}"
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(f"architecture {index}: no accuracy of {training} on {images} ({error!r})") from None


def as_csv(table: Iterator[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["index", NAME, *ACCURACIES], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return stream.getvalue()
