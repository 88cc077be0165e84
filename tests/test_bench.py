"""The benchmark compares like with like, and README quotes what it found. No time is asserted."""

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
def test_the_reference_and_the_engine_descend_alike(build):
    reference, engine = build("reference", TINY), build("float32", TINY)
    for _ in range(3):
        torch.manual_seed(0)  # drop path draws
        expected = reference()
        torch.manual_seed(0)
        assert engine().item() == pytest.approx(expected.item(), rel=1e-4)


def test_fewer_operations_are_what_runs():
    _, weight_step = search_halves("float32", Work("cpu", 4, 4, 3, side=8, ops=("skip_connect", "sep_conv_3x3")))
    assert weight_step(None).isfinite()
    assert weight_step(random_choices(torch.Generator().manual_seed(0))).isfinite()


def test_kernels_are_what_moves_data_and_optimisers_are_not_counted():
    x = torch.zeros(2, 3, device="meta", requires_grad=True)
    with Kernels() as seen:
        y = (2 * x).t().reshape(6).relu()  # a product, a copy, a ReLU
        y.sum().backward()  # a sum, ones to begin with, the ReLU's gradient, the product's, which is copied to x
    assert seen.count == 3 + 5
    small = Work("meta", 4, channels=4, cells=3, side=8)
    for engine in ("reference", "float32"):
        found = kernels(engine, small)
        assert found == kernels(engine, small)
    assert sum(kernels("float32", small).values()) < sum(kernels("reference", small).values()) / 3


@pytest.mark.parametrize("share", channels.SHARES)
def test_random_masks_have_their_share_of_the_parameters(share):
    work = Work("cpu", 2, channels=16, cells=5, side=8)
    masks = channels.random_masks(share, work)
    whole = effective(uniform(masks.op, 5, 16), work.form).params
    assert 0.98 * share * whole < effective(masks, work.form).params <= share * whole
    assert closed(masks) == masks
    assert dead_node(masks) is None


def test_masked_and_compact_kernels_are_timed_at_the_same_runs():
    masks = channels.random_masks(0.4, TINY)
    found = channels.rows(masks, TINY, repeats=1)
    assert [row[0] for row in found] == ["evaluation", "training step"]
    for name, masked, compact, faster in found:
        assert min(float(masked), float(compact)) > 0, name
        assert faster.count(faster.split()[0]) == 3, "least and most of one round are its median"
    step = channels.training("masked", masks, TINY)
    assert step() != step()
    look = channels.evaluation("compact", masks, TINY)
    assert torch.equal(look(), look())


def test_results_say_where_they_come_from():
    assert RESULTS
    for path in RESULTS:
        for section in json.loads(path.read_text()).values():
            assert {"device", "torch", "python", "commit", "repeats"} <= section.keys()


def test_readme_quotes_the_results():
    """Of two machines; files of others may lie beside theirs."""
    readme = (PROJECT / "README.md").read_text()
    table = importlib.import_module("bench.__main__").table
    whole = [found for path in RESULTS if "search" in (found := json.loads(path.read_text()))]
    assert any(table(*pair) in readme for pair in permutations(whole, 2))


@pytest.mark.parametrize(
    ("other", "tau"),
    [([1.0, 2.0, 3.0], 1.0), ([3.0, 2.0, 1.0], -1.0), ([1.0, 3.0, 2.0], 1 / 3), ([1.0, 1.0, 2.0], 2 / 3)],
)
def test_kendalls_tau_counts_pairs_in_order(other, tau):
    assert ranking.kendall(torch.tensor([10.0, 20.0, 30.0]), torch.tensor(other)) == pytest.approx(tau)


def test_cells_are_judged_one_by_one_and_no_weight_moves():
    method = build("asng", method={"space": "nasbench201"})
    advance(method, 0, 1)
    before = {name: value.clone() for name, value in method.supernet.named_parameters()}
    cells = torch.tensor([[0] * 6, [1] * 6, [3] * 6])
    batches = [batch(1), batch(2)]
    found = ranking.losses(method, cells, batches)
    task = method.setting.task
    alone = [
        torch.stack([task.loss(method.run(c, b, backward=False), b.labels) for b in batches]).mean() for c in cells
    ]
    assert torch.equal(found, torch.stack(alone).detach())
    assert len(set(found.tolist())) == 3
    assert all(torch.equal(value, before[name]) for name, value in method.supernet.named_parameters())
