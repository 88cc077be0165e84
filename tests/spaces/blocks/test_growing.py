"""The cost of a supernet as a sum over its operations, against counting it."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.config.params import Size
from nas.contracts import EdgeSpace, Growth, ImageForm
from nas.registry import SPACES
from nas.spaces.blocks.growing import GrowingSpace, operation_macs
from nas.spaces.registry import get_space

GROWING: list[Any] = [space for space in map(get_space, SPACES) if isinstance(space, GrowingSpace)]
EACH = pytest.mark.parametrize("space", GROWING, ids=lambda space: space.name)
FORMS = ImageForm(1, 8, 8, 10), ImageForm(3, 9, 6, 2)
SIZES = Size(cells=5, channels=2, stem="cifar"), Size(cells=8, channels=4, stem="cifar")


def counted(space, form, size, alive=None, growth=None):
    """The cost by building and counting the whole supernet."""
    return EdgeSpace.supernet_macs(space, form, size, alive, growth)


def edges(names):
    """For each edge some of its operations, possibly none."""
    return st.tuples(*(st.lists(st.sampled_from(range(len(row))), unique=True) for row in names))


@st.composite
def growths(draw, space):
    """No growth, or a row of cells of which some types are discrete; one of them has a drawn cell."""
    if space.name == "nasbench201" or draw(st.booleans()):
        return None
    rows = space.variables()
    row = tuple(name for name in rows for _ in range(draw(st.integers(1, 2))))
    discrete = draw(st.sets(st.sampled_from(list(rows))))
    ops = {
        name: [(draw(st.integers(1, len(names) - 1)), draw(st.floats(0, 1))) for names in rows[name]]
        for name in discrete
    }
    return Growth(row, {name: space.discretise(ops[name]) for name in discrete})


@EACH
@settings(max_examples=6, deadline=None)
@given(data=st.data(), form=st.sampled_from(FORMS), size=st.sampled_from(SIZES))
def test_the_sum_over_alive_operations_equals_the_counted_supernet(space, data, form, size):
    alive = data.draw(st.none() | st.fixed_dictionaries({k: edges(names) for k, names in space.variables().items()}))
    growth = data.draw(growths(space))
    assert space.supernet_macs(form, size, alive, growth) == counted(space, form, size, alive, growth)


@pytest.mark.parametrize("name", ["darts", "layered"])
def test_the_sum_holds_for_the_stem_of_imagenet(name):
    space: Any = get_space(name)
    form, size = ImageForm(3, 65, 97, 5), Size(cells=6, channels=4, stem="imagenet")
    alive = {cell_type: [[e % 8, 3] for e in range(len(names))] for cell_type, names in space.variables().items()}
    for alive_or_all in (None, alive):
        assert space.supernet_macs(form, size, alive_or_all) == counted(space, form, size, alive_or_all)


@EACH
def test_a_supernet_is_counted_once_for_all_patterns_of_alive_operations(space):
    form, size = ImageForm(3, 7, 7, 3), SIZES[0]
    before = operation_macs.cache_info().misses
    alive = {cell_type: [[1]] * len(names) for cell_type, names in space.variables().items()}
    for alive_or_all in (None, alive, None):
        get_space(space.name).supernet_macs(form, size, alive_or_all)  # type: ignore[call-arg]
    assert operation_macs.cache_info().misses == before + 1


@EACH
def test_a_cost_draws_no_random_numbers(space):
    state = torch.get_rng_state()
    space.supernet_macs(ImageForm(3, 6, 6, 3), SIZES[0])
    assert torch.equal(torch.get_rng_state(), state)
