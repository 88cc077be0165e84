"""What the methods do in NAS-Bench-201 that they do nowhere else: `none` may stay, and the incumbent is known."""

import importlib
from typing import Any

import pytest
import torch

from nas.architectures.nasbench201 import OPERATIONS
from nas.config.sections import ParamsError
from nas.methods import method_module, sections
from nas.methods.darts import DeriveParams, derive
from nas.project import parse
from nas.spaces.registry import get_space
from tests.methods.settings import PRESET, PRESET_DERIVE, STEPS, TREE, advance, build

SPACE: Any = get_space("nasbench201")
NONE, SKIP, ONE, THREE, POOL = range(5)
eoinas = importlib.import_module("nas.methods.eoinas")
TABLED = {"space": "nasbench201"}


def alphas(*leaders):
    """A table whose largest entry on each edge is the given one, `none` being second everywhere."""
    table = torch.zeros(6, 5)
    table[:, NONE] = 1.0
    for e, op in enumerate(leaders):
        table[e, op] = 2.0
    return {"alphas": {"cell": table.tolist()}}


def test_darts_finds_none_where_it_is_strongest_as_the_benchmark_does():
    state = alphas(THREE, NONE, SKIP, POOL, NONE, ONE)
    found: Any = derive(state, DeriveParams(rule="top2", max_skips=None), SPACE)[0]
    assert found.architecture.operations == tuple(OPERATIONS[op] for op in (THREE, NONE, SKIP, POOL, NONE, ONE))


def test_darts_without_none_takes_the_strongest_of_the_others():
    state = alphas(THREE, NONE, SKIP, POOL, NONE, ONE)
    state["alphas"]["cell"][1][POOL] = 0.5
    found: Any = derive(state, DeriveParams(rule="top2_without_none", max_skips=None), SPACE)[0]
    assert found.architecture.operations == tuple(OPERATIONS[op] for op in (THREE, POOL, SKIP, POOL, SKIP, ONE))


def test_ties_go_to_the_first_operation():
    found: Any = derive({"alphas": {"cell": [[0.0] * 5] * 6}}, DeriveParams(rule="top2", max_skips=None), SPACE)[0]
    assert found.architecture.operations == ("none",) * 6


def test_eoinas_lets_none_stay_where_the_space_does():
    table, alive = torch.tensor([[0.9, 0.0, 0.1, 0.0, 0.0]]), torch.tensor([[True, False, True, False, False]])
    assert eoinas.slim(table, alive) == [NONE]
    assert eoinas.slim(table, alive, none_stays=True) == [ONE]


def test_eoinas_has_four_slimming_points_and_keeps_none_that_leads_to_the_end():
    method = build("eoinas", method={**TABLED, "indicator": "alpha"}, epochs=1)
    assert method.epochs == PRESET["eoinas"]["warmup"] + 4 * PRESET["eoinas"]["prune_every"]
    with torch.no_grad():
        method.alphas["cell"].copy_(torch.tensor(alphas(NONE, NONE, NONE, THREE, SKIP, POOL)["alphas"]["cell"]))
        method.alphas["cell"][:3, NONE] = 9.0
    advance(method, 0, method.epochs * STEPS)
    found = eoinas.derive(method.search_state(), eoinas.DeriveParams(rule="indicator"), SPACE)[0]
    assert found.architecture.operations[:3] == ("none",) * 3
    assert len(method.slimming) == 4
    assert int(method.alive["cell"].sum()) == 6


@pytest.mark.parametrize("name", ["random", "darts", "gdas", "eoinas", "asng", "is_nas"])
def test_the_last_incumbent_is_what_derive_finds(name):
    method = build(name, method={**TABLED, **({"samples": 2} if name == "random" else {})}, epochs=1)
    if name == "random":
        assert method.incumbent() == {}, "no candidate has been judged"
    advance(method, 0, method.epochs * STEPS)
    module, model = method_module(name), sections()[1][name]
    derived = module.derive(method.search_state(), model.model_validate(PRESET_DERIVE[name]), SPACE)
    assert method.incumbent() == {found.name: found.architecture for found in derived}


@pytest.mark.parametrize("name", ["asng", "is_nas"])
def test_a_warm_up_of_weights_knows_no_incumbent(name):
    method = build(name, method={"space": "nasbench201", "warmup_epochs": 1}, epochs=2)
    advance(method, 0, STEPS)
    assert method.incumbent() == {}
    advance(method, STEPS, 2 * STEPS)
    assert list(method.incumbent()) == method.labels


def test_the_incumbent_of_best_of_k_is_that_of_the_search_and_then_of_the_contest():
    method = build("eoinas", method={**TABLED, "protocol": "best_of_k", "k": 2, "k_epochs": 1}, epochs=1)
    advance(method, 0, method.search_epochs * STEPS)
    first = method.inner.incumbent()
    assert method.incumbent() == first
    advance(method, method.search_epochs * STEPS, method.epochs * STEPS)
    derived = eoinas.derive(method.search_state(), eoinas.DeriveParams(rule="indicator"), SPACE)
    assert method.incumbent() == {"main": derived[0].architecture}


@pytest.mark.parametrize(
    ("name", "space", "message"),
    [
        (
            "tenas",
            "nasbench201",
            "tenas needs a space of channels, as TENAS prunes channels and chooses no operations: channel.",
        ),
        (
            "lfr_darts",
            "nasbench201",
            "lfr_darts needs a space whose stages have cell types of their own: layered, nasbench",
        ),
        (
            "darts",
            "nasbench201_layered",
            "darts needs a space of operations on edges, with the same cell types at every",
        ),
        ("gdas", "layered", "at every depth: darts, nasbench201."),
        ("random", "enas", "needs a space of operations on edges: darts, layered, nasbench201, nasbench201_layered."),
        ("asng", "layered", "needs a space of categorical variables: darts, enas, nasbench201, mobile, mobile_cifar."),
    ],
)
def test_a_method_refuses_a_space_that_it_cannot_search_and_lists_those_that_it_can(name, space, message):
    with pytest.raises(ParamsError) as caught:
        parse({**TREE, "search": {**PRESET, name: {**PRESET[name], "space": space}}})
    assert f"'search.{name}.space' is '{space}', but " in str(caught.value)
    assert message in str(caught.value)


def test_an_unknown_space_is_answered_with_the_known_ones():
    with pytest.raises(ParamsError, match=r"is 'dart', which is not a space\. Did you mean 'darts'"):
        parse({**TREE, "search": {**PRESET, "darts": {**PRESET["darts"], "space": "dart"}}})


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("lfr_darts", {"groups": [["normal_1"]]}, "'groups' must name each of normal_1, reduce_1"),
        ("is_nas", {"mixture_epochs": 1, "warmup_epochs": 1}, "'mixture_epochs' is 1, but the supernet of space enas"),
    ],
)
def test_a_section_that_does_not_suit_its_space_is_refused_even_if_its_method_is_not_used(name, values, message):
    tree = {**TREE, "methods": ["random"], "search": {**PRESET, name: {**PRESET[name], **values}}}
    with pytest.raises(ParamsError, match=message):
        parse(tree)
