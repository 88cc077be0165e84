from math import inf, nan

import pytest

from nas.tracking.names import epoch_metrics, figures, flat, histories, legal


def test_characters_that_mlflow_rejects_are_replaced():
    assert legal("eps=0.1/a b") == "eps-0.1-a b"


def test_nested_keys_are_joined_by_dots():
    assert flat({"search": {"common": {"epochs": 16}, "order": "first"}}) == {
        "search.common.epochs": 16,
        "search.order": "first",
    }


@pytest.mark.parametrize("value", [nan, inf, None, "text", True, [1.0]])
def test_only_finite_numbers_are_metrics(value):
    assert epoch_metrics({"epoch": 3, "train_loss": 0.5, "odd": value}) == {"train_loss": 0.5}


def test_networks_trained_in_one_stage_have_distinct_names():
    rows = [{"architecture": "eps=0.1", "seed": seed, "epoch": 3, "train_acc": 90.0 + seed} for seed in (0, 1)]
    assert list(histories(rows)) == [(3, {"eps-0.1-0.train_acc": 90.0}), (3, {"eps-0.1-1.train_acc": 91.0})]
    assert list(histories(rows[:1])) == [(3, {"train_acc": 90.0})]
    assert epoch_metrics({"eps=0.1-0.epoch": 3, "eps=0.1-0.train_acc": 90.0}) == {"eps-0.1-0.train_acc": 90.0}


def test_only_several_architectures_get_a_prefix():
    assert figures({"architectures": {"best": {"test_error": 3.0}}}) == {"test_error": 3.0}
    assert figures({"eps=0.1": {"test_error": 3.0}, "top2": {"test_error": 4.0}}) == {
        "eps-0.1.test_error": 3.0,
        "top2.test_error": 4.0,
    }
