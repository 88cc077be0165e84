"""Tests of every space in SPACES, including new ones."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from nas.architectures.base import Architecture
from nas.config.params import Size
from nas.contracts import CategoricalSpace, EdgeSpace, HardMix, ImageForm, SoftMix
from nas.contracts.gates import GateMix, GateSpace
from nas.registry import SPACES
from nas.spaces.channel.space import SMALLEST
from nas.spaces.registry import get_space, register_space

FORM, SIZE = ImageForm(1, 8, 8, 3), Size(cells=5, channels=2, stem="cifar")
SIZES = {  # of the spaces that have one depth
    "channel": SMALLEST,
    "mobile": Size(cells=21, channels=2, stem="imagenet"),
    "mobile_cifar": Size(cells=16, channels=2, stem="cifar"),
}
IMAGES, LABELS = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])

EDGE_SPACES = [name for name in SPACES if isinstance(get_space(name), EdgeSpace)]
GATE_SPACES = [name for name in SPACES if isinstance(get_space(name), GateSpace)]


def test_every_space_is_of_edges_of_gates_or_of_categories():
    categorical = [name for name in SPACES if isinstance(get_space(name), CategoricalSpace)]
    assert {*EDGE_SPACES, *GATE_SPACES, *categorical} == {*SPACES}


def train_a_step(network, logits_of):
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    before = [p.detach().clone() for p in network.parameters()]
    logits = logits_of()
    assert logits.shape == (4, FORM.classes)
    cross_entropy(logits, LABELS).backward()
    optimiser.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(p.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", EDGE_SPACES)
def test_every_space_of_edges_trains_a_step_of_its_supernet_by_soft_and_hard_mixes(name):
    space: Any = get_space(name)
    tables = {
        cell_type: torch.full((len(v), len(v[0])), 1 / len(v[0])).requires_grad_()
        for cell_type, v in space.variables().items()
    }
    network = space.supernet(FORM, SIZE)
    train_a_step(network, lambda: network(IMAGES, SoftMix(tables)))
    assert all(table.grad is not None and table.grad.abs().sum() > 0 for table in tables.values())
    choices = {cell_type: [len(v[0]) - 1] * len(v) for cell_type, v in space.variables().items()}
    train_a_step(network, lambda: network(IMAGES, HardMix(choices)))


@pytest.mark.parametrize("name", GATE_SPACES)
def test_every_space_of_gates_trains_a_step_of_its_supernet_by_a_gate_mix(name):
    space: Any = get_space(name)
    network, gates = space.supernet(FORM, SIZE), space.every_gate(SIZE)
    tables = [table.float().requires_grad_() for table in gates]
    train_a_step(network, lambda: network(IMAGES, GateMix(tables)))
    assert all(table.grad is not None and table.grad.abs().sum() > 0 for table in tables)
    assert all(map(torch.equal, space.closed(gates), gates))
    compact, masked = space.sizes(gates, FORM, SIZE)
    assert compact == masked
    assert compact.macs == space.supernet_macs(FORM, SIZE)
    assert [cost.shape for cost in space.costs(gates, FORM, SIZE)] == [table.shape for table in gates]
    assert space.statistics(space.architecture(gates, "gated"))


@pytest.mark.parametrize("name", ["enas", "mobile"])
def test_a_space_of_categories_takes_no_soft_mix(name):
    network = get_space(name).supernet(FORM, SIZES.get(name, SIZE))
    with pytest.raises(TypeError, match="takes a HardMix, not a SoftMix"):
        network(IMAGES, SoftMix({}))


@pytest.mark.parametrize("name", SPACES)
def test_every_space_draws_architectures_that_come_back_count_and_train_a_step(name):
    space: Any = get_space(name)
    drawn = space.random(torch.Generator().manual_seed(0))
    again = space.parse(drawn.to_dict())
    assert again == Architecture.from_dict(drawn.to_dict()) == drawn
    assert (again.id, drawn.to_dict()["space"], space.name) == (drawn.id, name, name)
    size = SIZES.get(name, SIZE)
    network = space.network(again, FORM, size, auxiliary=False)
    found = space.count(again, FORM, size)
    assert found.params == sum(p.numel() for p in network.parameters())
    assert 0 < found.macs < space.supernet_macs(FORM, size)
    train_a_step(network, lambda: network(IMAGES)[0])


@pytest.mark.parametrize("name", EDGE_SPACES)
def test_every_space_of_edges_assembles_an_architecture_from_scored_edges(name):
    space: Any = get_space(name)
    edges = {
        cell_type: [(len(v[0]) - 1, 1.0 / (1 + e)) for e in range(len(v))] for cell_type, v in space.variables().items()
    }
    assert Architecture.from_dict(space.assemble(edges).to_dict()).id == space.assemble(edges).id


CATEGORICAL = [space for space in map(get_space, SPACES) if isinstance(space, CategoricalSpace)]
EACH = pytest.mark.parametrize("space", CATEGORICAL, ids=lambda space: space.name)


def drawn(space, seed):
    """A choice of one category per variable."""
    generator = torch.Generator().manual_seed(seed)
    return {
        cell_type: [int(torch.randint(len(names), (), generator=generator)) for names in v]
        for cell_type, v in space.categories().items()
    }


@EACH
@pytest.mark.parametrize("seed", range(3))
def test_every_categorical_space_makes_an_architecture_of_every_choice_and_runs_it_in_the_supernet(space, seed):
    choices = drawn(space, seed)
    chosen = space.choose(choices)
    assert space.parse(chosen.to_dict()) == chosen
    size = SIZES.get(space.name, SIZE)
    network = space.supernet(FORM, size)
    train_a_step(network, lambda: network(IMAGES, space.path(choices)))
    assert space.path_macs(FORM, size, choices) == CategoricalSpace.path_macs(space, FORM, size, choices)


@EACH
def test_every_categorical_space_has_a_cost_per_category(space):
    for affine in (False, True):
        costs = space.costs(FORM, SIZES.get(space.name, SIZE), affine)
        assert {cell_type: [len(row) for row in rows] for cell_type, rows in costs.items()} == {
            cell_type: [len(names) for names in v] for cell_type, v in space.categories().items()
        }
        assert min(min(row) for rows in costs.values() for row in rows) == 0
        assert max(max(row) for rows in costs.values() for row in rows) > 0


def test_a_name_can_be_taken_only_once():
    with pytest.raises(ValueError, match="'darts' is already registered"):
        register_space("darts")(type(get_space("darts")))


def test_an_unknown_space_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match=f"space 'dart' is not built in; built in: {', '.join(SPACES)}"):
        get_space("dart")
