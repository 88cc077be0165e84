"""IS-NAS: what it does around the mathematics, which tests/methods/shared/test_distributions.py has."""

import copy
from math import isfinite
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from nas.collapse import parameterless
from nas.config.params import Size
from nas.contracts import SoftMix
from nas.engine.schedules import cosine
from nas.methods import method_module, sections
from nas.methods.shared import distributions as ds
from nas.methods.shared.base import WeightTrainer
from nas.methods.shared.sampled_derive import padded
from nas.records import canonical
from nas.spaces.registry import get_space
from tests.methods.settings import FORM, PRESET, STEPS, advance, batch, build, common, valid_pass

SPACE: Any = get_space("enas")


def derived(state, **params):
    module = method_module("is_nas")
    model = module.DeriveParams.model_validate({"rule": "mode", "controls": [], **params})
    return {found.name: found for found in module.derive(state, model, SPACE)}


def tables(method):
    return [d.table.clone() for d in method.distributions]


def weights(method):
    return [p.detach().clone() for p in method.supernet.parameters()]


def same(these, those):
    return all(torch.equal(a, b) for a, b in zip(these, those, strict=True))


def test_with_one_distribution_it_is_asng_bit_for_bit():
    one = build("is_nas", method={"eps": [0.3]})
    rows = [advance(one, 0, 2 * STEPS)]
    asng = build("asng", method={"eps": [0.3]})  # seeds the generator anew
    rows.append(advance(asng, 0, 2 * STEPS))
    assert rows[0] == rows[1]
    assert torch.equal(one.distributions[0].table, asng.distributions[0].table)
    assert all(torch.equal(a, b) for a, b in zip(one.supernet.parameters(), asng.supernet.parameters(), strict=True))


def test_without_an_answer_of_rank_lambda_is_refused():
    with pytest.raises(ValidationError, match="or ablation: true"):
        build("is_nas", method={"lambda": 1})
    build("is_nas", method={"lambda": 1, "ablation": True})
    with pytest.raises(ValidationError, match="has no rank"):
        build("is_nas", method={"lambda": 1, "ablation": True, "share": "none"})


def test_eps_that_do_not_grow_are_refused():
    for eps in ([0.3, 0.0], [0.1, 0.1]):
        with pytest.raises(ValidationError, match="expected increasing values, each once"):
            build("is_nas", method={"eps": eps})


def test_passes_are_counted_by_kind_and_architectures_bear_their_eps():
    method = build("is_nas", epochs=1)
    advance(method, 0, STEPS)
    assert method.passes == {"train_images": 2 * 4 * STEPS, "valid_images": 0, "judged_images": 4 * 4 * STEPS}
    found = derived(method.search_state(), controls=["random_matched"])
    assert list(found) == ["eps=0", "eps=0.3", "eps=0-random_matched", "eps=0.3-random_matched"]
    assert [one.notes["eps"] for one in found.values()] == [0.0, 0.3, 0.0, 0.3]
    assert [one.notes["m"] for one in found.values()] == [0, 1, 0, 1]


def test_separate_learns_weights_first_and_then_moves_distributions_on_frozen_weights():
    method = build("is_nas", method={"mode": "separate", "warmup_epochs": 2}, epochs=4)
    started, before = tables(method), weights(method)
    rows = advance(method, 0, 2 * STEPS)
    assert same(tables(method), started)
    assert not same(weights(method), before)
    learnt = weights(method)
    rows += advance(method, 2 * STEPS, 4 * STEPS)
    assert same(weights(method), learnt)
    assert not any(torch.equal(a, b) for a, b in zip(tables(method), started, strict=True))
    assert method.passes == {"train_images": 2 * 2 * 4 * STEPS, "valid_images": 0, "judged_images": 2 * 4 * 4 * STEPS}
    common = method.setting.common
    assert [row["lr"] for row in rows[:2]] == [cosine(e, 2, common.lr, common.lr_min) for e in range(2)]


def test_simultaneous_with_a_warm_up_learns_weights_to_the_end():
    method = build("is_nas", method={"warmup_epochs": 1}, epochs=2)
    started = tables(method)
    advance(method, 0, STEPS)
    assert same(tables(method), started)
    learnt = weights(method)
    advance(method, STEPS, 2 * STEPS)
    assert not same(tables(method), started)
    assert not same(weights(method), learnt)


@pytest.mark.parametrize("name", ["asng", "is_nas"])
def test_a_search_may_be_longer_than_those_of_other_methods(name):
    method = build(name, method={"epochs": 3, "warmup_epochs": 2}, epochs=1)
    started = tables(method)
    rows = advance(method, 0, 2 * STEPS)
    assert same(tables(method), started)
    rows += advance(method, 2 * STEPS, 3 * STEPS)
    assert not same(tables(method), started)
    common = method.setting.common
    assert (method.epochs, common.epochs) == (3, 1)
    assert [row["lr"] for row in rows] == [cosine(epoch, 3, common.lr, common.lr_min) for epoch in range(3)]


@pytest.mark.parametrize("name", ["asng", "is_nas"])
def test_the_first_epochs_of_a_warm_up_may_train_all_operations_at_once(name):
    changes = {"space": "nasbench201", "warmup_epochs": 2, "mixture_epochs": 1}
    method = build(name, method=changes, epochs=3, cells=5)
    plain = copy.deepcopy(method.supernet)
    trainer = WeightTrainer(plain, method.setting.common, 3)
    trainer.start_epoch(0)
    mix = SoftMix({"cell": torch.full((6, 5), 0.2)})
    for count in range(STEPS):
        train = batch(2 * count)
        trainer.descend(method.setting.task.loss(plain(train.images, mix), train.labels))
    started = tables(method)
    advance(method, 0, STEPS)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), method.supernet.parameters(), strict=True))
    space, images = method.space, 4 * STEPS
    assert method.passes == {"train_images": images, "valid_images": 0, "judged_images": 0}
    assert method.macs() == 3 * images * space.supernet_macs(method.setting.form, method.setting.common)
    (row,) = advance(method, STEPS, 2 * STEPS)  # along paths
    assert same(tables(method), started)
    assert parameterless(row) is None, "nothing leads yet, so nothing has collapsed"
    assert method.passes["train_images"] == images + images * method.params.n_w
    (row,) = advance(method, 2 * STEPS, 3 * STEPS)
    assert not same(tables(method), started)
    assert parameterless(row) is not None


def test_a_warm_up_of_all_common_epochs_is_refused():
    params = sections()[0]["is_nas"].model_validate(PRESET["is_nas"] | {"warmup_epochs": 2})
    params.check(common(epochs=3))
    with pytest.raises(ValueError, match=r"'warmup_epochs' is 2: expected less than the 2 of search.common.epochs"):
        params.check(common(epochs=2))
    for name, changes in (("is_nas", {"epochs": 2}), ("lfr_darts", {"epochs_each": 2})):
        short = sections()[0][name].model_validate(PRESET[name] | changes)
        with pytest.raises(ValueError, match=r"is 2: expected more than the 2 of 'search.common.lr_warmup_epochs'"):
            short.check(common(epochs=3, lr_warmup_epochs=2))
    own = sections()[0]["is_nas"].model_validate(PRESET["is_nas"] | {"warmup_epochs": 2, "epochs": 2})
    with pytest.raises(ValueError, match=r"'warmup_epochs' is 2: expected less than the 2 of epochs"):
        own.check(common(epochs=3))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mode": "separate"}, "at least 1"),
        ({"space": "darts", "warmup_epochs": 1, "mixture_epochs": 2}, "is 2: expected at most the 1 of the warm-up"),
    ],
)
def test_a_warm_up_that_leaves_nothing_to_do_is_refused_with_the_parameters(changes, said):
    with pytest.raises(ValidationError, match=said):
        sections()[0]["is_nas"].model_validate(PRESET["is_nas"] | changes)


def test_a_mixture_needs_a_space_whose_supernet_runs_all_operations_at_once():
    params = sections()[0]["is_nas"].model_validate(PRESET["is_nas"] | {"warmup_epochs": 1, "mixture_epochs": 1})
    params.check_space(get_space("darts"))
    with pytest.raises(
        ValueError, match="'mixture_epochs' is 1, but the supernet of space enas only runs single paths"
    ):
        params.check_space(SPACE)


def test_costs_are_those_of_the_supernet_or_of_a_network_of_the_named_size():
    at_search = build("is_nas")
    assert at_search.costs.max() == max(max(row) for rows in SPACE.costs(FORM, at_search.setting.common, affine=False)
                                        .values() for row in rows)  # fmt: skip
    size: Any = {"cells": 20, "channels": 36, "stem": "cifar"}
    at_retrain = build("is_nas", method={"cost_at": size})
    assert at_retrain.costs.max() == 408_240  # sep_conv_5x5 of the normal cells
    assert at_retrain.costs.max(1).values.sum() == 4_717_440
    assert torch.equal(
        at_retrain.costs, padded([r for rows in SPACE.costs(FORM, Size(**size), True).values() for r in rows])
    )


@pytest.mark.parametrize(("eps", "n_w"), [([0.0, 0.1, 0.3], 1), ([0.0, 0.1, 0.3], 2), ([0.0, 0.03, 0.1, 0.3], 2)])
def test_stratified_paths_come_equally_often_from_every_distribution(eps, n_w):
    method = build("is_nas", method={"eps": eps, "n_w": n_w})
    drawn = [0] * len(eps)
    for _ in range(7 * n_w):
        drawn[method.next_distribution()] += 1
        assert max(drawn) - min(drawn) <= 1


def test_iid_paths_do_not():
    method = build("is_nas", method={"weight_sampling": "iid"})
    drawn = [method.next_distribution() for _ in range(200)]
    assert 60 < sum(drawn) < 140
    assert any(drawn[at] == drawn[at + 1] for at in range(0, 200, 2))  # no rounds


def test_without_sharing_every_distribution_learns_from_its_own_samples():
    method = build("is_nas", method={"share": "none"})
    samples, losses = torch.arange(8).view(4, 2), torch.arange(4.0)
    first, second = method.pools(samples, losses)
    assert torch.equal(first.samples, samples[:2])
    assert torch.equal(second.losses, losses[2:])
    assert torch.equal(first.weights, torch.ones(2))


def poison(method, choices, inputs=""):
    """Weights that are no numbers on every path with these operations (of one node and input: "2-0")."""
    for name, parameter in method.supernet.named_parameters():
        if any(f"{inputs}-{op}." in name for op in choices):
            parameter.data.fill_(torch.nan)


def test_a_loss_that_is_no_number_ranks_last_and_the_search_turns_away_from_it():
    method = build("is_nas", method={"n_w": 1, "lambda": 4})
    poison(method, ["sep_conv_5x5"])
    method.trainer.descend = lambda loss: None  # the other weights stay as they are
    method.start_epoch(0)
    for count in range(40):
        method.step(batch(2 * count), batch(2 * count + 1))
    names = [row for rows in method.names.values() for row in rows]
    for distribution in method.distributions:
        assert distribution.table.isfinite().all()
        poisoned = [
            table[names[d].index("sep_conv_5x5")]
            for d, table in enumerate(distribution.table)
            if "identity" in names[d]
        ]
        assert torch.stack(poisoned).mean() < 1 / 5 / 2
    row = method.end_epoch(valid_pass)
    assert isfinite(row["valid_loss"])  # of the others


def test_a_loss_that_is_no_number_does_not_end_a_search_whose_weights_rest():
    method = build("is_nas", method={"mode": "separate", "warmup_epochs": 1, "lambda": 8}, epochs=2)
    poison(method, ["sep_conv_5x5"], inputs="2-0")
    method.start_epoch(1)
    losses = []
    for count in range(10):
        loss, _ = method.step(batch(2 * count), batch(2 * count + 1)).means()
        losses.append(loss)
    assert all(map(isfinite, losses))


def test_the_correlation_is_a_mean_over_the_steps_that_have_one():
    method = build("asng", method={"lambda": 2})
    method.start_epoch(0)
    counts = torch.tensor(method.counts)
    dear = method.costs.argmax(1)
    free = method.costs.masked_fill(torch.arange(method.costs.shape[1]) >= counts[:, None], torch.inf).argmin(1)
    method.note_pool(torch.stack([free, dear]), torch.tensor([1.0, 2.0]).double(), 0.0)
    method.note_pool(torch.stack([free, free]), torch.tensor([1.0, 2.0]).double(), 0.0)
    row = method.end_epoch(valid_pass)
    assert row["correlation"] == pytest.approx(1.0)
    assert "correlated" not in row


def test_where_no_loss_is_a_number_nothing_moves_and_the_record_holds():
    method = build("is_nas", epochs=1)
    method.supernet.classifier.weight.data.fill_(torch.nan)
    before = [d.state_dict() for d in method.distributions]
    (row,) = advance(method, 0, STEPS)
    for distribution, state in zip(method.distributions, before, strict=True):
        assert torch.equal(distribution.table, state["table"])
        assert (distribution.Delta, distribution.gamma) == (1.0, 0.0)
    assert row["skipped.eps=0"] == row["skipped.eps=0.3"] == STEPS
    canonical(method.search_state())  # refuses NaN


def test_equal_architectures_are_kept_and_the_later_one_says_so():
    method = build("is_nas", epochs=1)
    advance(method, 0, STEPS)
    state = method.search_state()
    state["tables"][1] = state["tables"][0]
    found = derived(state)
    assert found["eps=0"].notes["equal_to"] is None
    assert found["eps=0.3"].notes["equal_to"] == "eps=0"
    assert found["eps=0"].architecture == found["eps=0.3"].architecture
    state["tables"][1] = [[0.0] * (len(row) - 1) + [1.0] for row in state["tables"][0]]
    assert derived(state)["eps=0.3"].notes["equal_to"] is None


def test_a_matched_control_is_random_and_of_about_the_size():
    method = build("is_nas", epochs=1)
    advance(method, 0, STEPS)
    state, counts = method.search_state(), method.counts
    ends = torch.zeros(len(counts), dtype=torch.long), torch.tensor([count - 1 for count in counts])
    for choices in (*ends, ds.draw(ds.uniform(counts), 1)[0]):  # the cheapest, the dearest, one between
        peaked = torch.nn.functional.one_hot(choices, max(counts)).double() + ds.uniform(counts)
        state["tables"] = [[row[:count].tolist() for row, count in zip(peaked, counts, strict=True)]] * 2
        found = derived(state, controls=["random_matched"])
        target, control = (found[name].notes["complexity"] for name in ("eps=0", "eps=0-random_matched"))
        assert abs(control - target) <= 0.05 * method.costs.max(1).values.sum()
        again = derived(state, controls=["random_matched"])
        assert found["eps=0-random_matched"].architecture == again["eps=0-random_matched"].architecture
        assert found["eps=0-random_matched"].architecture != found["eps=0.3-random_matched"].architecture
    other = derived(state | {"seed": state["seed"] + 1}, controls=["random_matched"])
    assert other["eps=0-random_matched"].architecture != again["eps=0-random_matched"].architecture


def test_multiply_adds_are_those_of_the_paths_that_ran():
    method = build("is_nas", epochs=1)
    spent = []
    run = method.run

    def watched(sample, images, backward):
        choices = method.split(sample.tolist())
        macs = SPACE.path_macs(FORM, method.setting.common, choices)
        spent.append(macs * len(images.labels) * (3 if backward else 1))
        return run(sample, images, backward)

    method.run = watched
    advance(method, 0, STEPS)
    assert method.macs() == sum(spent)
    assert len(spent) == STEPS * (2 + 4)


@pytest.mark.parametrize(("name", "eps"), [("is_nas", [0.0, 0.3]), ("asng", [0.0])])
@pytest.mark.parametrize("space", ["mobile", "mobile_cifar"])
def test_both_methods_search_the_chains_of_mobile_blocks(name, eps, space):
    cells, stem = (21, "imagenet") if space == "mobile" else (16, "cifar")
    method = build(name, method={"space": space, "eps": eps}, cells=cells, stem=stem, epochs=1)
    before = [d.table.clone() for d in method.distributions]
    advance(method, 0, STEPS)
    assert not any(map(torch.equal, before, (d.table for d in method.distributions)))
    module = method_module(name)
    found = module.derive(method.search_state(), module.DeriveParams(rule="mode", controls=()), get_space(space))
    assert {derived.architecture.to_dict()["space"] for derived in found} == {space}
    assert [derived.name for derived in found] == method.labels
