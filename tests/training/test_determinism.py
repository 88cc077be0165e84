import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.config.params import Runtime
from nas.training.determinism import (
    DeviceError,
    derived_seed,
    prepare_device,
    rng_state,
    seed_everything,
    set_rng_state,
)

CPU = torch.device("cpu")


@pytest.fixture
def switches():
    """The process-wide switches, put back afterwards."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, benchmark
    torch.set_num_threads(threads)


def test_seeds_of_other_parts_are_others_and_fit_a_generator():
    parts: list[tuple[object, ...]] = [
        ("search", method, seed) for method in ("darts", "random") for seed in range(100)
    ]
    parts += [("search", seed, half) for seed in range(100) for half in ("train", "valid")]
    seeds = {derived_seed(*p) for p in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert max(seeds) > 2**61


def test_a_seed_is_the_same_in_every_process():
    assert derived_seed("search", "darts", 0) == derived_seed("search", "darts", "0") == 4312722473126564970


@given(st.text(min_size=1), st.text(min_size=1))
def test_seeds_depend_on_the_order_of_their_parts(a, b):
    assert (derived_seed("x", a, b) == derived_seed("x", b, a)) == (f"{a}/{b}" == f"{b}/{a}")


def test_seeding_gives_the_same_numbers_and_its_state_comes_back():
    seed_everything("a", 1)
    state, first = rng_state(CPU), torch.rand(3)
    torch.rand(5)
    set_rng_state(state, CPU)
    assert torch.equal(torch.rand(3), first)
    assert seed_everything("a", 1) == derived_seed("a", 1)
    assert torch.equal(torch.rand(3), first)
    seed_everything("a", 2)
    assert not torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("deterministic", [True, False])
def test_one_switch_sets_threads_and_kernels(switches, deterministic):
    device = prepare_device(
        Runtime(device="cpu", threads=2, precision="float32", deterministic=deterministic, graphs=False)
    )
    assert device == CPU
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert torch.backends.cudnn.deterministic == deterministic
    assert torch.backends.cudnn.benchmark != deterministic


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_an_error_that_names_the_key(switches):
    with pytest.raises(DeviceError, match=r"params\.yaml: 'runtime\.device' is 'cuda', but torch .* finds no GPU"):
        prepare_device(Runtime(device="cuda", threads=1, precision="float32", deterministic=True, graphs=False))
