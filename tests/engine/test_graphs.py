"""Which passes are recorded, when, and that results do not change.

These tests run on a CPU with a substitute that behaves like PyTorch's recorder. That PyTorch's own recorder gives the
same bits is tested on a GPU (tests/test_device.py).
"""

import types

import pytest
import torch

from nas.config.params import parse_config
from nas.config.sections import ParamsError
from nas.contracts import HardMix, ImageForm, SoftMix
from nas.engine import graphs
from nas.engine.graphs import MAX_RECORDINGS, MIN_REPEATS, Graphs
from nas.engine.placement import place
from nas.methods import sections
from nas.spaces.registry import get_space
from tests.methods.settings import TREE, advance, batch, build, common
from tests.methods.test_methods import assert_equal

CPU = torch.device("cpu")
FORM = ImageForm(1, 8, 8, 3)


@pytest.fixture(autouse=True)
def recorder(monkeypatch):
    """A substitute for torch.cuda.make_graphed_callables on a CPU.

    It runs the pass a few times first, and then accepts only tensors like its samples. The list holds the number of
    replays of each recording.
    """
    replays: list[int] = []

    def record(module, samples, allow_unused_input):
        assert allow_unused_input
        inputs = [t for t in (*samples, *module.parameters()) if t.requires_grad]
        for _ in range(3):
            outputs = module(*samples)
            torch.autograd.grad(outputs, inputs, [torch.ones_like(y) for y in outputs], allow_unused=True)
        run, at = module.forward, len(replays)
        returned: list[torch.Tensor] = []
        replays.append(0)

        def replay(self, *given):
            assert [(t.shape, t.requires_grad) for t in given] == [(t.shape, t.requires_grad) for t in samples]
            assert [t for t in (*samples, *module.parameters()) if t.requires_grad] == inputs
            replays[at] += 1
            for old in returned:  # a replay overwrites the memory of the last one
                old.data.fill_(torch.nan)
            returned[:] = run(*given)
            return tuple(returned)

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
    monkeypatch.setattr(graphs, "MIN_REPEATS", 1)  # because an epoch has only two steps
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
    runs = []
    for replayed in (False, True):
        # 5 steps an epoch; drop path is above 0 from the second epoch
        job = retrain_job(precision=precision, graphs=replayed, ema=0.9, batch=8)
        losses = []
        for epoch in range(2):
            job.start_epoch(epoch)
            losses += [job.step(epoch, step).means() for step in range(job.steps)]
            job.end_epoch(epoch)
        runs.append([losses, dict(job.network.state_dict()), dict(job.result().state_dict()), torch.get_rng_state()])
    assert_equal(runs[1], runs[0])
    assert recorder == [5 - MIN_REPEATS] * 2, "one recording per drop path probability"


def supernet():
    torch.manual_seed(0)
    network = get_space("darts").supernet(FORM, common())
    return place(network, CPU, "float32", graphs=True)


def soft(**changes):
    alphas = {cell_type: torch.zeros(14, 8, requires_grad=True).softmax(-1) for cell_type in ("normal", "reduce")}
    return SoftMix(alphas, **changes)


def test_rare_passes_single_paths_and_passes_without_gradients_are_not_recorded(recorder):
    network, images = supernet(), batch(0).images
    for _ in range(MIN_REPEATS):
        network(images, soft())
    with torch.no_grad():
        for _ in range(2 * MIN_REPEATS):
            network(images, soft())
    for _ in range(2 * MIN_REPEATS):
        network(images, HardMix({"normal": [4] * 14, "reduce": [4] * 14}))
    assert recorder == []
    network(images, soft())
    assert recorder == [1]


def test_every_signature_has_its_own_recording_and_the_most_recently_used_are_kept(recorder):
    network, images = supernet(), batch(0).images
    some = {"normal": [[4]] * 14, "reduce": [[4]] * 14}
    passes = [
        lambda: network(images, soft()),
        lambda: network(images[:2], soft()),
        lambda: network(images[:3], soft()),
        lambda: network(images, soft(alive=some)),
        lambda: network(images, SoftMix({cell_type: table.detach() for cell_type, table in soft().weights.items()})),
    ]
    for run in passes:
        for _ in range(MIN_REPEATS + 1):
            run()
    network.requires_grad_(False)
    for _ in range(MIN_REPEATS + 1):
        passes[0]()
    network.eval()
    for _ in range(MIN_REPEATS + 1):
        passes[0]()
    assert recorder == [1] * 7
    forward = network.forward
    assert isinstance(forward, Graphs)
    assert len(forward.recordings) == MAX_RECORDINGS
    passes[0]()
    assert recorder == [1] * 6 + [2]


def test_a_batch_size_that_occurs_once_an_epoch_is_not_recorded(recorder, monkeypatch):
    monkeypatch.setattr(graphs, "WINDOW", 12)
    network, images = supernet(), batch(0).images
    for _ in range(2 * MIN_REPEATS):
        network(images[:2], soft())
        for _ in range(12):
            network(images, soft())
    assert len(recorder) == 1


def test_recordings_with_another_dropout_probability_are_dropped(recorder):
    network, images = supernet(), batch(0).images
    for share in (0.1, 0.2):
        for _ in range(MIN_REPEATS + 1):
            network(images, soft(skip_dropout=share))
    assert recorder == [1, 1]
    assert isinstance(network.forward, Graphs)
    (recording,) = network.forward.recordings.values()
    assert recording.dropout == (None, (0.2,))


def test_graphs_on_a_cpu_are_refused():
    tree = TREE | {"runtime": TREE["runtime"] | {"graphs": True}}
    with pytest.raises(ParamsError, match=r"'runtime': 'graphs' is true, but 'device' is cpu: expected false, because"):
        parse_config(tree, *sections())
