"""Given architectures: published cells by name, or the architectures of another run. Nothing is searched.

They are retrained and tested by the same recipe as the architectures of a search, so that their rows are comparable:
published cells as baselines, a cell derived on one data set and used on another, any of them at another size.
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
    names: Annotated[tuple[str, ...], BeforeValidator(as_tuple)]  # of the space's published architectures
    record: CheckedFile | None  # an architectures.json written by `derive`

    @model_validator(mode="after")
    def something_is_given(self) -> Self:
        if len(set(self.names)) != len(self.names):
            raise ValueError("'names' has a name twice")
        if bool(self.names) == (self.record is not None):
            raise ValueError("expected either 'names' of published cells or a 'record' of derived ones")
        return self


class DeriveParams(Section):
    rule: Literal["all"]


class Method(SearchMethod[Params]):
    """No search: no epoch, no image."""

    def setup(self) -> None:
        space, record = self.setting.space, self.params.record
        self.given = published(self.params.names, space) if record is None else recorded(record, space)

    @property
    def epochs(self) -> int:
        return 0

    def step(self, train: Batch, valid: Batch) -> Tally:
        raise AssertionError("nothing is searched")

    def end_epoch(self, valid_pass: ValidPass) -> dict[str, Any]:
        raise AssertionError("nothing is searched")

    def search_state(self) -> dict[str, Any]:
        return {"given": [{"name": name, "architecture": a.to_dict()} for name, a in self.given.items()]}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def macs(self) -> int:
        return 0


def published(names: tuple[str, ...], space: Space) -> dict[str, ArchitectureLike]:
    """Raises ParamsError, which lists the known names, if a name is unknown."""
    known = space.published()
    for name in names:
        if name not in known:
            hint = f"Known: {', '.join(known)}." if known else "This space has none; name a 'record'."
            raise ParamsError(f"'search.given.names': '{name}' is not a published architecture of {space.name}. {hint}")
    return {name: known[name] for name in names}


def recorded(record: CheckedFile, space: Space) -> dict[str, ArchitectureLike]:
    """All architectures of a record, by name.

    Raises:
        ParamsError: the file has another checksum, or holds architectures of another space.
        RecordError: the file does not exist, or is not a record of architectures.
    """
    path, key = in_project(record.path), "search.given.record"
    body = read_record(path, "architectures")
    if (sha256 := file_sha256(path)) != record.sha256:
        raise ParamsError(
            f"{path}: its sha256 is {sha256}, but '{key}.sha256' is {record.sha256}: is it the record of another run?"
        )
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
    """All given architectures, unchanged."""
    return [Derived(one["name"], space.parse(one["architecture"]), {}) for one in state["given"]]
