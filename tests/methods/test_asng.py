"""ASNG-NAS, and several of it with one weight of the complexity each."""

import pytest
import torch

from nas.methods import method_module
from nas.spaces.registry import get_space
from tests.methods.settings import STEPS, advance, build
from tests.methods.test_methods import assert_equal, saved

EPS = [0.0, 0.3]


def test_one_eps_is_one_search_and_its_architecture_the_main_one():
    method = build("asng", epochs=1)
    advance(method, 0, STEPS)
    asng = method_module("asng")
    (found,) = asng.derive(method.search_state(), asng.DeriveParams(rule="mode", controls=()), get_space("enas"))
    assert found.name == "main"
    assert found.notes["eps"] == 0.0


def test_a_search_for_every_eps_after_the_other_each_with_a_supernet_of_its_own():
    several = build("asng", method={"eps": EPS})
    assert several.epochs == 4
    rows = advance(several, 0, 2 * STEPS)
    first = several.inner
    rows += advance(several, 2 * STEPS, 4 * STEPS)
    assert several.inner is not first
    assert [row["search"] for row in rows] == [0, 0, 1, 1]
    alone = build("asng", method={"eps": EPS[:1]})
    own = advance(alone, 0, 2 * STEPS)
    assert own == [{key: value for key, value in row.items() if key != "search"} for row in rows[:2]]
    tables = [search["tables"][0] for search in several.search_state()["searches"]]
    assert tables[0] == alone.search_state()["tables"][0]
    assert tables[0] != tables[1]


def test_several_searches_count_all_that_they_ran():
    several, alone = build("asng", method={"eps": EPS}, epochs=1), build("asng", epochs=1)
    advance(several, 0, 2 * STEPS)
    advance(alone, 0, STEPS)
    assert several.passes == {kind: 2 * count for kind, count in alone.passes.items()}
    assert several.macs() > several.inner.macs() > 0  # the first search and the second


def test_several_searches_give_one_architecture_each():
    several = build("asng", method={"eps": EPS}, epochs=1)
    advance(several, 0, 2 * STEPS)
    asng = method_module("asng")
    params = asng.DeriveParams(rule="mode", controls=("random_matched",))
    found = asng.derive(several.search_state(), params, get_space("enas"))
    names = ["eps=0", "eps=0.3", "eps=0-random_matched", "eps=0.3-random_matched"]
    assert [one.name for one in found] == names
    assert [one.notes["m"] for one in found] == [0, 1, 0, 1]


@pytest.mark.parametrize("at", [1, 2, 3])  # in the first search, between the two, in the second
def test_several_searches_go_on_to_the_same_bits(at):
    undisturbed = build("asng", method={"eps": EPS}, epochs=1)
    rows = advance(undisturbed, 0, at)
    kept, generator = saved(undisturbed.state_dict()), torch.get_rng_state()
    rows += advance(undisturbed, at, 2 * STEPS)
    elsewhere = build("asng", seed=9, method={"eps": EPS}, epochs=1)
    elsewhere.load_state_dict(kept)
    torch.set_rng_state(generator)
    last = advance(elsewhere, at, 2 * STEPS)
    assert_equal(last, rows[len(rows) - len(last) :])
    assert_equal(elsewhere.state_dict(), undisturbed.state_dict())
    assert_equal(elsewhere.search_state(), undisturbed.search_state())


def test_a_larger_eps_makes_the_expected_complexity_fall_faster():
    """Losses apart: both draw the same samples at the first step, and the penalty alone differs."""
    found = {}
    for eps in (0.0, 10.0):
        method = build("asng", method={"eps": [eps]}, epochs=1)
        advance(method, 0, 1)
        (distribution,) = method.distributions
        found[eps] = (distribution.table * method.costs).sum().item()
    assert found[10.0] < found[0.0]
