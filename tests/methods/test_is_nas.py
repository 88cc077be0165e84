"""IS-NAS and ASNG: what they share, and what each refuses."""

import pytest
import torch
from pydantic import ValidationError

from nas.methods import method_module
from nas.spaces.registry import get_space
from tests.methods.settings import STEPS, advance, build


def test_with_one_distribution_it_is_asng_bit_for_bit():
    one = build("is-nas", method={"eps": [0.3]})
    rows = [advance(one, 0, 2 * STEPS)]
    asng = build("asng", method={"eps": 0.3})  # seeds the generator anew
    rows.append(advance(asng, 0, 2 * STEPS))
    assert rows[0] == rows[1]
    assert torch.equal(one.distributions[0].table, asng.distributions[0].table)
    assert all(torch.equal(a, b) for a, b in zip(one.supernet.parameters(), asng.supernet.parameters(), strict=True))


def test_without_an_answer_of_rank_lambda_is_refused():
    with pytest.raises(ValidationError, match="or ablation: true"):
        build("is-nas", method={"lambda": 1})
    build("is-nas", method={"lambda": 1, "ablation": True})
    with pytest.raises(ValidationError, match="has no rank"):
        build("is-nas", method={"lambda": 1, "ablation": True, "share": "none"})


def test_passes_are_counted_by_kind_and_architectures_bear_their_eps():
    method = build("is-nas", epochs=1)
    advance(method, 0, STEPS)
    assert method.passes == {"train_images": 2 * 4 * STEPS, "valid_images": 0, "judged_images": 4 * 4 * STEPS}
    module = method_module("is-nas")
    for rule in ("mode", "random_matched"):
        found = module.derive(method.search_state(), module.DeriveParams(rule=rule), get_space("enas"))
        assert [derived.name for derived in found] == ["eps=0", "eps=0.3"]


@pytest.mark.parametrize(("name", "eps"), [("is-nas", [0.0, 0.3]), ("asng", 0.0)])
@pytest.mark.parametrize("space", ["mobile", "mobile-cifar"])
def test_both_methods_search_the_chains_of_mobile_blocks(name, eps, space):
    cells, stem = (21, "imagenet") if space == "mobile" else (16, "cifar")
    method = build(name, method={"space": space, "eps": eps}, cells=cells, stem=stem, epochs=1)
    before = [d.table.clone() for d in method.distributions]
    advance(method, 0, STEPS)
    assert not any(map(torch.equal, before, (d.table for d in method.distributions)))
    module = method_module(name)
    found = module.derive(method.search_state(), module.DeriveParams(rule="mode"), get_space(space))
    assert {derived.architecture.to_dict()["space"] for derived in found} == {space}
    assert [derived.name for derived in found] == method.labels
