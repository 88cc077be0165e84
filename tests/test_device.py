"""Rules of a GPU. Steps run on `meta` (tests/device.py) on any machine, and on a GPU if there is one."""

import signal
from typing import Any

import pytest
import torch

from nas.data.dataset import Batch, ImageSet, Stream
from nas.engine import graphs
from nas.engine.tasks import Tally
from nas.training.checkpoint import Checkpoint, Interrupted, Stop
from nas.training.determinism import prepare_device
from nas.training.loop import run
from nas.training.search import SearchJob
from tests.data.test_dataset import BOXES, COLOURS, FULL, image_set
from tests.device import META, Apart, CrossingError, needs_gpu, never_waits
from tests.methods.settings import SEARCHED, STAGED, TABLED, batch, build

CUDA = torch.device("cuda")
DEVICES = pytest.mark.parametrize("device", [META, pytest.param(CUDA, marks=needs_gpu)], ids=str)
# Methods whose every step has to read from the device, and why.
WAITS = {"gdas": "the operations that run in a pass are sampled from the alphas"}
# Ways of a method that are tested; without an entry, a method is tested as presets/digits.yaml has it. Not tested are
# steps that have to read from the device: the pruning events of TENAS (scores), the steps of a distribution (losses).
HALVES = [["normal_1", "reduce_1"], ["normal_2", "reduce_2", "normal_3"]]  # two iterations instead of three
WAYS: dict[str, list[dict[str, Any]]] = {
    "random": [{"samples": 1}, {"samples": 1, **TABLED}],
    "darts": [
        {"order": "first", **TABLED},
        {"order": "second", **TABLED},
        {"order": "first", "skip_dropout": 0.2},
    ],
    "lfr_darts": [
        {"epochs_each": 2, "future": "trainable", "order": "unrolled", "groups": HALVES},
        {"epochs_each": 4, "prune": "progressive", "max_skips": 1, "skip_dropout": 0.1},
        {"epochs_each": 2, **STAGED},
    ],
    "eoinas": [TABLED, {}],
    "tenas": [
        {"warmup": 0, "prune_every": 2, "skip_mode": "fallback", "score_split": "valid"},
        {"warmup": 0, "prune_every": 2, "score": "abs2017", "op": "conv_3x3"},
    ],
    "asng": [
        {"warmup_epochs": 1},
        {"warmup_epochs": 1, "space": "darts"},
        {"warmup_epochs": 1, "mixture_epochs": 1, **TABLED},
    ],
    "is_nas": [{"warmup_epochs": 1}, {"warmup_epochs": 1, "space": "mobile_cifar"}],
}
UNREAD = [(name, changes) for name in SEARCHED if name not in WAITS for changes in WAYS.get(name, [{}])]


def there(data: ImageSet, device: torch.device) -> ImageSet:
    return ImageSet(data.images.to(device), data.labels.to(device), data.indices.to(device), data.spec)


def batch_on(device: torch.device, seed: int) -> Batch:
    return Batch(*(part.to(device) for part in batch(seed)))


@pytest.mark.parametrize(
    "crossing",
    [
        lambda far, near: far + near,
        lambda far, near: torch.nn.functional.linear(far, near),
        lambda far, near: far[torch.tensor([0, 1])],
        lambda far, near: far.to("cpu"),
        lambda far, near: near.to(META),
        lambda far, near: far.copy_(near),
        lambda far, near: near.copy_(far),
        lambda far, near: torch.tensor([0.5, 1.0], device=META),
        lambda far, near: far.sum().item(),
        lambda far, near: far.tolist(),
        lambda far, near: far[far > 0],
        lambda far, near: far.nonzero(),
        lambda far, near: bool((far > 0).any()),
    ],
)
def test_the_meta_device_detects_what_a_gpu_would_wait_for(crossing):
    far, near = torch.zeros(3, 3, device=META), torch.zeros(3, 3)
    with pytest.raises((CrossingError, NotImplementedError, RuntimeError)):
        never_waits(META, crossing, far, near)


def test_the_meta_device_allows_what_a_gpu_does_not_wait_for():
    far = torch.zeros(3, 3, device=META, requires_grad=True)
    with Apart():
        (far * torch.tensor(2.0) + torch.ones(3, device=META)).sum().backward()
        torch.zeros(3).to(META, non_blocking=True)
    assert far.grad is not None
    assert far.grad.device == META


@pytest.mark.parametrize("name", WAITS)
def test_a_method_that_is_exempt_from_the_rule_against_waiting_does_wait(name):
    method = build(name, device=META)
    method.start_epoch(0)
    with pytest.raises((CrossingError, NotImplementedError, RuntimeError)):
        never_waits(META, method.step, batch_on(META, 0), batch_on(META, 1))


@DEVICES
@pytest.mark.parametrize(("name", "changes"), UNREAD, ids=str)
def test_no_step_of_a_search_waits_for_the_device(name, changes, device):
    size = {"cells": 16} if changes.get("space") == "mobile_cifar" else {}
    method = build(name, method=changes, device=device, **size)
    method.start_epoch(1 if name in ("eoinas", "lfr_darts") else 0)  # the first epoch that moves alphas
    for step in range(1 if name == "tenas" else 2):
        halves = [batch_on(device, 2 * step), batch_on(device, 2 * step + 1)]
        tally = never_waits(device, method.step, *halves)
        assert tally.loss.device.type == tally.correct.device.type == device.type


@DEVICES
@pytest.mark.parametrize(
    "changes", [{}, {"ema": 0.9, "label_smoothing": 0.1}, {"schedule": "one_cycle", "warmup_epochs": 1}], ids=str
)
def test_no_step_of_a_retraining_waits_for_the_device(retrain_job, changes, device):
    job = retrain_job(device=device, augment=FULL, **changes)
    job.start_epoch(1)
    for step in range(2):
        tally = never_waits(device, job.step, 1, step)
        assert tally.loss.device.type == device.type


@DEVICES
@pytest.mark.parametrize("augment", [None, FULL, BOXES, COLOURS], ids=["none", "full", "boxes", "colours"])
def test_no_batch_waits_for_the_device(augment, device):
    stream = Stream(there(image_set(), device), 6, augment, 0)
    for step in range(stream.steps):
        assert never_waits(device, stream.batch, 0, step).images.device.type == device.type


# --- With numbers, only on a GPU


@needs_gpu
@pytest.mark.usefixtures("switches")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_retraining_on_a_gpu_is_the_same_bits_from_graphs(config, retrain_job, precision, monkeypatch):
    monkeypatch.setattr(graphs, "MIN_REPEATS", 0)
    prepare_device(config.runtime.model_copy(update={"device": "cuda"}))
    found = []
    for replayed in (False, True):
        job = retrain_job(precision=precision, device=CUDA, graphs=replayed, ema=0.9)
        losses = []
        for epoch in range(2):
            job.start_epoch(epoch)
            losses += [job.step(epoch, step).means() for step in range(job.steps)]
        found.append((losses, [value.tolist() for value in job.result().state_dict().values()]))
    assert found[1] == found[0]


@needs_gpu
@pytest.mark.parametrize("augment", [FULL, BOXES, COLOURS], ids=["full", "boxes", "colours"])
def test_batches_are_the_same_bits_on_a_gpu(augment):
    far = Stream(there(image_set(), CUDA), 6, augment, 0).epoch(0)
    for batch_there, batch_here in zip(far, Stream(image_set(), 6, augment, 0).epoch(0), strict=True):
        assert torch.equal(batch_there.images.cpu(), batch_here.images)
        assert torch.equal(batch_there.labels.cpu(), batch_here.labels)


@pytest.fixture
def switches():
    """Restores torch's global switches, which a search on a GPU sets."""
    kernels = torch.get_deterministic_debug_mode(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    torch.set_deterministic_debug_mode(kernels[0])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = kernels[1:]


def of_search(config, prepared, method: str, precision: str, device: torch.device, replayed: bool = False) -> SearchJob:
    changes = {"device": device.type, "precision": precision, "graphs": replayed}
    runtime = config.runtime.model_copy(update=changes)
    prepare_device(runtime)
    return SearchJob(config.model_copy(update={"runtime": runtime}), method, 0, prepared, device)


@needs_gpu
@pytest.mark.usefixtures("switches")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("method", SEARCHED)
def test_a_search_on_a_gpu_is_the_same_bits_again_after_a_stop_and_from_graphs(
    config,
    prepared,
    method,
    precision,
    tmp_path,
    monkeypatch,
):
    def outcome(name: str, stops: bool = False, replayed: bool = False) -> tuple[Any, Any]:
        stop = Stop()
        checkpoint = Checkpoint(tmp_path / name / "job.pt", stop)
        job = of_search(config, prepared, method, precision, CUDA, replayed)
        if stops:
            own: Any = job.method.step

            def step(train: Batch, valid: Batch) -> Tally:
                stop.signum = signal.SIGTERM
                return own(train, valid)

            setattr(job.method, "step", step)  # noqa: B010 (mypy minds a method that is assigned)
            with pytest.raises(Interrupted):
                run(job, checkpoint, lambda row: None)
            stop.signum = None
            job = of_search(config, prepared, method, precision, CUDA)
        history = run(job, checkpoint, lambda row: None).history
        return history, job.method.search_state()

    first = outcome("first")
    assert outcome("again") == first
    assert outcome("resumed", stops=True) == first
    monkeypatch.setattr(graphs, "MIN_REPEATS", 0)
    assert outcome("replayed", replayed=True) == first


@needs_gpu
@pytest.mark.usefixtures("switches")
@pytest.mark.parametrize(("precision", "within"), [("float32", 1e-3), ("bf16", 0.1)])
def test_a_search_on_a_gpu_has_the_loss_curve_of_a_cpu_within_rounding(config, prepared, precision, within):
    def losses(precision: str, device: torch.device) -> list[float]:
        job = of_search(config, prepared, "darts", precision, device)
        job.start_epoch(0)
        tallies = [job.step(0, step) for step in range(job.steps)]
        return [tally.means()[0] for tally in tallies]

    assert losses(precision, CUDA) == pytest.approx(losses("float32", torch.device("cpu")), rel=within)
