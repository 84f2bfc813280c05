from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d, ScaledStdConv2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from tests.models.networks import randomize_norms, sample
from tlcli.models.folding import TOLERANCE, fold_batch_norms
from tlcli.models.frozen_proof import digests_of

COUNTS = {
    "torchvision/resnet18": 20,
    "torchvision/mobilenet_v3_small": 34,
    "torchvision/densenet121": 59,  # of 121: most come before their convolution
    "torchvision/regnet_y_400mf": 53,
    "torchvision/efficientnet_b0": 49,
    "torchvision/googlenet": 57,
    "torchvision/squeezenet1_1": 0,
    "timm/test_resnet": 15,
    "timm/test_efficientnet": 13,
    "timm/test_byobnet": 14,
    "timm/test_vit": 0,
    "timm/test_convnext": 0,
    "timm/resnetv2_18": 8,  # of 17: pre-activation
    "timm/mobilenetv3_small_050": 34,
    "timm/tf_efficientnet_lite0": 49,
}
NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def norms_of(network: nn.Module) -> int:
    return sum(isinstance(module, NORMS) for module in network.modules())


def assert_same(before: nn.Module, after: nn.Module, images: Tensor, tolerance: float) -> None:
    expected = before.eval()(images)
    assert expected.abs().max() > 0
    assert (after(images) - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize(("name", "count"), COUNTS.items(), ids=list(COUNTS))
def test_fold_batch_norms__families(name: str, count: int) -> None:
    model = sample(name, None if name == "timm/test_vit" else 64)
    before = digests_of(model.network.state_dict().items())
    norms = norms_of(model.network)
    result = fold_batch_norms(model.network, example=model.images())
    assert result.folded == count
    assert norms_of(result.network) == norms - count
    assert_same(model.network, result.network, model.images(seed=5), 1e-5)
    assert digests_of(model.network.state_dict().items()) == before
    ours = {tensor.data_ptr() for tensor in model.network.state_dict().values()}
    assert ours.isdisjoint(t.data_ptr() for t in result.network.state_dict().values())


def test_fold_batch_norms__trained_weights(shared_weights: Path) -> None:
    model = sample("timm/tf_efficientnet_lite0")
    model.network.load_state_dict(
        load_file(shared_weights / "timm_tf_efficientnet_lite0.safetensors")
    )
    result = fold_batch_norms(model.network, example=model.images())
    assert result.folded == 49
    assert_same(model.network, result.network, model.images(seed=5), 1e-5)


def test_fold_batch_norms__one_by_hand() -> None:
    conv, norm = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
    conv.bias.copy_(torch.tensor([1.0, -1.0]))
    norm.running_mean.copy_(torch.tensor([3.0, 5.0]))
    norm.running_var.copy_(torch.tensor([4.0, 0.25]) - norm.eps)
    norm.weight.copy_(torch.tensor([10.0, -1.0]))
    norm.bias.copy_(torch.tensor([0.5, 0.0]))
    folded = fold_batch_norms(nn.Sequential(conv, norm), example=IMAGES).network
    assert isinstance(folded[1], nn.Identity)
    scale = torch.tensor([5.0, -2.0])
    torch.testing.assert_close(folded[0].weight, conv.weight * scale[:, None, None, None])
    torch.testing.assert_close(folded[0].bias, torch.tensor([(1 - 3) * 5 + 0.5, (-1 - 5) * -2.0]))


def folded_count(network: nn.Module) -> int:
    """Fold with random statistics; whatever the count, the outputs must be the same."""
    randomize_norms(network)
    result = fold_batch_norms(network, example=IMAGES)
    assert_same(network, result.network, IMAGES.flip(2), 1e-5)
    return result.folded


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4, affine=False),
        nn.SyncBatchNorm(4),
        FrozenBatchNorm2d(4),
        BatchNormAct2d(4),
        BatchNormAct2d(4, act_layer=nn.SiLU),
        BatchNormAct2d(4, apply_act=False),
        BatchNormAct2d(4, drop_layer=nn.Dropout),
    ],
    ids=["no affine", "sync", "frozen", "relu", "silu", "no act", "drop"],
)
def test_fold_batch_norms__kinds_of_norms(norm: nn.Module) -> None:
    assert folded_count(nn.Sequential(nn.Conv2d(3, 4, 3, groups=1, bias=False), norm)) == 1


def test_fold_batch_norms__what_a_norm_of_timm_does_behind_it_stays() -> None:
    norm = BatchNormAct2d(4, act_layer=nn.SiLU, drop_layer=nn.Dropout)
    folded = fold_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 3), norm), example=IMAGES).network
    assert [type(layer) for layer in folded[1]] == [nn.Dropout, nn.SiLU]


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 6, 3, groups=3),
        nn.Conv2d(3, 6, 5, stride=2, padding=2, padding_mode="reflect"),
        nn.Conv2d(3, 6, 3, dilation=2, bias=False),
    ],
    ids=["grouped", "reflect", "dilated"],
)
def test_fold_batch_norms__kinds_of_convolutions(convolution: nn.Conv2d) -> None:
    assert folded_count(nn.Sequential(convolution, nn.BatchNorm2d(6), nn.ReLU())) == 1


def test_fold_batch_norms__weights_that_are_standardised_on_the_way_are_left_out() -> None:
    layers = [ScaledStdConv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)]
    assert folded_count(nn.Sequential(*layers)) == 1


def test_fold_batch_norms__modules_around_the_pair_do_not_hide_it() -> None:
    inner = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.BatchNorm2d(4)))
    assert folded_count(nn.Sequential(inner)) == 1


@pytest.mark.parametrize(
    "behind",
    [
        [nn.ReLU(inplace=True), nn.BatchNorm2d(4)],
        [nn.ReLU(), nn.BatchNorm2d(4)],
        [nn.BatchNorm2d(4, track_running_stats=False)],
        [nn.GroupNorm(2, 4)],
    ],
    ids=["ReLU in place", "ReLU", "no statistics", "GroupNorm"],
)
def test_fold_batch_norms__no_pair(behind: list[nn.Module]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), *behind)
    result = fold_batch_norms(network, example=IMAGES)
    assert result.folded == 0
    assert result.network is not network
    assert_same(network, result.network, IMAGES, 0)


class Block(nn.Module):
    """A convolution and a norm whose input is used in another place too."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.other = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        match self.kind:
            case "module":
                return self.norm(y) + self.other(y)
            case "function":
                return self.norm(y) + y
            case "in place":
                return self.norm(nn.functional.relu(y, inplace=True))
            case "conv twice":
                return self.norm(self.conv(y))
            case "norm twice":
                return self.norm(y) + self.norm(x)
        raise ValueError(self.kind)


@pytest.mark.parametrize("kind", ["module", "function", "in place", "conv twice", "norm twice"])
def test_fold_batch_norms__output_that_is_used_elsewhere_too(kind: str) -> None:
    assert folded_count(Block(kind)) == 0


def test_fold_batch_norms__what_cannot_be_kept_takes_all_back() -> None:
    good = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    assert folded_count(nn.Sequential(good, Block("in place"))) == 1  # seen, so left out
    network = nn.Sequential(good, Block("function"))
    randomize_norms(network)
    result = fold_batch_norms(network, example=IMAGES)
    assert result.folded == 0
    assert norms_of(result.network) == 2


def test_fold_batch_norms__a_head_of_zeros_hides_nothing() -> None:
    head = nn.Linear(3, 2)
    nn.init.zeros_(head.weight)
    network = nn.Sequential(Block("function"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    randomize_norms(network)
    assert torch.equal(network.eval()(IMAGES), head.bias.expand(2, 2))
    assert fold_batch_norms(network, example=torch.zeros_like(IMAGES)).folded == 0


def test_fold_batch_norms__not_a_number() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    network[0].weight[0] = torch.nan
    assert fold_batch_norms(network, example=IMAGES).folded == 0


def test_fold_batch_norms__network_in_train_mode_stays_so() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)).train()
    before = digests_of(network.state_dict().items())
    result = fold_batch_norms(network, example=IMAGES)
    assert result.folded == 1
    assert network[1].training
    assert not any(module.training for module in result.network.modules())
    assert digests_of(network.state_dict().items()) == before
    assert TOLERANCE == 1e-4


def test_fold_batch_norms__while_something_is_judged() -> None:
    """In inference mode tensors have no versions; a part of the copy may be trained on."""
    model = sample("timm/test_resnet", 64)
    plain = fold_batch_norms(model.network, example=model.images())
    with torch.inference_mode():
        result = fold_batch_norms(model.network, example=model.images())

    assert result.folded == plain.folded > 0
    assert not any(tensor.is_inference() for tensor in result.network.state_dict().values())
    assert_same(model.network, result.network, model.images(seed=5), 1e-5)
