import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import tlcli
from tlcli.engine.runtime import Runtime, choose_runtime, describe_environment
from tlcli.errors import ConfigError, MachineError


def on_cpu(**changes: object) -> Runtime:
    options = {"amp": None, "amp_dtype": "auto", "channels_last": False, "seed": 0, **changes}
    return choose_runtime("cpu", **options)  # type: ignore[arg-type]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_choose_runtime__tiny_numbers_are_zero_in_every_thread() -> None:
    """Threads take it over when they are made: only a new process shows it."""
    code = (
        "import torch; from concurrent.futures import ThreadPoolExecutor;"
        "from tlcli.engine.runtime import choose_runtime;"
        "choose_runtime('cpu', amp=None, amp_dtype='auto', channels_last=True, seed=0);"
        "halves = lambda: int((torch.full((1 << 20,), 1.5e-38) * 0.5).count_nonzero());"
        "print(halves(), ThreadPoolExecutor(1).submit(halves).result())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )

    assert done.stdout == "0 0\n"


def test_place__converts_what_has_four_dimensions() -> None:
    """LambdaNetworks have 3D convolutions, at which PyTorch's own conversion stops."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv3d(1, 4, (3, 3, 1)), nn.Linear(4, 2))
    network.register_buffer("map", torch.rand(1, 3, 4, 4))
    kept = {name: (id(tensor), tensor.clone()) for name, tensor in network.named_parameters()}

    on_cpu(channels_last=True).place(network)

    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network.map.is_contiguous(memory_format=torch.channels_last)
    assert network[1].weight.is_contiguous()
    for name, parameter in network.named_parameters():
        assert (id(parameter), parameter.tolist()) == (kept[name][0], kept[name][1].tolist())


@pytest.mark.parametrize("channels_last", [True, False])
def test_place_for_training__gradients_have_the_format_of_the_images(channels_last: bool) -> None:
    norm = nn.BatchNorm2d(8)
    found: list[Tensor] = []
    runtime = on_cpu(channels_last=channels_last)

    runtime.place_for_training(norm)
    output = norm(runtime.images(torch.rand(4, 8, 3, 3)))
    output.register_hook(found.append)
    F.relu6(output).mean((2, 3)).square().sum().backward()

    assert found[0].is_contiguous(memory_format=torch.channels_last) == channels_last


@pytest.mark.usefixtures("no_gpu")
def test_choose_runtime__auto_without_a_gpu_is_the_cpu_in_float32() -> None:
    runtime = choose_runtime("auto", amp=None, amp_dtype="auto", channels_last=True, seed=3)

    assert runtime == Runtime(
        device=torch.device("cpu"), amp_dtype=None, channels_last=True, seed=3
    )


def test_choose_runtime__auto_prefers_cuda_with_mixed_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)

    runtime = choose_runtime("auto", amp=None, amp_dtype="auto", channels_last=True, seed=0)

    assert (runtime.device.type, runtime.amp_dtype) == ("cuda", torch.float16)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_choose_runtime__device_that_is_not_here(device: str) -> None:
    kind = device.partition(":")[0]
    with pytest.raises(
        MachineError,
        match=f"--device {device}: there is no {kind} device here. This machine has: cpu.",
    ) as caught:
        choose_runtime(device, amp=None, amp_dtype="auto", channels_last=True, seed=0)
    assert caught.value.exit_code == 5


def test_choose_runtime__cuda_device_beyond_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    with pytest.raises(MachineError, match="--device cuda:2: this machine has 2 CUDA devices"):
        choose_runtime("cuda:2", amp=False, amp_dtype="auto", channels_last=True, seed=0)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "CPU"])
def test_choose_runtime__word_that_is_no_device(device: str) -> None:
    with pytest.raises(ConfigError, match=f"--device '{device}' is no device: use auto, cpu"):
        choose_runtime(device, amp=None, amp_dtype="auto", channels_last=True, seed=0)


@pytest.mark.parametrize(
    ("amp", "amp_dtype", "expected"),
    [
        (None, "auto", None),
        (False, "auto", None),
        (True, "auto", torch.bfloat16),
        (True, "bfloat16", torch.bfloat16),
    ],
)
def test_choose_runtime__amp_on_the_cpu(
    amp: bool | None, amp_dtype: str, expected: torch.dtype | None
) -> None:
    assert on_cpu(amp=amp, amp_dtype=amp_dtype).amp_dtype is expected


def test_choose_runtime__float16_on_the_cpu_is_refused() -> None:
    with pytest.raises(MachineError, match="--amp-dtype float16 needs a GPU; use bfloat16"):
        on_cpu(amp=True, amp_dtype="float16")


def test_choose_runtime__amp_dtype_without_amp_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="--amp-dtype bfloat16 has no effect: mixed precision is off on cpu"
    ):
        on_cpu(amp=None, amp_dtype="bfloat16")


@pytest.mark.parametrize(("amp", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast__computes_in_the_chosen_precision(amp: bool, expected: torch.dtype) -> None:
    with on_cpu(amp=amp).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype is expected


@pytest.mark.parametrize(
    ("dtype", "enabled"), [(None, False), (torch.bfloat16, False), (torch.float16, True)]
)
def test_grad_scaler__scales_float16_only(dtype: torch.dtype | None, enabled: bool) -> None:
    runtime = Runtime(device=torch.device("cpu"), amp_dtype=dtype, channels_last=False, seed=0)

    assert runtime.grad_scaler().is_enabled() is enabled


@pytest.mark.parametrize("channels_last", [True, False])
def test_place__and_images_have_one_memory_format(channels_last: bool) -> None:
    runtime = on_cpu(channels_last=channels_last)
    model = nn.Conv2d(3, 4, 3)
    images = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8)

    runtime.place(model)
    moved = runtime.images(images)

    assert torch.equal(moved, images)
    for tensor in (model.weight, moved):
        assert tensor.is_contiguous(memory_format=torch.channels_last) is channels_last


def numbers_of(runtime: Runtime, epoch: int, step: int) -> list[float]:
    runtime.seed_step(epoch, step)
    values: list[float] = torch.rand(4).tolist()
    return values


def test_seed_step__does_not_depend_on_what_was_drawn_before() -> None:
    runtime = on_cpu(seed=7)
    first = numbers_of(runtime, 2, 5)
    torch.manual_seed(99)
    torch.rand(1000)

    assert numbers_of(runtime, 2, 5) == first


@given(
    first=st.tuples(st.integers(0, 9), st.integers(0, 50), st.integers(0, 50)),
    second=st.tuples(st.integers(0, 9), st.integers(0, 50), st.integers(0, 50)),
)
def test_seed_step__differs_between_seeds_epochs_and_steps(
    first: tuple[int, int, int], second: tuple[int, int, int]
) -> None:
    draws = [numbers_of(on_cpu(seed=seed), epoch, step) for seed, epoch, step in (first, second)]

    assert (draws[0] == draws[1]) is (first == second)


def test_seed_step__takes_seeds_of_any_size() -> None:
    assert numbers_of(on_cpu(seed=2**80), 0, 0) != numbers_of(on_cpu(seed=2**80 + 1), 0, 0)


def test_describe_environment__names_versions_and_device() -> None:
    values = describe_environment(on_cpu(amp=True, channels_last=True))

    assert values["tlcli"] == tlcli.__version__
    assert values["torch"] == torch.__version__
    assert (values["device"], values["device_name"]) == ("cpu", "cpu")
    assert (values["amp_dtype"], values["channels_last"]) == ("torch.bfloat16", True)
    assert values["threads"] == torch.get_num_threads()
