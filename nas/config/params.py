"""params.yaml as frozen, validated models. No key has a default here: what the file says is the whole truth.

Sections of one method live in the method's own module; `load_config` is handed them, so that this room knows none.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from nas.config.data import Augment, Data
from nas.config.sections import ParamsError as ParamsError
from nas.config.sections import Section as Section
from nas.config.sections import as_tuple as as_tuple
from nas.config.sections import did_you_mean, unknown
from nas.config.sections import validate as validate
from nas.config.yaml_file import read_yaml

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Runtime(Section):
    device: Literal["cpu", "cuda"]
    threads: int = Field(ge=1, le=256)
    precision: Literal["float32", "bf16"]
    deterministic: bool
    graphs: bool

    @model_validator(mode="after")
    def graphs_are_of_cuda(self) -> Self:
        if self.graphs and self.device != "cuda":
            raise ValueError(f"'graphs' is true, but 'device' is {self.device}: CUDA graphs need cuda, expected false")
        return self


class Size(Section):
    """Depth and width of a network built from cells."""

    cells: int = Field(ge=3, le=100)  # fewer leave no room for the two reductions
    channels: int = Field(ge=2, le=1024, multiple_of=2)  # FactorizedReduce halves it
    stem: Literal["cifar", "imagenet"]

    def at(self, channels: int) -> Self:
        """The same with another width."""
        return self.model_copy(update={"channels": channels})


class WeightOptimiser(Section):
    lr: float = Field(gt=0)
    lr_min: float = Field(ge=0)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    clip: float = Field(gt=0)

    @model_validator(mode="after")
    def lr_falls(self) -> Self:
        if self.lr_min > self.lr:
            raise ValueError(f"'lr_min' is {self.lr_min}: expected at most the {self.lr} of 'lr'")
        return self


class SearchCommon(Size, WeightOptimiser):
    epochs: int = Field(ge=1)
    batch: int = Field(ge=2)
    lr_warmup_epochs: int = Field(ge=0)
    augment: Augment

    @model_validator(mode="after")
    def lr_is_reached(self) -> Self:
        if self.lr_warmup_epochs >= self.epochs:
            raise ValueError(
                f"'lr_warmup_epochs' is {self.lr_warmup_epochs}: expected less than the {self.epochs} epochs"
            )
        return self


class MethodParams(Section):
    """The section of a method in `search`. `accepts` and `check` are called by nas.project.parse."""

    space: str  # a name of nas.registry.SPACES

    needs: ClassVar[str] = "a space"  # what `accepts` asks for, for the message that refuses a space

    @classmethod
    def accepts(cls, space: Any) -> bool:
        """Whether the method can search this space (a nas.contracts.Space), by its contract; any space by default."""
        return True

    def check(self, common: SearchCommon, space: Any) -> None:
        """Raises ValueError if the section does not go with `search.common` or with the facts of its space."""


class Retrain(Size, WeightOptimiser):
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(as_tuple)]  # none: no retraining, a table judges alone
    epochs: int = Field(ge=1)
    batch: int = Field(ge=2)
    schedule: Literal["cosine", "linear", "exponential", "one_cycle"]
    warmup_epochs: int = Field(ge=0)
    label_smoothing: float = Field(ge=0, lt=1)
    auxiliary_weight: float = Field(ge=0)
    drop_path: float = Field(ge=0, lt=1)
    ema: float = Field(ge=0, lt=1)
    macs_limit_m: float | None = Field(gt=0)
    best_of_last: int = Field(ge=1)
    augment: Augment

    @model_validator(mode="after")
    def schedule_fits(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"'warmup_epochs' is {self.warmup_epochs}: expected less than the {self.epochs} epochs")
        if self.best_of_last > self.epochs:
            raise ValueError(f"'best_of_last' is {self.best_of_last}: expected at most the {self.epochs} epochs")
        if self.schedule == "linear" and self.epochs <= 5:
            raise ValueError(f"'epochs' is {self.epochs}: schedule linear has a tail of 5, expected more")
        if self.schedule in ("linear", "exponential") and self.lr_min:
            raise ValueError(f"'lr_min' is {self.lr_min}: schedule {self.schedule} has no least lr, expected 0.0")
        return self


class CheckedFile(Section):
    """A file that no stage of this run makes, and the checksum that it must have."""

    path: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class TableFile(CheckedFile):
    """One of true figures (nas/benchmark_table.py)."""


class Evaluate(Section):
    batch: int = Field(ge=1)
    table: TableFile | None


class Config(Section):
    """The whole of params.yaml. `search` and `derive` hold one section per method beside the common one."""

    methods: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = Field(min_length=1)
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(as_tuple)] = Field(min_length=1)
    runtime: Runtime
    data: Data
    search: dict[str, Any]
    derive: dict[str, Any]
    retrain: Retrain
    evaluate: Evaluate

    @field_validator("methods", "seeds")
    @classmethod
    def no_repetition(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            raise ValueError("a value stands twice")
        return values

    @model_validator(mode="after")
    def something_judges(self) -> Self:
        if not self.retrain.seeds and self.evaluate.table is None:
            raise ValueError(
                "'retrain.seeds' is empty and 'evaluate.table' is null, so nothing would judge what is found: give "
                "a retrain seed, or a table"
            )
        return self

    @property
    def common(self) -> SearchCommon:
        section: SearchCommon = self.search["common"]
        return section

    def runs(self) -> list[tuple[str, str, int]]:
        """(run key, method, seed) of every expected trial, in the order of the table."""
        return [(run_key(method, seed), method, seed) for method in self.methods for seed in self.seeds]


def run_key(method: str, seed: int) -> str:
    return f"{method}-{seed}"


def parse_run_key(key: str) -> tuple[str, int]:
    """`lfr_darts-3` -> ("lfr_darts", 3)."""
    method, _, seed = key.rpartition("-")
    if not method or not seed.isdecimal():
        raise ParamsError(f"'{key}' is not a run key: expected <method>-<seed>, for instance darts-0")
    return method, int(seed)


def load_config(path: Path, search: Mapping[str, type[Section]], derive: Mapping[str, type[Section]]) -> Config:
    """params.yaml as one frozen model; `search` and `derive` give the sections of each known method.

    Raises:
        ParamsError: a line per wrong key, with its value and what is allowed.
    """
    return parse_config(read_yaml(path), search, derive, str(path))


def parse_config(
    tree: Mapping[str, Any],
    search: Mapping[str, type[Section]],
    derive: Mapping[str, type[Section]],
    source: str = "params.yaml",
) -> Config:
    config = validate(Config, tree, "", source)
    sections: dict[str, dict[str, type[Section]]] = {
        "search": {"common": SearchCommon, **search},
        "derive": dict(derive),
    }
    parsed = {
        name: {key: _section(known, key, value, name, source) for key, value in getattr(config, name).items()}
        for name, known in sections.items()
    }
    expected: dict[str, tuple[str, ...]] = {"search": ("common", *config.methods), "derive": config.methods}
    for name, wanted in expected.items():
        for key in wanted:
            if key not in sections[name]:
                raise ParamsError(
                    f"{source}: 'methods' names '{key}', which is no method. Known: {', '.join(search)}."
                    f"{did_you_mean(key, list(search))}"
                )
            if key not in parsed[name]:
                raise ParamsError(f"{source}: section '{name}.{key}' is missing.")
    return config.model_copy(update=parsed)


def _section(known: Mapping[str, type[Section]], key: str, value: Any, parent: str, source: str) -> Section:
    if key not in known:
        raise ParamsError(unknown(f"{parent}.{key}", list(known), source))
    return validate(known[key], value, f"{parent}.{key}", source)
