import pytest
import torch

from nas.config.params import Size
from nas.config.sections import ParamsError
from nas.contracts import ImageForm
from nas.data.dataset import load_split
from nas.registry import METHODS
from nas.spaces.registry import get_space
from nas.training.loop import Row
from nas.training.search import refuse_size, search
from tests.jobs import CPU


def test_the_two_halves_are_those_of_the_splits(search_job, prepared):
    job = search_job()
    for stream, name in ((job.train, "search_train"), (job.valid, "search_valid"), (job.plain, "search_valid")):
        assert torch.equal(stream.data.indices, load_split(prepared, name, job.device).indices)
    assert (job.steps, job.images, job.valid.steps) == (3, 40, 2)
    assert job.train.data.spec.form == ImageForm(1, 8, 8, 10)


def test_the_architecture_half_continues_from_epoch_to_epoch(search_job):
    job, seen = search_job(), []
    own_step, own_batch = job.method.step, job.valid.batch

    def step(train, valid):
        seen.append(valid.labels)
        return own_step(train, valid)

    job.method.step = step
    for epoch in range(2):
        job.start_epoch(epoch)
        for step_ in range(job.steps):
            job.step(epoch, step_)
    expected = [own_batch(*divmod(count, 2)).labels for count in range(6)]
    assert [a.tolist() for a in seen] == [b.tolist() for b in expected]


def test_a_search_starts_from_its_seed_only(search_job):
    first, again, other = search_job(seed=0), search_job(seed=0), search_job(seed=1)
    starts = [(job.method.trainer.parameters[0], job.method.alphas["normal"]) for job in (first, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(starts[0], starts[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(starts[0], starts[2], strict=True))
    assert torch.equal(first.train.batch(0, 0).images, again.train.batch(0, 0).images)
    assert not torch.equal(first.train.batch(0, 0).images, other.train.batch(0, 0).images)


def test_every_method_sees_the_same_batches(search_job):
    jobs = [search_job(method) for method in METHODS]
    for job in jobs[1:]:
        assert torch.equal(job.train.batch(0, 1).images, jobs[0].train.batch(0, 1).images)
        assert torch.equal(job.valid.batch(1, 0).images, jobs[0].valid.batch(1, 0).images)


def test_a_search_returns_what_derive_needs_and_what_it_cost(config, prepared, checkpoint):
    rows: list[Row] = []
    done = search(config, "darts", 0, prepared, CPU, checkpoint, rows.append)
    assert (done.space, done.history, done.resumed) == ("darts", rows, 0)
    assert done.state
    assert done.passes["train_images"] == 40, "one epoch"
    assert done.images == sum(done.passes.values()) > 40
    assert done.metrics["macs_t"] == done.macs / 1e12 > 0
    assert done.metrics["valid_acc"] == rows[-1]["valid_acc"]
    assert not [name for name in done.metrics if name.startswith(("ops.", "incumbent"))]


def test_a_size_that_the_space_does_not_have_is_refused_before_the_search():
    with pytest.raises(ParamsError, match=r"params\.yaml: 'retrain': cells is 4, but NAS-Bench-201's skeleton"):
        refuse_size(get_space("nasbench201"), ImageForm(1, 8, 8, 10), Size(cells=4, channels=2, stem="cifar"))
