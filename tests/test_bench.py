"""The benchmarks compare equal work, and README.md quotes their results. No time is asserted."""

import importlib
import json
from itertools import permutations
from pathlib import Path

import pytest
import torch

from bench import channels, ranking
from bench.kernels import Kernels, kernels
from bench.work import Work, random_choices, retrain_step, search_halves, search_step
from nas.architectures.channel_masks import closed, dead_node, uniform
from nas.architectures.channel_sizes import effective
from tests.methods.settings import advance, batch, build

PROJECT = Path(__file__).parents[1]
TINY = Work("cpu", batch=4, channels=4, cells=3, side=8)
RESULTS = sorted(PROJECT.glob("bench/results/*.json"))


@pytest.mark.parametrize("build", [search_step, retrain_step])
def test_the_reference_and_the_engine_have_the_same_losses(build):
    reference, engine = build("reference", TINY), build("float32", TINY)
    for _ in range(3):
        torch.manual_seed(0)  # for drop path
        expected = reference()
        torch.manual_seed(0)
        assert engine().item() == pytest.approx(expected.item(), rel=1e-4)


def test_only_the_given_operations_run():
    _, weight_step = search_halves("float32", Work("cpu", 4, 4, 3, side=8, ops=("skip_connect", "sep_conv_3x3")))
    assert weight_step(None).isfinite()
    assert weight_step(random_choices(torch.Generator().manual_seed(0))).isfinite()


def test_operations_that_move_data_are_counted_and_optimisers_are_not():
    x = torch.zeros(2, 3, device="meta", requires_grad=True)
    with Kernels() as counter:
        y = (2 * x).t().reshape(6).relu()  # a product, a copy, a ReLU
        # A sum, the initial gradient of ones, the gradients of ReLU and product, and a copy to x.grad.
        y.sum().backward()
    assert counter.count == 3 + 5
    small = Work("meta", 4, channels=4, cells=3, side=8)
    counts = {engine: kernels(engine, small) for engine in ("reference", "float32")}
    assert counts["float32"] == kernels("float32", small)
    assert sum(counts["float32"].values()) < sum(counts["reference"].values()) / 3


@pytest.mark.parametrize("share", channels.SHARES)
def test_random_masks_keep_the_given_share_of_the_parameters(share):
    work = Work("cpu", 2, channels=16, cells=5, side=8)
    masks = channels.random_masks(share, work)
    whole = effective(uniform(masks.op, 5, 16), work.form).params
    assert 0.98 * share * whole < effective(masks, work.form).params <= share * whole
    assert closed(masks) == masks
    assert dead_node(masks) is None


def test_masked_and_compact_kernels_are_timed_on_the_same_work():
    masks = channels.random_masks(0.4, TINY)
    table = channels.rows(masks, TINY, repeats=1)
    assert [row[0] for row in table] == ["evaluation", "training step"]
    for name, masked, compact, speed_up in table:
        assert min(float(masked), float(compact)) > 0, name
        assert speed_up.count(speed_up.split()[0]) == 3, "with one round, minimum and maximum are the median"
    step = channels.training("masked", masks, TINY)
    assert step() != step()
    evaluate = channels.evaluation("compact", masks, TINY)
    assert torch.equal(evaluate(), evaluate())


def test_results_state_their_conditions():
    assert RESULTS
    for path in RESULTS:
        for section in json.loads(path.read_text()).values():
            assert {"device", "torch", "python", "commit", "repeats"} <= section.keys()


def test_readme_quotes_the_results():
    """README.md shows two machines; bench/results may have files of others too."""
    readme = (PROJECT / "README.md").read_text()
    table = importlib.import_module("bench.__main__").table
    complete = [results for path in RESULTS if "search" in (results := json.loads(path.read_text()))]
    assert any(table(*pair) in readme for pair in permutations(complete, 2))


@pytest.mark.parametrize(
    ("other", "tau"),
    [([1.0, 2.0, 3.0], 1.0), ([3.0, 2.0, 1.0], -1.0), ([1.0, 3.0, 2.0], 1 / 3), ([1.0, 1.0, 2.0], 2 / 3)],
)
def test_kendalls_tau_counts_concordant_and_discordant_pairs(other, tau):
    assert ranking.kendall(torch.tensor([10.0, 20.0, 30.0]), torch.tensor(other)) == pytest.approx(tau)


def test_losses_are_those_of_single_cells_and_no_weight_changes():
    method = build("asng", method={"space": "nasbench201"})
    advance(method, 0, 1)
    before = {name: value.clone() for name, value in method.supernet.named_parameters()}
    cells = torch.tensor([[0] * 6, [1] * 6, [3] * 6])
    batches = [batch(1), batch(2)]
    losses = ranking.losses(method, cells, batches)
    task = method.setting.task
    alone = [
        torch.stack([task.loss(method.run(c, b, backward=False), b.labels) for b in batches]).mean() for c in cells
    ]
    assert torch.equal(losses, torch.stack(alone).detach())
    assert len(set(losses.tolist())) == 3
    assert all(torch.equal(value, before[name]) for name, value in method.supernet.named_parameters())
