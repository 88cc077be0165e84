"""The layout and precision of every network, and that they change a search only by rounding."""

import pytest
import torch

from nas.architectures.genotypes import GENOTYPES
from nas.config.params import Runtime
from nas.contracts import ImageForm
from nas.engine.placement import describe, place, prefers_merged
from nas.spaces.darts.cells import MixedCell
from nas.spaces.registry import get_space
from nas.training.search import SearchJob

CPU = torch.device("cpu")
STEPS = 6


@pytest.fixture
def network(config):
    torch.manual_seed(0)
    return get_space("darts").network(GENOTYPES["PDARTS"], ImageForm(1, 8, 8, 10), config.retrain, auxiliary=True)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_weights_logits_and_gradients_are_float32_in_channels_last(network, precision):
    placed = place(network, CPU, precision)
    logits, auxiliary = placed(torch.randn(4, 1, 8, 8).to(memory_format=torch.channels_last))
    assert logits.dtype == auxiliary.dtype == torch.float32
    (logits.sum() + auxiliary.sum()).backward()
    for parameter in placed.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None or parameter.grad.dtype == torch.float32
        assert parameter.is_contiguous(memory_format=torch.channels_last) or parameter.dim() != 4


def test_bf16_computes_in_bf16(network):
    seen = set()
    place(network, CPU, "bf16")
    network.stem.whole[0].register_forward_hook(lambda _, __, y: seen.add(y.dtype))
    network(torch.randn(4, 1, 8, 8))
    assert seen == {torch.bfloat16}


def test_the_form_of_the_convolutions_depends_on_the_map_size_and_the_precision():
    small, large = torch.empty(16, 16, 8, 8), torch.empty(16, 16, 32, 32)
    assert prefers_merged(small)
    assert not prefers_merged(large)
    with torch.autocast("cpu", torch.bfloat16):
        assert prefers_merged(large)
    assert prefers_merged(large.to("meta")), "any other device"


@pytest.mark.parametrize(("precision", "form"), [("bf16", "merged"), ("float32", "factored, merged on small maps")])
def test_the_log_names_the_form_of_the_supernet_convolutions(precision, form):
    runtime = Runtime(device="cpu", threads=1, precision=precision, deterministic=True, graphs=False)
    assert f"supernet convolutions {form}, deterministic" in describe(runtime, CPU)


def test_the_log_names_device_threads_precision_and_kernels():
    runtime = Runtime(device="cpu", threads=2, precision="bf16", deterministic=True, graphs=False)
    line = describe(runtime, CPU)
    assert all(
        word in line for word in ("CPU", "threads: 2", "bf16", "channels-last", "deterministic", torch.__version__)
    )


def losses(config, prepared, precision="float32", reference=False):
    """Training losses of the first steps of a DARTS search."""
    runtime = config.runtime.model_copy(update={"precision": precision})
    job = SearchJob(config.model_copy(update={"runtime": runtime}), "darts", 0, prepared, CPU)
    if reference:
        for cell in [module for module in vars(job.method)["supernet"].modules() if isinstance(module, MixedCell)]:
            cell.reference = True
    values = []
    for epoch, step in (divmod(count, job.steps) for count in range(STEPS)):
        if step == 0:
            job.start_epoch(min(epoch, job.epochs - 1))
        tally = job.step(epoch, step)
        values.append(tally.loss.item() / tally.images)
    return values


def test_float32_and_bf16_searches_have_the_loss_curve_of_the_reference_within_rounding(config, prepared):
    plain = losses(config, prepared, reference=True)  # 2 channels, where rounding errors matter most
    assert len(set(plain)) == STEPS
    assert losses(config, prepared) == pytest.approx(plain, rel=1e-3)
    rounded = losses(config, prepared, "bf16")
    assert rounded == pytest.approx(plain, rel=0.1)
    assert rounded != pytest.approx(plain, rel=1e-6), "bf16 was not used"
