import copy
import io

import pytest
import torch
from safetensors.torch import load_file

from nas.architectures.channel import ChannelArchitecture
from nas.architectures.channel_masks import Gates, every, uniform
from nas.architectures.genotypes import GENOTYPES
from nas.contracts import ImageForm
from nas.data.dataset import Stream, load_split
from nas.engine.placement import place
from nas.spaces.registry import get_space
from nas.training.checkpoint import Checkpoint, Stop
from nas.training.loop import run
from nas.training.retrain import RetrainJob, load_weights, measure, retrain, save_weights, summary, weights_of
from nas.training.sized import SizedArchitecture

FORM = ImageForm(1, 8, 8, 10)


def test_saved_weights_give_the_same_results_and_have_no_auxiliary_head(
    retrain_job, config, prepared, checkpoint, tmp_path
):
    job = retrain_job()
    run(job, checkpoint, lambda row: None)
    assert any(name.startswith("auxiliary.") for name in job.network.state_dict())
    path = tmp_path / "weights" / "main-0.safetensors"
    save_weights(weights_of(job.network), path, {})
    assert not [name for name in load_file(path) if "auxiliary" in name]

    test = Stream(load_split(prepared, "test", torch.device("cpu")), 8, None, 0)
    before = measure(job.network, test.epoch(0))
    network = get_space("darts").network(GENOTYPES["PDARTS"], FORM, config.retrain, auxiliary=False)
    assert measure(network, test.epoch(0)) != before
    load_weights(network, path)
    assert measure(network, test.epoch(0)) == before
    assert not network.training
    again = tmp_path / "again.safetensors"
    save_weights(weights_of(network), again, {})
    assert again.read_bytes() == path.read_bytes()


@pytest.fixture
def masked_job(config, prepared):
    """Builds a retraining of channel masks in their masked form, at its start."""
    data = load_split(prepared, "retrain", torch.device("cpu"))
    masks = uniform("sep_conv_3x3", 3, 2, lambda w: Gates(1, 1, every(w)))
    architecture = ChannelArchitecture.of(masks, "gated", form="masked")

    def build(**changes):
        space, recipe = get_space("channel"), config.retrain.model_copy(update=changes)
        return RetrainJob(recipe, space, architecture, "tenas-0 main", 0, data, FORM, "float32")

    return build


def test_a_masked_retraining_saves_the_weights_of_the_compact_network(
    masked_job, config, prepared, checkpoint, tmp_path
):
    job, path = masked_job(), tmp_path / "main-0.safetensors"
    begun = {name: value.clone() for name, value in job.result().state_dict().items()}
    assert run(job, checkpoint, lambda row: None).history[-1]["drop_path"] > 0
    save_weights(weights_of(job.result()), path, {})
    assert not torch.equal(load_file(path)["classifier.weight"], begun["classifier.weight"])

    architecture = ChannelArchitecture.of(uniform("sep_conv_3x3", 3, 2, lambda w: Gates(1, 1, every(w))), "gated")
    compact = get_space("channel").network(architecture, FORM, config.retrain, auxiliary=False)
    load_weights(compact, path)
    test = Stream(load_split(prepared, "test", torch.device("cpu")), 8, None, 0)
    assert measure(compact, test.epoch(0)) == pytest.approx(measure(job.network, test.epoch(0)), rel=1e-5)


def test_a_masked_retraining_resumes_with_the_same_bits(masked_job):
    def steps(job, first, last):
        for count in range(first, last):
            epoch, step = divmod(count, job.steps)
            if step == 0:
                job.start_epoch(epoch)
            job.step(epoch, step)

    whole, first, again = masked_job(), masked_job(), masked_job()
    torch.manual_seed(0)
    steps(whole, 0, whole.steps + 2)
    torch.manual_seed(0)
    steps(first, 0, whole.steps + 1)
    state = io.BytesIO()
    torch.save(first.state_dict(), state)
    state.seek(0)
    again.load_state_dict(torch.load(state, weights_only=True))
    steps(again, whole.steps + 1, whole.steps + 2)
    assert again.network.drop_path > 0
    expected = whole.network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.network.state_dict().items())


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_the_weights_of_the_last_epochs_are_kept_unchanged(retrain_job, checkpoint, ema):
    job, seen = retrain_job(epochs=4, best_of_last=3, ema=ema), {}
    run(job, checkpoint, lambda row: seen.update({row["epoch"]: weights_of(job.result())}))
    assert list(job.earlier) == [1, 2]  # the last one is the result itself
    for epoch, weights in job.earlier.items():
        assert weights.keys() == seen[epoch].keys()
        assert all(torch.equal(value, seen[epoch][name]) for name, value in weights.items())
        assert not torch.equal(weights["classifier.weight"], seen[3]["classifier.weight"])


def test_kept_weights_survive_a_kill(retrain_job, checkpoint, tmp_path):
    class KilledError(Exception):
        pass

    def kill(row):
        if row["epoch"] == 2:
            raise KilledError

    whole = retrain_job(epochs=4, best_of_last=3)
    run(whole, Checkpoint(tmp_path / "whole.pt", Stop()), lambda row: None)
    with pytest.raises(KilledError):
        run(retrain_job(epochs=4, best_of_last=3), checkpoint, kill)
    again = retrain_job(epochs=4, best_of_last=3)
    assert run(again, checkpoint, lambda row: None).resumed == 1
    assert again.earlier.keys() == whole.earlier.keys()
    for epoch, weights in whole.earlier.items():
        assert all(torch.equal(value, again.earlier[epoch][name]) for name, value in weights.items())


def test_keeping_weights_of_a_masked_retraining_does_not_change_it(masked_job, checkpoint, tmp_path):
    alone = masked_job(epochs=3)
    run(alone, checkpoint, lambda row: None)
    kept = masked_job(epochs=3, best_of_last=3)  # seeds the generator anew
    rows = run(kept, Checkpoint(tmp_path / "kept.pt", Stop()), lambda row: None).history
    assert rows[-1]["drop_path"] > 0  # which draws from the generator that first weights are drawn from
    expected = weights_of(alone.result())
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(kept.result()).items())
    assert list(kept.earlier) == [0, 1]
    assert kept.earlier[1].keys() == expected.keys()


def test_measuring_does_not_change_the_network(retrain_job, prepared):
    job = retrain_job()
    before = {name: value.clone() for name, value in job.network.state_dict().items()}
    measure(job.network, Stream(load_split(prepared, "test", torch.device("cpu")), 8, None, 0).epoch(0))
    assert all(torch.equal(value, before[name]) for name, value in job.network.state_dict().items())


def test_the_schedules_follow_the_epoch(retrain_job):
    job = retrain_job(epochs=4, lr=0.4, lr_min=0.0, drop_path=0.2)
    values = []
    for epoch in range(4):
        job.start_epoch(epoch)
        values.append((*job.end_epoch(epoch).values(), job.network.drop_path))
    rates, tops, set_on_network = zip(*values, strict=True)
    assert rates == pytest.approx((0.4, 0.4 * (0.5 + 0.5**0.5 / 2), 0.2, 0.4 * (0.5 - 0.5**0.5 / 2)))
    assert tops == set_on_network == pytest.approx((0.0, 0.05, 0.1, 0.15))


@pytest.mark.parametrize(("schedule", "share"), [("cosine", 0.5), ("linear", 1 / 5), ("exponential", 0.97**5)])
def test_every_schedule_continues_after_a_warm_up(retrain_job, schedule, share):
    job = retrain_job(epochs=10, lr=0.4, lr_min=0.0, schedule=schedule, warmup_epochs=2)
    rates = []
    for epoch in (0, 1, 5):
        job.start_epoch(epoch)
        rates.append(job.end_epoch(epoch)["lr"])
    assert rates == pytest.approx([0.2, 0.4, 0.4 * share])


def test_the_auxiliary_weight_affects_the_gradient_but_not_the_reported_loss(retrain_job):
    jobs = [retrain_job(auxiliary_weight=weight) for weight in (0.4, 4.0)]
    tallies = []
    for job in jobs:
        job.start_epoch(0)
        torch.manual_seed(0)
        tallies.append(job.step(0, 0))
    assert tallies[0].means() == tallies[1].means()
    stems = [job.network.stem.whole[0].weight for job in jobs]
    assert not torch.equal(stems[0], stems[1])
    assert retrain_job(auxiliary_weight=0.0).network.auxiliary is None


@pytest.mark.parametrize("changes", [{"seed": 1}, {"identity": "darts-1 main"}])
def test_another_seed_or_trial_has_different_initial_weights_and_batches(retrain_job, changes):
    first, again, other = retrain_job(), retrain_job(), retrain_job(**changes)
    weights = [job.network.stem.whole[0].weight for job in (first, again, other)]
    batches = [job.stream.batch(0, 0).images for job in (first, again, other)]
    for same, another in (weights[:2], weights[::2]), (batches[:2], batches[::2]):
        assert torch.equal(*same)
        assert not torch.equal(*another)


def test_with_ema_the_moving_average_of_the_weights_is_measured(retrain_job):
    job = retrain_job(ema=0.5)
    job.start_epoch(0)
    kept = []
    for step in range(3):
        job.step(0, step)
        kept.append(copy.deepcopy(job.network.state_dict()))
    average = job.result().state_dict()
    for name, last in kept[-1].items():
        if last.is_floating_point():
            first, second, third = (state[name] for state in kept)
            assert torch.allclose(average[name], 0.25 * first + 0.25 * second + 0.5 * third), name
        else:
            assert torch.equal(average[name], last), name  # a count is a count
    assert not torch.equal(average["classifier.weight"], kept[-1]["classifier.weight"])
    assert retrain_job().result() is not job.result()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_average_uses_its_own_weights(retrain_job, precision):
    job = retrain_job(ema=0.5, precision=precision)
    job.start_epoch(0)
    for step in range(3):
        job.step(0, step)
    images = job.stream.batch(0, 0).images
    alone = job.space.network(GENOTYPES["PDARTS"], FORM, job.recipe, auxiliary=True)
    alone.load_state_dict(job.result().state_dict())
    placed = place(alone, torch.device("cpu"), "float32").eval()
    assert torch.equal(job.result().eval()(images)[0], placed(images)[0])
    assert not torch.equal(job.result()(images)[0], job.network.eval()(images)[0])


def test_an_average_resumes_with_the_same_bits(retrain_job):
    undisturbed = retrain_job(ema=0.9)
    undisturbed.start_epoch(0)
    undisturbed.step(0, 0)
    file = io.BytesIO()
    torch.save(undisturbed.state_dict(), file)
    file.seek(0)
    undisturbed.step(0, 1)
    elsewhere = retrain_job(ema=0.9, seed=3)
    elsewhere.start_epoch(0)
    elsewhere.stream = undisturbed.stream
    elsewhere.load_state_dict(torch.load(file, weights_only=True))
    elsewhere.step(0, 1)
    pairs = zip(undisturbed.result().state_dict().values(), elsewhere.result().state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_every_architecture_is_trained_with_every_seed(config, prepared, tmp_path):
    """Each network has the seed of its trial, architecture and retrain seed, whatever is trained before it."""
    data = load_split(prepared, "retrain", torch.device("cpu"))
    recipe, space = config.retrain.model_copy(update={"seeds": (0, 1)}), get_space("darts")
    sized = [SizedArchitecture(name, space, GENOTYPES["PDARTS"], recipe.channels) for name in ("main", "other")]
    seen: list[tuple[str, int]] = []

    def networks(folder, architectures):
        checkpoints = lambda name: Checkpoint(tmp_path / folder / name, Stop())  # noqa: E731
        see = lambda network, row: seen.append((network, row["epoch"]))  # noqa: E731
        return retrain(architectures, recipe, config.runtime, data, "darts-0", checkpoints, see)

    done = list(networks("all", sized))
    assert [(one.sized.name, one.seed) for one in done] == [(name, s) for name in ("main", "other") for s in (0, 1)]
    assert seen == [(f"{one.sized.name}-{one.seed}", epoch) for one in done for epoch in (0, 1)]
    assert [list(one.weights) for one in done] == [[f"{one.sized.name}-{one.seed}.safetensors"] for one in done]
    assert done[0].rows == [{"architecture": "main", "seed": 0, **row} for row in done[0].history]
    assert done[0].result == {
        "name": "main",
        "id": sized[0].id,
        "seed": 0,
        "train_loss": done[0].history[-1]["train_loss"],
        "train_acc": done[0].history[-1]["train_acc"],
    }
    (again, _) = networks("again", sized[1:])
    first, second = (one.weights["other-0.safetensors"] for one in (done[2], again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], done[0].weights["main-0.safetensors"]["classifier.weight"])


def test_results_are_averaged_over_the_seeds():
    rows = [{"name": "main", "train_loss": loss, "train_acc": 50.0} for loss in (1.0, 3.0)]
    assert summary(rows) == {"main": {"train_loss": 2.0, "train_acc": 50.0}}
    assert summary([]) == {}
