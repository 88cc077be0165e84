import json
import re

import pytest

from nas.records import RecordError, read_json, write_json
from nas.report.collect import WRITTEN_BY, collect


def change(path, edit):
    record = read_json(path)
    edit(record)
    write_json(path, record)


def refusal(disk):
    with pytest.raises(RecordError) as caught:
        collect(*disk.where()[:3])
    return str(caught.value)


def test_trials_come_in_the_order_of_the_given_runs(disk):
    study = collect(disk.runs[::-1], disk.folder, disk.spec)
    assert [trial.key for trial in study.trials] == ["is_nas-1", "is_nas-0", "random-1", "random-0"]
    assert study.images == 400


@pytest.mark.parametrize("name", sorted(WRITTEN_BY))
def test_a_missing_record_names_the_file_and_the_stage(disk, name):
    path = disk.folder / "is_nas-1" / name
    path.unlink()
    assert refusal(disk) == f"{path}: no such record. Run `dvc repro {WRITTEN_BY[name]}@is_nas-1`"


@pytest.mark.parametrize("name", sorted(WRITTEN_BY))
def test_a_broken_record_names_the_file_and_the_stage(disk, name):
    path = disk.folder / "random-0" / name
    path.write_text("{")
    message = refusal(disk)
    assert message.startswith(f"{path}: ")
    assert f"dvc repro {WRITTEN_BY[name]}@random-0`" in message


def test_a_missing_data_record_asks_for_prepare(disk):
    disk.spec.unlink()
    assert refusal(disk).endswith("Run `dvc repro prepare`")


def test_a_missing_figure_is_named(disk):
    change(disk.folder / "random-0" / "evaluate.json", lambda record: record["results"][1].pop("test_loss"))
    assert "results.1.test_loss: field required" in refusal(disk)


def test_the_record_of_another_trial_is_refused(disk):
    change(disk.folder / "random-0" / "evaluate.json", lambda record: record.update(seed=1))
    assert re.search(r"belongs to \('random-0', 'random', 1\), expected \('random-0', 'random', 0\)", refusal(disk))


def test_an_evaluation_older_than_the_search_is_refused(disk):
    change(disk.folder / "random-0" / "evaluate.json", lambda record: record["results"][0].update(id="0" * 12))
    assert "evaluate.json: architecture random (000000000000) is tested but not derived" in refusal(disk)


def test_an_architecture_that_cannot_be_drawn_is_refused(disk):
    def spoil(record):
        record["architectures"][0]["architecture"]["normal"][0][0] = "none"

    change(disk.folder / "random-0" / "architectures.json", spoil)
    message = refusal(disk)
    assert "architectures.json: random: " in message
    assert "derive@random-0" in message


def test_trials_tested_on_different_images_do_not_share_a_table(disk):
    change(disk.folder / "is_nas-0" / "evaluate.json", lambda record: record.update(images=300))
    assert "300 test images, random-0 has 400" in refusal(disk)


def test_the_folder_of_a_removed_seed_is_not_looked_at(disk):
    leftover = disk.folder / "random-7"
    leftover.mkdir()
    (leftover / "evaluate.json").write_text(json.dumps({"schema": 99}))
    assert len(collect(*disk.where()[:3]).trials) == 4
