from nas.architectures.darts import DartsArchitecture
from nas.architectures.genotypes import GENOTYPES
from nas.methods.random import DeriveParams, derive, epochs_each
from nas.spaces.registry import get_space
from tests.methods.settings import STEPS, advance, build


def test_all_candidates_together_spend_the_budget_and_one_epoch_more_would_exceed_it():
    method = build("random", method={"samples": 3}, epochs=2)
    here = method.setting
    macs = here.space.supernet_macs(here.form, here.common)
    each = [here.space.count(a, here.form, here.common).macs for a in method.contest.candidates]
    assert len(each) == 3
    assert method.contest.epochs_each * sum(each) <= 2 * 2 * macs < (method.contest.epochs_each + 1) * sum(each)
    assert method.epochs == 3 * method.contest.epochs_each
    # A candidate that exceeds the budget alone trains for an epoch all the same.
    assert epochs_each(here, [4 * macs + 1]) == 1


def test_every_candidate_is_valid_trained_by_its_own_schedule_and_judged_once():
    method = build("random", method={"samples": 2}, epochs=1)
    rows = advance(method, 0, method.epochs * STEPS)
    each = method.contest.epochs_each
    assert [row["candidate"] for row in rows] == [n for n in range(2) for _ in range(each)]
    assert [row["lr"] for row in rows[:each]] == [row["lr"] for row in rows[each : 2 * each]]
    assert rows[0]["lr"] == method.setting.common.lr
    assert ["valid_acc" in row for row in rows] == ([False] * (each - 1) + [True]) * 2
    found = method.search_state()["candidates"]
    assert len(found) == len(method.contest.results) == 2
    for candidate, row in zip(found, rows[each - 1 :: each], strict=True):
        architecture = DartsArchitecture.parse(candidate["architecture"])
        assert architecture.id == candidate["id"]
        assert (candidate["valid_acc"], candidate["valid_loss"]) == (row["valid_acc"], row["valid_loss"])
    images = 4 * STEPS * each
    assert method.passes == {"train_images": 2 * images, "valid_images": 0}
    assert method.macs() == 3 * images * sum(candidate["macs"] for candidate in found)


def chosen(*figures):
    """The id that is derived from candidates of these (accuracy, loss), in the order of the published cells."""
    names = list(GENOTYPES)
    candidates = [
        {
            "architecture": GENOTYPES[name].to_dict(),
            "id": GENOTYPES[name].id,
            "macs": 1,
            "valid_acc": a,
            "valid_loss": b,
        }
        for name, (a, b) in zip(names, figures, strict=False)
    ]
    state = {"epochs_each": 1, "candidates": candidates}
    (derived,) = derive(state, DeriveParams(rule="best"), get_space("darts"))
    assert derived.notes["valid_acc"] == max(a for a, _ in figures)
    return [GENOTYPES[name].id for name in names].index(derived.architecture.id)


def test_the_best_accuracy_is_kept_ties_by_lower_loss_then_by_earlier_draw():
    assert chosen((50.0, 0.1), (70.0, 0.9), (60.0, 0.2)) == 1
    assert chosen((70.0, 0.9), (50.0, 0.1), (70.0, 0.8)) == 2
    assert chosen((10.0, 0.5), (70.0, 0.8), (70.0, 0.8)) == 1
