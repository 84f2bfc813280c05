import pytest
import torch
from torch import Tensor, nn

from tlcli.backbones.stages import find_stages
from tlcli.models.frozen_proof import (
    FrozenReport,
    check_frozen,
    digest_of,
    digests_of,
    frozen_digests,
)
from tlcli.models.staged import StagedModel

EVERY_DTYPE = [
    torch.tensor([1.5, -2.0], dtype=torch.float64),
    torch.tensor([1.5, -2.0]),
    torch.tensor([1.5, -2.0], dtype=torch.float16),
    torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    torch.tensor([1, -2], dtype=torch.int64),
    torch.tensor([1, 2], dtype=torch.uint8),
    torch.tensor([True, False]),
    torch.tensor(3),
    torch.tensor(0.5),
    torch.tensor(True),
]
DTYPE_NAMES = [f"{tensor.dtype}, {tensor.ndim}d" for tensor in EVERY_DTYPE]


def flip_bit(tensor: Tensor, *, byte: int = 0, bit: int = 0) -> Tensor:
    """A copy in which one bit is another."""
    copy = tensor.clone()
    copy.reshape(-1).view(torch.uint8)[byte] ^= 1 << bit
    return copy


@pytest.mark.parametrize("tensor", EVERY_DTYPE, ids=DTYPE_NAMES)
def test_digest_of__same_values_same_digest(tensor: Tensor) -> None:
    assert digest_of(tensor) == digest_of(tensor.clone())
    assert len(digest_of(tensor)) == 32


@pytest.mark.parametrize("tensor", EVERY_DTYPE, ids=DTYPE_NAMES)
def test_digest_of__finds_each_single_bit(tensor: Tensor) -> None:
    digests = {digest_of(tensor)}
    size = tensor.numel() * tensor.element_size()
    bits = 1 if tensor.dtype == torch.bool else 8  # only 0 and 1 are bools
    for byte in range(size):
        for bit in range(bits):
            digests.add(digest_of(flip_bit(tensor, byte=byte, bit=bit)))
    assert len(digests) == 1 + size * bits


def test_digest_of__all_of_a_large_tensor() -> None:
    tensor = torch.zeros(1000, 1000)
    last = tensor.clone()
    last[-1, -1] = 1e-45  # the smallest number there is
    assert digest_of(tensor) != digest_of(last)


def test_digest_of__distinguishes_zero_from_minus_zero() -> None:
    assert digest_of(torch.tensor([0.0])) != digest_of(torch.tensor([-0.0]))


def test_digest_of__distinguishes_shape_and_dtype() -> None:
    zeros = [
        torch.zeros(4),
        torch.zeros(2, 2),
        torch.zeros(1, 4),
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(4, dtype=torch.int32),
        torch.zeros(0),
        torch.zeros(0, 3),
    ]
    assert len({digest_of(tensor) for tensor in zeros}) == len(zeros)


def test_digest_of__memory_layout_does_not_count() -> None:
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert digest_of(tensor) == digest_of(tensor.to(memory_format=torch.channels_last))
    assert digest_of(tensor.mT) == digest_of(tensor.mT.clone(memory_format=torch.contiguous_format))


def test_digest_of__of_a_parameter_and_of_nan() -> None:
    values = torch.tensor([float("nan"), float("inf")])
    assert digest_of(nn.Parameter(values)) == digest_of(values)


def frozen_model() -> StagedModel:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    model = StagedModel(network, stages=find_stages(network, head_names=["4"]))
    model.open_stages(["head"])
    return model


def proof(model: StagedModel, before: dict[str, str]) -> FrozenReport:
    names = [name for name, _ in model.network.named_parameters()]
    return check_frozen(before, after=frozen_digests(model), parameters=names)


def test_check_frozen__nothing_moved() -> None:
    model = frozen_model()
    before = frozen_digests(model)
    with torch.no_grad():
        model.network.get_parameter("4.weight").add_(1)  # the head may move
    report = proof(model, before)
    assert report == FrozenReport(tensors=4, buffers=3, changed=())
    assert report.to_json() == {"tensors": 4, "buffers": 3, "changed": 0, "changed_names": []}


@pytest.mark.parametrize(
    "name", ["0.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
)
def test_check_frozen__a_moved_tensor_is_found(name: str) -> None:
    model = frozen_model()
    before = frozen_digests(model)
    tensor = model.network.state_dict()[name]
    tensor.copy_(flip_bit(tensor))
    report = proof(model, before)
    assert report.changed == (name,)
    assert report.to_json()["changed"] == 1
    assert report.to_json()["changed_names"] == [name]


def test_check_frozen__statistics_moved_by_a_forward_pass() -> None:
    model = frozen_model()
    before = frozen_digests(model)
    model.network.train()  # past the guard of StagedModel.train
    model(torch.randn(2, 3, 8, 8))
    assert proof(model, before).changed == (
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    )


def test_check_frozen__a_tensor_that_vanished_counts_as_changed() -> None:
    report = check_frozen({"a": "1", "b": "2"}, after={"b": "2", "c": "3"}, parameters=["a"])
    assert report == FrozenReport(tensors=1, buffers=1, changed=("a",))


def test_digests_of__by_name() -> None:
    one, two = torch.ones(1), torch.zeros(1)
    assert digests_of([("a", one), ("b", two)]) == {"a": digest_of(one), "b": digest_of(two)}
