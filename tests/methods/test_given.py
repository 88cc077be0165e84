"""Method `given`: what it takes, what it refuses, and that nothing is searched."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nas.architectures.genotypes import GENOTYPES
from nas.architectures.nasbench201 import NasBench201Architecture
from nas.config.sections import ParamsError
from nas.methods import method_module, sections
from nas.records import RecordError, canonical, file_sha256, write_record
from nas.registry import SPACES
from nas.spaces.registry import get_space
from tests.methods.settings import PRESET, PRESET_DERIVE, build

PAGE = (Path(__file__).parents[2] / "docs/methods/given.md").read_text()
CELL = NasBench201Architecture(operations=("nor_conv_3x3", "none", "skip_connect") * 2)


def derived(method):
    params = sections()[1]["given"].model_validate(PRESET_DERIVE["given"])
    state = json.loads(canonical(method.search_state()))  # as a record, in which keys are sorted
    return {one.name: one.architecture for one in method_module("given").derive(state, params, method.setting.space)}


def kept(folder, *architectures):
    """The record of a run that found these, as a section names it."""
    entries = [
        {"name": f"found {at}", "id": one.id, "channels": 8, "architecture": one.to_dict(), "notes": {}}
        for at, one in enumerate(architectures)
    ]
    path = folder / "architectures.json"
    write_record(path, "architectures", {"key": "darts-0", "architectures": entries})
    return {"path": str(path), "sha256": file_sha256(path)}


def test_published_cells_come_by_name_and_cost_no_search():
    method = build("given", method={"names": ["PDARTS", "DARTS_V1"]})
    assert (method.epochs, method.macs(), set(method.passes.values())) == (0, 0, {0})
    assert list(derived(method).items()) == [(name, GENOTYPES[name]) for name in ("PDARTS", "DARTS_V1")]


def test_a_name_that_the_space_has_not_is_answered_with_those_it_has():
    with pytest.raises(
        ParamsError, match=r"'DARTS_V3' is not a published architecture of darts. Known: DARTS_V1, DARTS_V2"
    ):
        build("given", method={"names": ["DARTS_V3"]})
    with pytest.raises(ParamsError, match=r"of nasbench201. This space has none; name a 'record'"):
        build("given", method={"names": ["DARTS_V1"], "space": "nasbench201"})


def test_what_another_run_found_is_taken_from_its_record(tmp_path):
    other = CELL.model_copy(update={"operations": CELL.operations[::-1]})
    section = {"names": [], "space": "nasbench201", "record": kept(tmp_path, CELL, other)}
    assert derived(build("given", method=section)) == {"found 0": CELL, "found 1": other}


def test_another_record_is_refused(tmp_path):
    record = kept(tmp_path, CELL)
    section = {"names": [], "space": "nasbench201", "record": record}
    with pytest.raises(ParamsError, match=r"'search\.given\.record\.sha256' is 0{64}"):
        build("given", method=section | {"record": record | {"sha256": "0" * 64}})
    with pytest.raises(ParamsError, match=r"holds architectures of nasbench201, but 'search\.given\.space' is darts"):
        build("given", method=section | {"space": "darts"})
    with pytest.raises(RecordError, match=r"none\.json"):
        build("given", method=section | {"record": record | {"path": str(tmp_path / "none.json")}})


@pytest.mark.parametrize(
    "entry",
    [{"name": "mine"}, {"architecture": CELL.to_dict()}, {"name": "mine", "architecture": {"operations": []}}, "mine"],
)
def test_a_record_by_hand_that_lacks_something_is_answered_with_what_it_needs(tmp_path, entry):
    path = tmp_path / "architectures.json"
    write_record(path, "architectures", {"architectures": [entry]})
    record = {"path": str(path), "sha256": file_sha256(path)}
    with pytest.raises(RecordError, match="expected 'architectures', a list of entries with a 'name'"):
        build("given", method={"names": [], "space": "nasbench201", "record": record})


@pytest.mark.parametrize(("at", "space"), [(0, "darts"), (1, "nasbench201")])
def test_the_records_that_the_page_shows_are_taken(tmp_path, at, space):
    path = tmp_path / "mine.json"
    path.write_text(PAGE.split("```json\n")[1 + at].partition("```")[0])
    section = {"names": [], "space": space, "record": {"path": str(path), "sha256": file_sha256(path)}}
    assert list(derived(build("given", method=section))) == ["mine"]


def test_a_record_is_looked_for_in_the_project_also_from_a_copy_of_it(tmp_path, monkeypatch):
    record = kept(tmp_path, CELL)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    section = {"names": [], "space": "nasbench201", "record": record | {"path": "architectures.json"}}
    assert derived(build("given", method=section)) == {"found 0": CELL}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": []}, "expected either"),
        ({"record": {"path": "a.json", "sha256": "0" * 64}}, "expected either"),
        ({"names": ["DARTS_V1", "DARTS_V1"]}, "a name twice"),
    ],
)
def test_something_is_given_once(changes, message):
    with pytest.raises(ValidationError, match=message):
        sections()[0]["given"].model_validate(PRESET["given"] | changes)


def test_every_space_can_be_given():
    model: Any = sections()[0]["given"]
    assert all(model.accepts(get_space(name)) for name in SPACES)
