import math
from itertools import pairwise

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision import models as zoo

from tlcli.backbones.stages import find_stages
from tlcli.errors import ConfigError, ModelError
from tlcli.models.head import (
    HeadSpec,
    parse_head,
    read_linear_head,
    replace_heads,
    set_linear_head,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linear", HeadSpec()),
        ("mlp:512", HeadSpec(hidden=(512,))),
        ("mlp:512,0.3", HeadSpec(hidden=(512,), dropout=0.3)),
        ("mlp:512,256,0.3", HeadSpec(hidden=(512, 256), dropout=0.3)),
        ("mlp:512,256", HeadSpec(hidden=(512, 256))),
        ("mlp:512,0", HeadSpec(hidden=(512,), dropout=0.0)),
        ("mlp: 64 , 0.5 ", HeadSpec(hidden=(64,), dropout=0.5)),
    ],
)
def test_parse_head(text: str, expected: HeadSpec) -> None:
    assert parse_head(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mlp",
        "mlp:",
        "mlp:0.3",
        "mlp:0",
        "mlp:-5",
        "mlp:512.5",
        "mlp:512,1.5",
        "mlp:512,-0.1",
        "mlp:512,0.3,0.2",
        "mlp:0.3,512",
        "mlp:512,",
        "mlp:nan",
        "mlp:512,nan",
        "mlp:inf",
        "mlp:1e999",
        "linear:3",
        "Linear",
        "conv:3",
    ],
)
def test_parse_head__not_understood(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_head(text)
    assert str(caught.value) == (
        f"--head '{text}' is not understood. Use 'linear', 'mlp:512' or 'mlp:512,0.3' "
        "(hidden widths, then dropout)."
    )


@given(st.text(max_size=12) | st.text("mlp:0123456789.,-einfa", max_size=12).map("mlp:".__add__))
def test_parse_head__any_text_is_understood_or_refused(text: str) -> None:
    try:
        spec = parse_head(text)
    except ConfigError:
        return
    assert 0 <= spec.dropout < 1
    assert all(width >= 1 for width in spec.hidden)
    assert (text == "linear") == (spec == HeadSpec())


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (HeadSpec(), "linear"),
        (HeadSpec(hidden=(5,)), "mlp"),
        (HeadSpec(neighbours=20, bank=3068), "knn"),
    ],
)
def test_kind(spec: HeadSpec, kind: str) -> None:
    assert spec.kind == kind


LINEAR = HeadSpec()
MLP = HeadSpec(hidden=(16, 8), dropout=0.25)


def heads_of(network: nn.Module, names: list[str]) -> list[nn.Module]:
    return [network.get_submodule(name) for name in names]


def equal_probabilities(logits: torch.Tensor) -> bool:
    expected = torch.full_like(logits, 1 / logits.shape[1])
    return bool(torch.equal(logits.softmax(1), expected))


@pytest.mark.parametrize("spec", [LINEAR, MLP], ids=["linear", "mlp"])
@pytest.mark.parametrize(
    ("name", "heads", "side"),
    [
        ("test_resnet", ["fc"], 64),
        ("test_vit", ["head"], 160),
        ("test_convnext", ["head.fc"], 64),
        ("test_efficientnet", ["classifier"], 64),
    ],
)
def test_replace_heads__starts_from_equal_probabilities(
    name: str, heads: list[str], side: int, spec: HeadSpec
) -> None:
    network = timm.create_model(name).eval()
    replace_heads(network, head_names=heads, num_classes=4, spec=spec)
    logits = network(torch.randn(2, 3, side, side))
    assert logits.shape == (2, 4)
    assert equal_probabilities(logits)
    assert network.num_classes == 4


def test_replace_heads__linear_is_one_layer_of_the_same_width() -> None:
    network = zoo.resnet18()
    replace_heads(network, head_names=["fc"], num_classes=5, spec=LINEAR)
    assert isinstance(network.fc, nn.Linear)
    assert (network.fc.in_features, network.fc.out_features) == (512, 5)
    assert network.fc.bias is not None
    assert not any(p.any() for p in network.fc.parameters())


def test_replace_heads__mlp_layers_in_order() -> None:
    network = timm.create_model("test_resnet")
    width = network.fc.in_features
    replace_heads(network, head_names=["fc"], num_classes=5, spec=MLP)
    layers = list(network.fc)
    assert [type(layer).__name__ for layer in layers] == [
        *("Linear", "GELU", "Dropout"),
        *("Linear", "GELU", "Dropout"),
        "Linear",
    ]
    sizes = [(la.in_features, la.out_features) for la in layers if isinstance(la, nn.Linear)]
    assert sizes == [(width, 16), (16, 8), (8, 5)]
    assert [la.p for la in layers if isinstance(la, nn.Dropout)] == [0.25, 0.25]
    assert layers[0].weight.any()  # only the last layer is zero, else nothing would ever learn
    assert layers[3].weight.any()
    assert not layers[6].weight.any()
    assert not layers[6].bias.any()


def test_replace_heads__the_first_step_reaches_the_last_layer() -> None:
    network = timm.create_model("test_resnet")
    replace_heads(network, head_names=["fc"], num_classes=5, spec=MLP)
    loss = nn.functional.cross_entropy(
        network(torch.randn(4, 3, 64, 64)), torch.tensor([0, 0, 1, 2])
    )
    assert loss.item() == pytest.approx(math.log(5), abs=1e-6)
    loss.backward()
    assert network.fc[6].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("spec", [LINEAR, MLP], ids=["linear", "mlp"])
def test_replace_heads__convolution_of_squeezenet(spec: HeadSpec) -> None:
    network = zoo.squeezenet1_1().eval()
    replace_heads(network, head_names=["classifier.1"], num_classes=4, spec=spec)
    head = network.classifier[1]
    convolutions = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert not any(isinstance(m, nn.Linear) for m in head.modules())
    widths = [512, *spec.hidden, 4]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [*pairwise(widths)]
    assert all(m.kernel_size == (1, 1) for m in convolutions)
    logits = network(torch.randn(8, 3, 64, 64))
    assert logits.shape == (8, 4)
    assert network.num_classes == 4
    assert equal_probabilities(logits)
    assert not convolutions[-1].weight.any()
    assert not convolutions[-1].bias.any()
    nn.functional.cross_entropy(logits, torch.arange(8) % 4).backward()
    assert convolutions[-1].weight.grad.abs().sum() > 0


def test_replace_heads__relu_right_behind_a_convolution_goes() -> None:
    network = zoo.squeezenet1_1().eval()
    assert isinstance(network.classifier[2], nn.ReLU)
    replace_heads(network, head_names=["classifier.1"], num_classes=4, spec=LINEAR)
    assert [type(layer) for layer in network.classifier] == [
        *(nn.Dropout, nn.Conv2d, nn.Identity, nn.AdaptiveAvgPool2d)
    ]
    assert sum(isinstance(module, nn.ReLU) for module in network.features.modules()) > 0
    nn.init.constant_(network.classifier[1].bias, -3.0)
    assert network(torch.randn(2, 3, 64, 64)).tolist() == [[-3.0] * 4] * 2


def test_replace_heads__other_layers_behind_a_head_stay() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU())
    convolution = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.ReLU())
    last = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1))
    for network, name in ((linear, "1"), (convolution, "0"), (last, "1")):
        before = [type(layer) for layer in network]
        replace_heads(network, head_names=[name], num_classes=2, spec=LINEAR)
        assert [type(layer) for layer in network] == before


def head_of(dim: int, num_classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(num_classes, dim, generator=generator)
    return weight, torch.randn(num_classes, generator=generator)


@pytest.mark.parametrize(
    ("network", "heads", "dim"),
    [
        (zoo.resnet18(), ["fc"], 512),
        (zoo.squeezenet1_1(), ["classifier.1"], 512),
        (
            timm.create_model("deit_tiny_distilled_patch16_224", depth=1),
            ["head", "head_dist"],
            384,
        ),
        (timm.create_model("crossvit_tiny_240"), ["head.0", "head.1"], 96 + 192),
    ],
    ids=["linear", "convolution", "distilled", "two widths"],
)
def test_set_linear_head__is_read_back(network: nn.Module, heads: list[str], dim: int) -> None:
    weight, bias = head_of(dim)
    set_linear_head(network, head_names=heads, weight=weight, bias=bias)
    found = read_linear_head(network, head_names=heads)
    torch.testing.assert_close(found, (weight, bias))
    assert not any(tensor.requires_grad for tensor in found)
    assert all(p.requires_grad for head in heads_of(network, heads) for p in head.parameters())


def test_set_linear_head__averaged_heads_by_hand() -> None:
    network = timm.create_model("deit_tiny_distilled_patch16_224", depth=1)
    weight, bias = head_of(384)
    heads = ["head", "head_dist"]
    set_linear_head(network, head_names=heads, weight=weight, bias=bias)
    assert torch.equal(network.head.weight, 2 * weight[:, :192])
    assert torch.equal(network.head_dist.weight, 2 * weight[:, 192:])
    assert torch.equal(network.head.bias, bias)
    assert torch.equal(network.head_dist.bias, bias)


def test_set_linear_head__auxiliary_heads_become_zero() -> None:
    network = nn.ModuleDict({"head": nn.Linear(4, 9), "aux_head": nn.Linear(4, 9)})
    weight, bias = head_of(4)
    heads = ["head", "aux_head"]
    set_linear_head(network, head_names=heads, weight=weight, bias=bias)
    assert torch.equal(network["head"].weight, weight)
    assert not any(p.any() for p in network["aux_head"].parameters())
    torch.testing.assert_close(read_linear_head(network, head_names=heads), (weight, bias))


@pytest.mark.parametrize("dim", [191, 193, 383, 768])
def test_set_linear_head__features_of_another_width(dim: int) -> None:
    network = timm.create_model("deit_tiny_distilled_patch16_224", depth=1)
    weight, bias = head_of(dim)
    with pytest.raises(ModelError) as caught:
        set_linear_head(network, head_names=["head", "head_dist"], weight=weight, bias=bias)
    assert str(caught.value) == (
        f"A head on {dim} features does not fit this network, whose heads take 192 + 192. "
        "Use features of its embedding."
    )


def test_replace_heads__both_heads_of_a_distilled_model() -> None:
    network = timm.create_model("deit_tiny_distilled_patch16_224", depth=1).eval()
    heads = ["head", "head_dist"]
    replace_heads(network, head_names=heads, num_classes=3, spec=LINEAR)
    assert [head.out_features for head in heads_of(network, heads)] == [3, 3]
    assert network.head is not network.head_dist
    images = torch.randn(2, 3, 224, 224)
    assert equal_probabilities(network(images))
    nn.init.ones_(network.head_dist.bias[:1])
    assert network(images)[:, 0].tolist() == [0.5, 0.5]  # the mean of the two heads


def test_replace_heads__stages_found_before_still_hold_the_new_head() -> None:
    network = timm.create_model("test_efficientnet")
    stages = find_stages(network, head_names=["classifier"])
    replace_heads(network, head_names=["classifier"], num_classes=3, spec=MLP)
    names = [name for name, _ in network.named_parameters() if stages[-1].owns(name)]
    assert names == [f"classifier.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")]


def test_replace_heads__keeps_the_body() -> None:
    network = timm.create_model("test_resnet")
    before = {k: v.clone() for k, v in network.state_dict().items() if not k.startswith("fc.")}
    replace_heads(network, head_names=["fc"], num_classes=3, spec=LINEAR)
    after = network.state_dict()
    assert set(after) == {*before, "fc.weight", "fc.bias"}
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_replace_heads__unknown_kind_of_layer() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    with pytest.raises(TypeError, match="LayerNorm is neither linear nor convolutional"):
        replace_heads(network, head_names=["1"], num_classes=3, spec=LINEAR)
