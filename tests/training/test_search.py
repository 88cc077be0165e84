import torch

from nas.contracts import ImageForm
from nas.data.dataset import load_split
from nas.registry import METHODS


def test_the_two_halves_are_those_of_the_splits(search_job, prepared):
    job = search_job()
    for stream, name in ((job.train, "search_train"), (job.valid, "search_valid"), (job.plain, "search_valid")):
        assert torch.equal(stream.data.indices, load_split(prepared, name, job.device).indices)
    assert (job.steps, job.images, job.valid.steps) == (3, 40, 2)
    assert job.train.data.spec.form == ImageForm(1, 8, 8, 10)


def test_the_architecture_half_runs_on_from_epoch_to_epoch(search_job):
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


def test_the_seed_alone_decides_where_a_search_starts(search_job):
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
