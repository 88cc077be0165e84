"""GDAS: samples and their gradient, the temperature, what runs and what it costs, the rule of the cell."""

from typing import Any

import pytest
import torch

from nas.architectures.darts import PRIMITIVES
from nas.contracts import HardMix
from nas.methods.gdas import DeriveParams, derive
from nas.spaces.registry import get_space
from tests.methods.settings import STEPS, TABLED, advance, batch, build, valid_pass

SPACE: Any = get_space("darts")


def searching(epoch=0, **changes):
    method = build("gdas", epochs=5, **changes)
    method.start_epoch(epoch)
    return method


def test_a_pass_runs_one_operation_per_edge_with_a_weight_of_exactly_one():
    mix = searching().mix()
    for cell_type, weights in mix.weights.items():
        assert [len(ops) for ops in mix.alive[cell_type]] == [1] * 14
        chosen = torch.tensor(mix.alive[cell_type]).squeeze(1)
        assert torch.equal(weights, torch.nn.functional.one_hot(chosen, 8).float())


def test_operations_are_sampled_with_the_probabilities_of_softmax_alpha():
    method = searching(epoch=4)
    with torch.no_grad():
        method.alphas["normal"].copy_(torch.tensor([2.0, 1, 0, 0, 0, 0, 0, -1]).expand(14, 8))
    counts = torch.zeros(8)
    with torch.no_grad():
        for _ in range(200):
            counts += method.mix().weights["normal"].sum(0)
    expected = method.alphas["normal"][0].detach().softmax(-1)
    assert (counts / 2800 - expected).abs().max() < 0.04


def test_the_gradient_of_a_sample_is_that_of_its_softmax():
    method = searching()
    torch.manual_seed(7)
    mix = method.mix()
    chosen = torch.tensor(mix.alive["normal"])
    factors = torch.randn(14, 1)
    (straight,) = torch.autograd.grad(
        (mix.weights["normal"].gather(1, chosen) * factors).sum(), method.alphas["normal"]
    )
    torch.manual_seed(7)
    gumbel = -torch.empty(14, 8).exponential_().log()
    soft = ((method.alphas["normal"] + gumbel) / method.tau).softmax(-1)
    (expected,) = torch.autograd.grad((soft.gather(1, chosen) * factors).sum(), method.alphas["normal"])
    torch.testing.assert_close(straight, expected)
    assert (straight != 0).all(), "all operations of an edge learn from the one that ran"


def test_only_the_sampled_operations_learn_weights():
    method = searching()
    advance(method, 0, 0)
    with torch.no_grad():
        mix = method.mix()
    method.weight_step(batch(0), mix)
    ran = {
        (cell_type, e, op)
        for cell, cell_type in zip(method.supernet.cells, method.supernet.cell_types, strict=True)
        for e, edge in enumerate(cell.edges)
        for op, module in enumerate(edge.ops)
        if any(parameter.grad is not None for parameter in module.parameters())
    }
    assert ran
    assert all([op] == mix.alive[cell_type][e] for cell_type, e, op in ran)


def test_the_temperature_falls_linearly_from_the_first_to_the_last_epoch():
    assert [searching(epoch).tau for epoch in range(5)] == pytest.approx([10.0, 7.525, 5.05, 2.575, 0.1])
    one = build("gdas", epochs=1)
    one.start_epoch(0)
    assert one.tau == 10.0


def test_weights_learn_before_alphas_and_both_halves_are_counted():
    method = searching()
    order = []
    method.trainer.optimiser.register_step_post_hook(lambda *_: order.append("weights"))
    method.architect.optimiser.register_step_post_hook(lambda *_: order.append("alphas"))
    method.step(batch(0), batch(1, count=3))
    assert order == ["weights", "alphas"]
    assert method.passes == {"train_images": 4, "valid_images": 3}
    full = method.space.supernet_macs(method.setting.form, method.setting.common)
    assert 0 < method.macs() < 3 * 7 * full, "only what ran is counted"


def test_a_loss_that_no_alpha_reaches_moves_alphas_by_their_decay_alone():
    """In NAS-Bench-201, a sample of `none` on every edge."""
    method = searching(method=TABLED)
    with torch.no_grad():
        method.alphas["cell"][:, 0] = 50.0
    assert [g.abs().sum().item() for g in method.alpha_gradients(batch(0), batch(1))] == [0.0]


def test_an_epoch_is_judged_by_the_operation_of_largest_alpha():
    method = searching()
    with torch.no_grad():
        method.alphas["reduce"][:, 4] = 9.0
    mix, tables = method.judged()
    assert isinstance(mix, HardMix)
    assert mix.choices["reduce"] == [4] * 14
    assert set(tables) == {"normal", "reduce"}
    row = method.end_epoch(valid_pass)
    assert row["ops.reduce.sep_conv_3x3"] == 14
    assert row["temperature"] == 10.0


def test_the_cell_has_the_two_strongest_edges_of_each_node_and_never_none():
    alpha = torch.zeros(14, 8)
    alpha[:, 0] = 9.0
    alpha[2:5, PRIMITIVES.index("sep_conv_5x5")] = torch.tensor([1.0, 3.0, 2.0])
    state = {"alphas": {"normal": alpha.tolist(), "reduce": alpha.tolist()}}
    (main,) = derive(state, DeriveParams(rule="top2"), SPACE)
    architecture: Any = main.architecture
    assert architecture.normal[2:4] == (("sep_conv_5x5", 1), ("sep_conv_5x5", 2))


def test_a_search_moves_alphas():
    method = build("gdas", epochs=1)
    before = {cell_type: alpha.detach().clone() for cell_type, alpha in method.alphas.items()}
    advance(method, 0, STEPS)
    assert all((method.alphas[cell_type] != alpha).any() for cell_type, alpha in before.items())
