"""From a search's record to architectures with a width."""

import pytest

from nas.architectures.genotypes import GENOTYPES
from nas.config.params import Size
from nas.config.sections import ParamsError
from nas.contracts import ImageForm
from nas.spaces.registry import get_space
from nas.training.derive import derive, width_within
from nas.training.sized import SizedArchitecture

FORM, SPACE, CELL = ImageForm(3, 224, 224, 1000), get_space("darts"), GENOTYPES["EOI_GNAS"]
SIZE = Size(cells=14, channels=48, stem="imagenet")


def test_a_network_above_the_limit_gets_the_largest_width_that_keeps_it():
    assert SPACE.count(CELL, FORM, SIZE).macs == 639_759_360
    channels = width_within(600.0, SPACE, CELL, FORM, SIZE)
    assert SPACE.count(CELL, FORM, SIZE.at(channels)).macs_m <= 600.0
    assert SPACE.count(CELL, FORM, SIZE.at(channels + 2)).macs_m > 600.0
    assert width_within(640.0, SPACE, CELL, FORM, SIZE) == 48
    assert width_within(None, SPACE, CELL, FORM, SIZE) == 48


def test_a_limit_that_no_width_keeps_is_refused():
    with pytest.raises(ParamsError, match=r"'retrain.macs_limit_m' is 0.5"):
        width_within(0.5, SPACE, CELL, FORM, SIZE)


def test_the_rule_of_the_method_is_applied_and_each_network_counted(config, search_job):
    job = search_job("darts")
    form, size = job.train.data.spec.form, config.retrain
    [(sized, count)] = derive("darts", job.method.search_state(), config.derive["darts"], job.space, form, size)
    assert (sized.name, sized.channels) == ("main", size.channels)
    assert count == job.space.count(sized.architecture, form, size)
    assert SizedArchitecture.from_dict(sized.to_dict()).to_dict() == sized.to_dict()


def test_an_entry_of_the_record_is_read_back_with_its_space():
    sized = SizedArchitecture("main", SPACE, CELL, 16, {"eps": 0.0})
    entry = sized.to_dict()
    assert entry == {
        "name": "main",
        "id": CELL.id,
        "channels": 16,
        "architecture": CELL.to_dict(),
        "notes": {"eps": 0.0},
    }
    again = SizedArchitecture.from_dict(entry)
    assert (again.space.name, again.architecture, again.channels) == ("darts", CELL, 16)
