"""What the derive stage decides by itself: how wide a found network is."""

import pytest

from nas.architectures.genotypes import GENOTYPES
from nas.config.params import Size
from nas.config.sections import ParamsError
from nas.contracts import ImageForm
from nas.spaces.registry import get_space
from stages.derive import within

FORM, SPACE, CELL = ImageForm(3, 224, 224, 1000), get_space("darts"), GENOTYPES["EOI_GNAS"]
SIZE = Size(cells=14, channels=48, stem="imagenet")


def test_a_network_above_the_limit_gets_as_many_channels_fewer_as_it_must():
    assert SPACE.count(CELL, FORM, SIZE).macs == 639_759_360
    channels = within(600.0, SPACE, CELL, FORM, SIZE)
    assert SPACE.count(CELL, FORM, SIZE.at(channels)).macs_m <= 600.0
    assert SPACE.count(CELL, FORM, SIZE.at(channels + 2)).macs_m > 600.0
    assert within(640.0, SPACE, CELL, FORM, SIZE) == 48
    assert within(None, SPACE, CELL, FORM, SIZE) == 48


def test_a_limit_that_no_width_keeps_is_refused():
    with pytest.raises(ParamsError, match=r"'retrain.macs_limit_m' is 0.5"):
        within(0.5, SPACE, CELL, FORM, SIZE)
