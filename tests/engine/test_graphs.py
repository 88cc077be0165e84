"""What is recorded, when, and that nobody can tell. On a CPU something that behaves like torch's recorder stands in its
place; that torch's own gives the same bits is seen on a GPU (tests/test_device.py)."""

import types

import pytest
import torch

from nas.config.params import parse_config
from nas.config.sections import ParamsError
from nas.contracts import HardMix, ImageForm, SoftMix
from nas.engine import graphs
from nas.engine.graphs import KEPT, SEEN, Graphs
from nas.engine.placement import place
from nas.methods import sections
from nas.spaces.registry import get_space
from tests.methods.settings import TREE, advance, batch, build, common
from tests.methods.test_methods import assert_equal

CPU = torch.device("cpu")
FORM = ImageForm(1, 8, 8, 3)


@pytest.fixture(autouse=True)
def recorder(monkeypatch):
    """torch.cuda.make_graphed_callables on a CPU: runs the pass some times before, then takes nothing but tensors like
    its samples. The list has the number of replays of each recording."""
    replays: list[int] = []

    def record(module, samples, allow_unused_input):
        assert allow_unused_input
        inputs = [t for t in (*samples, *module.parameters()) if t.requires_grad]
        for _ in range(3):
            found = module(*samples)
            torch.autograd.grad(found, inputs, [torch.ones_like(y) for y in found], allow_unused=True)
        run, at = module.forward, len(replays)
        given_out: list[torch.Tensor] = []
        replays.append(0)

        def replay(self, *given):
            assert [(t.shape, t.requires_grad) for t in given] == [(t.shape, t.requires_grad) for t in samples]
            assert [t for t in (*samples, *module.parameters()) if t.requires_grad] == inputs
            replays[at] += 1
            for old in given_out:  # its memory is written anew
                old.data.fill_(torch.nan)
            given_out[:] = run(*given)
            return tuple(given_out)

        module.forward = types.MethodType(replay, module)
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state))
    return replays


SEARCHES = [
    ("darts", {"order": "first", "skip_dropout": 0.2}),
    ("darts", {"order": "second", "space": "nasbench201"}),
    ("lfr_darts", {"epochs_each": 3, "future": "trainable", "order": "unrolled"}),
    ("eoinas", {"space": "nasbench201"}),
    ("random", {"samples": 2}),
    ("asng", {"warmup_epochs": 1, "mixture_epochs": 1, "space": "nasbench201"}),
]


@pytest.mark.parametrize(("name", "changes"), SEARCHES, ids=str)
def test_a_search_has_the_same_bits_with_graphs(name, changes, recorder, monkeypatch):
    monkeypatch.setattr(graphs, "SEEN", 1)  # of two steps an epoch
    rows, states = [], []
    for replayed in (False, True):
        method = build(name, method=changes, graphs=replayed, epochs=3)
        rows.append(advance(method, 0, 6))
        states.append([method.state_dict(), torch.get_rng_state()])
    assert_equal(rows[1], rows[0])
    assert_equal(states[1], states[0])
    assert len(recorder) > 0
    assert all(count > 0 for count in recorder)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_retraining_has_the_same_bits_with_graphs(retrain_job, precision, recorder):
    found = []
    for replayed in (False, True):
        job = retrain_job(
            precision=precision, graphs=replayed, ema=0.9, batch=8
        )  # 5 steps; drop path in the second epoch
        losses = []
        for epoch in range(2):
            job.start_epoch(epoch)
            losses += [job.step(epoch, step).means() for step in range(job.steps)]
            job.end_epoch(epoch)
        found.append([losses, dict(job.network.state_dict()), dict(job.result().state_dict()), torch.get_rng_state()])
    assert_equal(found[1], found[0])
    assert recorder == [5 - SEEN] * 2, "one recording for each drop path"


def supernet():
    torch.manual_seed(0)
    network = get_space("darts").supernet(FORM, common())
    return place(network, CPU, "float32", graphs=True)


def soft(**changes):
    alphas = {kind: torch.zeros(14, 8, requires_grad=True).softmax(-1) for kind in ("normal", "reduce")}
    return SoftMix(alphas, **changes)


def test_what_comes_seldom_or_has_no_gradient_or_one_path_is_not_recorded(recorder):
    network, images = supernet(), batch(0).images
    for _ in range(SEEN):
        network(images, soft())
    with torch.no_grad():
        for _ in range(2 * SEEN):
            network(images, soft())
    for _ in range(2 * SEEN):
        network(images, HardMix({"normal": [4] * 14, "reduce": [4] * 14}))
    assert recorder == []
    network(images, soft())
    assert recorder == [1]


def test_every_kind_of_pass_has_its_own_recording_and_the_last_used_stay(recorder):
    network, images = supernet(), batch(0).images
    some = {"normal": [[4]] * 14, "reduce": [[4]] * 14}
    kinds = [
        lambda: network(images, soft()),
        lambda: network(images[:2], soft()),
        lambda: network(images[:3], soft()),
        lambda: network(images, soft(alive=some)),
        lambda: network(images, SoftMix({kind: table.detach() for kind, table in soft().weights.items()})),
    ]
    for run in kinds:
        for _ in range(SEEN + 1):
            run()
    network.requires_grad_(False)
    for _ in range(SEEN + 1):
        kinds[0]()
    network.eval()
    for _ in range(SEEN + 1):
        kinds[0]()
    assert recorder == [1] * 7
    forward = network.forward
    assert isinstance(forward, Graphs)
    assert len(forward.kept) == KEPT
    kinds[0]()
    assert recorder == [1] * 6 + [2]


def test_a_batch_that_comes_once_an_epoch_is_not_recorded(recorder, monkeypatch):
    monkeypatch.setattr(graphs, "WATCHED", 12)
    network, images = supernet(), batch(0).images
    for _ in range(2 * SEEN):
        network(images[:2], soft())
        for _ in range(12):
            network(images, soft())
    assert len(recorder) == 1


def test_recordings_of_another_dropout_go(recorder):
    network, images = supernet(), batch(0).images
    for share in (0.1, 0.2):
        for _ in range(SEEN + 1):
            network(images, soft(skip_dropout=share))
    assert recorder == [1, 1]
    assert isinstance(network.forward, Graphs)
    (kept,) = network.forward.kept.values()
    assert kept.dropping == (None, (0.2,))


def test_graphs_on_a_cpu_are_refused():
    tree = TREE | {"runtime": TREE["runtime"] | {"graphs": True}}
    with pytest.raises(ParamsError, match=r"'runtime': 'graphs' is true, but 'device' is cpu: CUDA graphs need cuda"):
        parse_config(tree, *sections())
