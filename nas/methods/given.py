"""Architectures that are given, not searched: cells in print by name, or what another run has found.

They are retrained and tested by the recipe of the moment like everything that is searched, so that their row stands
beside the others: published cells as baselines, a cell found on one data set on another, any of them at another size.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from nas.config.params import CheckedFile, MethodParams
from nas.config.sections import ParamsError, Section, as_tuple
from nas.contracts import ArchitectureLike, Space
from nas.data.dataset import Batch
from nas.engine.tasks import Tally
from nas.methods.shared.base import Derived, SearchMethod, ValidPass
from nas.records import RecordError, file_sha256, in_project, read_record


class Params(MethodParams):
    space: Literal[
        "darts", "layered", "channel", "enas", "mobile", "mobile_cifar", "nasbench201", "nasbench201_layered"
    ]
    names: Annotated[tuple[str, ...], BeforeValidator(as_tuple)]  # of the space's published architectures
    record: CheckedFile | None  # an architectures.json that `derive` wrote

    @model_validator(mode="after")
    def something_is_given(self) -> Self:
        if len(set(self.names)) != len(self.names):
            raise ValueError("'names' has a name twice")
        if bool(self.names) == (self.record is not None):
            raise ValueError("expected 'names' of published cells, or a 'record' of found ones, and not both")
        return self


class DeriveParams(Section):
    rule: Literal["all"]


class Method(SearchMethod[Params]):
    """No search: no epoch, no image."""

    def setup(self) -> None:
        space, record = self.setting.space, self.params.record
        self.given = published(self.params.names, space) if record is None else found(record, space)

    @property
    def epochs(self) -> int:
        return 0

    def step(self, train: Batch, valid: Batch) -> Tally:
        raise AssertionError("nothing is searched")

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        raise AssertionError("nothing is searched")

    def search_state(self) -> dict[str, Any]:
        return {"given": [{"name": name, "architecture": found.to_dict()} for name, found in self.given.items()]}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def macs(self) -> int:
        return 0


def published(names: tuple[str, ...], space: Space) -> dict[str, ArchitectureLike]:
    """Raises ParamsError with the names that the space knows."""
    known = space.published()
    for name in names:
        if name not in known:
            there = f"Known: {', '.join(known)}." if known else "This space has none; name a 'record'."
            raise ParamsError(f"'search.given.names': '{name}' is no published architecture of {space.name}. {there}")
    return {name: known[name] for name in names}


def found(record: CheckedFile, space: Space) -> dict[str, ArchitectureLike]:
    """All that a run found, by their names in its record.

    Raises:
        ParamsError: the file has another checksum, or holds architectures of another space.
        RecordError: there is no such file, or it is no such record.
    """
    path, key = in_project(record.path), "search.given.record"
    body = read_record(path, "architectures")
    if (sha256 := file_sha256(path)) != record.sha256:
        raise ParamsError(f"{path}: its sha256 is {sha256}, but '{key}.sha256' is {record.sha256}: another run's?")
    try:
        named = {entry["name"]: entry["architecture"] for entry in body["architectures"]}
        spaces = {value["space"] for value in named.values()}
    except (KeyError, TypeError):
        raise RecordError(
            f"{path} ('{key}'): expected 'architectures', a list of entries with a 'name' and an 'architecture', which "
            "has a 'space'; see docs/methods/given.md"
        ) from None
    if spaces != {space.name}:
        others = ", ".join(sorted(spaces))
        raise ParamsError(
            f"{path} ('{key}'): holds architectures of {others}, but 'search.given.space' is {space.name}"
        )
    return {name: space.parse(value) for name, value in named.items()}


def derive(state: dict[str, Any], params: DeriveParams, space: Space) -> list[Derived]:
    """All of them, as they are."""
    return [Derived(one["name"], space.parse(one["architecture"]), {}) for one in state["given"]]
