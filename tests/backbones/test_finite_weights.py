import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from tlcli.backbones.finite_weights import check_finite
from tlcli.backbones.pretrained import create_backbone
from tlcli.backbones.timm_source import TimmSource
from tlcli.backbones.weight_files import load_state
from tlcli.errors import WeightsError

NAN, INF = float("nan"), float("inf")
REMEDY = (
    "The training that wrote it diverged, or the file is damaged: take an earlier checkpoint, or "
    "get it again."
)


def refusal_of(tensors: dict[str, Tensor]) -> str | None:
    try:
        check_finite(tensors, origin="w.pth")
    except WeightsError as error:
        return f"{error.exit_code}: {error}"
    return None


@given(values=arrays("float32", st.tuples(st.integers(1, 4), st.integers(0, 3))))
def test_check_finite__counts_what_is_no_number(values: object) -> None:
    tensor = torch.as_tensor(values)
    bad = sum(value != value or abs(value) == INF for value in tensor.flatten().tolist())
    message = refusal_of({"a.weight": tensor, "a.n": torch.tensor(3)})
    assert (message is None) == (bad == 0)
    if message:
        values_there = "value" if tensor.numel() == 1 else "values"
        assert f"'a.weight' ({bad} of {tensor.numel()} {values_there}). " in message


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_check_finite__every_dtype(value: float, dtype: torch.dtype) -> None:
    tensor = torch.ones(3, dtype=dtype)
    assert refusal_of({"a": tensor}) is None
    tensor[1] = value
    assert refusal_of({"a": tensor}) is not None


def test_check_finite__too_large_for_float32() -> None:
    assert refusal_of({"a": torch.tensor([1e300], dtype=torch.float64)}) is not None


def test_check_finite__eight_bits() -> None:
    assert refusal_of({"a": torch.ones(2).to(torch.float8_e4m3fn)}) is None
    assert refusal_of({"a": torch.tensor([1, NAN]).to(torch.float8_e4m3fn)}) is not None


def test_check_finite__single_numbers_may_be_infinite_bounds() -> None:
    assert refusal_of({"input_min": torch.tensor(-INF), "input_max": torch.tensor(INF)}) is None
    assert refusal_of({"scale": torch.tensor(NAN)}) is not None


def test_check_finite__message() -> None:
    tensors = {name: torch.full((40, 50), INF) for name in "abcde"} | {"f": torch.ones(2)}
    assert refusal_of(tensors) == (
        "4: w.pth cannot be used: 5 tensors hold NaN or infinity: 'a' (2,000 of 2,000 values), "
        f"'b' (2,000 of 2,000 values), 'c' (2,000 of 2,000 values) and 2 more. {REMEDY}"
    )


@pytest.fixture
def broken(tmp_path: Path) -> Callable[[str, str], Path]:
    """Weights of a network with two bad values in one tensor."""

    def make(name: str, key: str) -> Path:
        state = timm.create_model(name, num_classes=3).state_dict()
        state[key].flatten()[:2] = torch.tensor([NAN, INF])
        save_file(state, tmp_path / "weights.safetensors")
        return tmp_path / "weights.safetensors"

    return make


def test_load_state__module_stays_as_it_was(broken: Callable[[str, str], Path]) -> None:
    file = broken("test_resnet", "bn1.running_var")
    network = timm.create_model("test_resnet", num_classes=3)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(
        WeightsError, match=r"the file cannot.*: 1 tensor holds.*'bn1\.running_var' \(2 of 32 "
    ):
        load_state(network, load_file(file), head_names=("fc",), origin="the file")
    assert all(torch.equal(network.state_dict()[key], old) for key, old in before.items())


@pytest.mark.parametrize("input_size", [None, 224])
def test_create_backbone__counts_are_those_of_the_file(
    broken: Callable[[str, str], Path], input_size: int | None
) -> None:
    file = broken("test_vit", "pos_embed")
    told = re.escape(f"{file} cannot be used: 1 tensor holds NaN or infinity: 'pos_embed' (2 of ")
    with pytest.raises(WeightsError, match=told):
        create_backbone("timm/test_vit", weights=str(file), input_size=input_size)


def test_load_published__timm(tmp_path: Path) -> None:
    state = timm.create_model("test_vit").state_dict()
    state["head.bias"][7] = NAN
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"'head\.bias' \(1 of 1,000 values\)"):
        TimmSource().load_published(
            "test_vit", tag="r160_in1k", path=tmp_path / "model.safetensors"
        )
