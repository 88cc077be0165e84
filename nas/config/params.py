"""The models of params.yaml, and the functions that load and validate it.

No key has a default in the code: the file states every value. A method's own sections are defined in the method's
module and passed to `parse_config`, so this package does not depend on any method.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from nas.config.data import Augment, Data
from nas.config.sections import ParamsError, Section, as_tuple, did_you_mean, unknown, validate

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Runtime(Section):
    device: Literal["cpu", "cuda"]
    threads: int = Field(ge=1, le=256)
    precision: Literal["float32", "bf16"]
    deterministic: bool
    graphs: bool

    @model_validator(mode="after")
    def graphs_need_cuda(self) -> Self:
        if self.graphs and self.device != "cuda":
            raise ValueError(
                f"'graphs' is true, but 'device' is {self.device}: expected false, because CUDA graphs need device cuda"
            )
        return self


class Size(Section):
    """Depth and width of a network built from cells."""

    cells: int = Field(ge=3, le=100)  # at least 3: two of them are reduction cells
    channels: int = Field(ge=2, le=1024, multiple_of=2)  # even, because FactorizedReduce halves it
    stem: Literal["cifar", "imagenet"]

    def at(self, channels: int) -> Self:
        """A copy with another width."""
        return self.model_copy(update={"channels": channels})


class WeightOptimiser(Section):
    lr: float = Field(gt=0)
    lr_min: float = Field(ge=0)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    clip: float = Field(gt=0)

    @model_validator(mode="after")
    def lr_min_is_at_most_lr(self) -> Self:
        if self.lr_min > self.lr:
            raise ValueError(f"'lr_min' is {self.lr_min}: expected at most 'lr', {self.lr}")
        return self


class SearchCommon(Size, WeightOptimiser):
    epochs: int = Field(ge=1)
    batch: int = Field(ge=2)
    lr_warmup_epochs: int = Field(ge=0)
    augment: Augment

    @model_validator(mode="after")
    def warmup_ends_before_the_search(self) -> Self:
        if self.lr_warmup_epochs >= self.epochs:
            raise ValueError(
                f"'lr_warmup_epochs' is {self.lr_warmup_epochs}: expected less than 'epochs', {self.epochs}"
            )
        return self


class MethodParams(Section):
    """The section of a method in `search`. nas.project.parse calls `accepts`, `check_space` and `check`."""

    space: str  # a name of nas.registry.SPACES

    needs: ClassVar[str] = "a space"  # what `accepts` asks for, for the message that refuses a space

    @classmethod
    def accepts(cls, space: Any) -> bool:
        """Whether the method can search this space (a nas.contracts.Space), by its contract; any space by default."""
        return True

    def check_space(self, space: Any) -> None:
        """Raises ValueError if a value does not go with the space. Called for every section, like `accepts`."""

    def check(self, common: SearchCommon) -> None:
        """Raises ValueError if a value does not go with `search.common`. Called for the methods in `methods`."""


class Retrain(Size, WeightOptimiser):
    # Empty: nothing is retrained, and the benchmark table alone gives the results.
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(as_tuple)]
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
    def epochs_suit_the_schedule(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"'warmup_epochs' is {self.warmup_epochs}: expected less than 'epochs', {self.epochs}")
        if self.best_of_last > self.epochs:
            raise ValueError(f"'best_of_last' is {self.best_of_last}: expected at most 'epochs', {self.epochs}")
        if self.schedule == "linear" and self.epochs <= 5:
            raise ValueError(
                f"'epochs' is {self.epochs}: expected more than 5, the length of the last phase of schedule linear"
            )
        if self.schedule in ("linear", "exponential") and self.lr_min:
            raise ValueError(
                f"'lr_min' is {self.lr_min}: expected 0.0, because schedule {self.schedule} does not use it"
            )
        return self


class CheckedFile(Section):
    """A file that this pipeline does not produce, with the checksum that it must have."""

    path: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class TableFile(CheckedFile):
    """A benchmark table: the results of full trainings (nas/benchmark_table.py)."""


class Evaluate(Section):
    batch: int = Field(ge=1)
    table: TableFile | None


class Config(Section):
    """The contents of params.yaml.

    `search` and `derive` hold one section per method; `search` also holds the section `common`.
    """

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
    def values_are_distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            raise ValueError("expected distinct values, found a value more than once")
        return values

    @model_validator(mode="after")
    def architectures_are_evaluated(self) -> Self:
        if not self.retrain.seeds and self.evaluate.table is None:
            raise ValueError(
                "'retrain.seeds' is [] and 'evaluate.table' is null, so the derived architectures would not be "
                "evaluated: expected at least one retrain seed, or a benchmark table"
            )
        return self

    @property
    def common(self) -> SearchCommon:
        """The section `search.common`."""
        section: SearchCommon = self.search["common"]
        return section

    def runs(self) -> list[tuple[str, str, int]]:
        """(run key, method, seed) of every trial, in the order of the results table."""
        return [(run_key(method, seed), method, seed) for method in self.methods for seed in self.seeds]


def run_key(method: str, seed: int) -> str:
    """The key of a trial: `<method>-<seed>`."""
    return f"{method}-{seed}"


def parse_run_key(key: str) -> tuple[str, int]:
    """Method and seed of a run key: `lfr_darts-3` -> ("lfr_darts", 3). Raises ParamsError."""
    method, _, seed = key.rpartition("-")
    if not method or not seed.isdecimal():
        raise ParamsError(f"'{key}' is not a run key: expected <method>-<seed>, for instance darts-0")
    return method, int(seed)


def parse_config(
    tree: Mapping[str, Any],
    search: Mapping[str, type[Section]],
    derive: Mapping[str, type[Section]],
    source: str = "params.yaml",
) -> Config:
    """The contents of params.yaml, validated.

    Args:
        tree: The mapping in the file.
        search: The class of each known method's section in `search`.
        derive: The class of each known method's section in `derive`.
        source: The name of the file in error messages.

    Raises:
        ParamsError: One line per invalid key, with its value and what is allowed.
    """
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
                    f"{source}: 'methods' contains '{key}', which is not a known method."
                    f"{did_you_mean(key, list(search))} Known: {', '.join(search)}."
                )
            if key not in parsed[name]:
                raise ParamsError(f"{source}: section '{name}.{key}' is missing.")
    return config.model_copy(update=parsed)


def _section(known: Mapping[str, type[Section]], key: str, value: Any, parent: str, source: str) -> Section:
    if key not in known:
        raise ParamsError(unknown(f"{parent}.{key}", list(known), source))
    return validate(known[key], value, f"{parent}.{key}", source)
