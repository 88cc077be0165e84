import math

import pytest
import torch
from torch import nn

from nas.engine.tasks import Classification, Tally, judge
from nas.methods.shared.base import WeightTrainer, entropy, op_counts
from tests.methods.settings import batch, common


def test_entropy_is_the_mean_over_the_rows_of_all_tables():
    uniform, certain = torch.full((2, 8), 1 / 8), torch.eye(8)[:1]
    assert entropy([uniform]) == pytest.approx(math.log(8))
    assert entropy([certain]) == 0
    assert entropy([uniform, certain]) == pytest.approx(math.log(8) * 2 / 3)
    assert entropy([torch.tensor([[0.25, 0.75]])]) == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))


def test_operations_count_where_they_have_the_largest_share():
    tables = {"normal": torch.tensor([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9]]), "reduce": torch.tensor([[1.0, 0.0]])}
    names = {"normal": (("none", "skip"),) * 3, "reduce": (("none", "skip"),)}
    assert op_counts(tables, names) == {
        "ops.normal.none": 1,
        "ops.normal.skip": 2,
        "ops.reduce.none": 1,
        "ops.reduce.skip": 0,
    }


def test_a_tally_weighs_batches_by_their_images():
    small = Tally.of(torch.tensor(4.0), torch.tensor(1), 1)
    large = Tally.of(torch.tensor(1.0), torch.tensor(0), 3)
    assert (small + large).means() == pytest.approx((7 / 4, 25.0))


def test_judging_is_the_loss_and_the_hits_over_all_images():
    batches = [batch(0), batch(1, count=3)]
    weights = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = judge(lambda images: images.flatten(1) @ weights, batches, Classification())
    logits = torch.cat([b.images.flatten(1) for b in batches]) @ weights
    labels = torch.cat([b.labels for b in batches])
    loss, acc = found.means()
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert acc == pytest.approx(100 * (logits.argmax(-1) == labels).float().mean().item())
    assert not found.loss.requires_grad


def test_the_weights_descend_by_clipped_sgd_with_momentum_and_decay():
    layer = nn.Linear(2, 1, bias=False)
    trainer = WeightTrainer(layer, common(clip=0.5, momentum=0.9, weight_decay=0.1, lr=0.2, lr_min=0.0), epochs=4)
    assert trainer.velocity() == [None]
    w, v = layer.weight.detach().clone(), torch.zeros(1, 2)
    for gradient in ([3.0, 4.0], [0.3, 0.0]):
        g = torch.tensor([gradient])
        trainer.descend((layer.weight * g).sum())
        g = g * min(1.0, 0.5 / g.norm().item())
        v = 0.9 * v + g + 0.1 * w
        w = w - 0.2 * v
        torch.testing.assert_close(layer.weight.detach(), w)
        torch.testing.assert_close(trainer.velocity()[0], v)
    trainer.start_epoch(2)
    assert trainer.lr == pytest.approx(0.1)
    rising = WeightTrainer(layer, common(epochs=4, lr=0.6, lr_min=0.0, lr_warmup_epochs=2), epochs=4)
    rates = []
    for epoch in range(4):
        rising.start_epoch(epoch)
        rates.append(rising.lr)
    assert rates == pytest.approx([0.2, 0.4, 0.3, 0.6 * (1 - 0.5**0.5) / 2])


def test_weights_that_did_not_run_take_no_step():
    layers = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    trainer = WeightTrainer(layers, common(), epochs=1)
    x = torch.ones(1, 2)
    trainer.descend(sum(layer(x).sum() for layer in layers))
    before = [p.detach().clone() for p in layers[1].parameters()]
    trainer.descend(layers[0](x).sum())
    assert all(torch.equal(a, b) for a, b in zip(before, layers[1].parameters(), strict=True))


def test_weights_that_begin_to_run_later_begin_their_momentum_then():
    early, late = nn.Linear(2, 2), nn.Linear(2, 2)
    trainer = WeightTrainer(nn.ModuleList([early, late]), common(), epochs=1)
    x = torch.ones(1, 2)
    trainer.descend(early(x).sum())
    assert [v is None for v in trainer.velocity()] == [False, False, True, True]
    still = late.weight.detach().clone()
    trainer.descend(early(x).sum())
    assert torch.equal(late.weight, still), "no decay without a gradient"
    trainer.descend(late(x).sum())
    assert not any(v is None for v in trainer.velocity())
