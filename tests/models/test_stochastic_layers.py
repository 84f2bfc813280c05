"""Drop path and head dropout against the rates that timm and torchvision give themselves."""

import copy

import pytest
import timm
import torch
import torchvision
from timm.layers import DropPath
from torch import nn
from torchvision.ops import StochasticDepth

from tlcli.backbones.catalog import parse_backbone_name
from tlcli.backbones.pretrained import WeightsChoice, build_untrained
from tlcli.errors import ConfigError
from tlcli.models.stochastic_layers import set_drop_path, set_head_dropout


def rates_of(network: nn.Module) -> dict[str, float]:
    """Return the rate of every layer that skips something at times."""
    rates = {
        name: float(layer.drop_prob if isinstance(layer, DropPath) else layer.p)
        for name, layer in network.named_modules()
        if isinstance(layer, DropPath | StochasticDepth)
    }
    return {name: rate for name, rate in rates.items() if rate}


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_vit",
        "test_convnext",
        "vit_tiny_patch16_224",
        "regnety_002",
        "swin_tiny_patch4_window7_224",
        "deit_tiny_distilled_patch16_224",
        "resnet18",
    ],
)
@pytest.mark.parametrize("former", [0.0, 0.4])
def test_set_drop_path__rates_are_timms(name: str, former: float) -> None:
    with torch.device("meta"):
        ours = timm.create_model(name, drop_path_rate=former)
        theirs = timm.create_model(name, drop_path_rate=0.2)

    blocks = set_drop_path(ours, rate=0.2)

    assert rates_of(ours) == pytest.approx(rates_of(theirs))
    assert {place.rpartition(".")[0] for place in rates_of(ours)} == set(blocks)


@pytest.mark.parametrize(
    "name",
    ["nextvit_small", "xcit_nano_12_p16_224", "cait_xxs24_224", "maxvit_rmlp_pico_rw_256"],
)
def test_set_drop_path__rates_that_do_not_rise_with_depth_are_timms_too(name: str) -> None:
    with torch.device("meta"):
        ours = timm.create_model(name)
        theirs = timm.create_model(name, drop_path_rate=0.2)

    blocks = set_drop_path(ours, rate=0.2)

    assert rates_of(ours) == pytest.approx(rates_of(theirs))
    assert {place.rpartition(".")[0] for place in rates_of(ours)} == set(blocks)
    set_drop_path(ours, rate=0.0)
    assert rates_of(ours) == {}


@pytest.mark.parametrize(
    ("name", "rate"), [("efficientnet_b0", None), ("convnext_tiny", 0.1), ("swin_t", 0.2)]
)
def test_set_drop_path__rates_are_torchvisions(name: str, rate: float | None) -> None:
    with torch.device("meta"):
        ours, theirs = (torchvision.models.get_model(name) for _ in range(2))
    published = rates_of(theirs)

    set_drop_path(ours, rate=rate or max(published.values()))

    assert rates_of(ours) == pytest.approx(published)
    set_drop_path(ours, rate=0.0)
    assert rates_of(ours) == {}


@pytest.mark.parametrize("model", ["torchvision/vgg11", "timm/test_efficientnet"])
def test_set_drop_path__network_without_blocks(model: str) -> None:
    network = build_untrained(
        parse_backbone_name(model), weights=WeightsChoice(kind="none")
    ).network
    with pytest.raises(ConfigError, match=r"--drop-path 0\.3 has no effect on this network"):
        set_drop_path(network, rate=0.3)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_convnext", "mobilenetv3_small_050"]
)
def test_set_drop_path__skips_in_training_only_and_keeps_the_weights_names(name: str) -> None:
    network = timm.create_model(name)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)  # timm's branches begin at zero
    plain = copy.deepcopy(network)
    set_drop_path(network, rate=0.9)
    images = torch.randn(2, 3, 64, 64)

    assert network.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(network.eval()(images), plain.eval()(images))
    network.train()
    torch.manual_seed(0)
    outputs = [network(images) for _ in range(6)]
    assert any(not torch.equal(outputs[0], other) for other in outputs[1:])


@pytest.mark.parametrize(
    "model",
    [
        "timm/test_resnet",
        "timm/test_vit",
        "timm/deit_tiny_distilled_patch16_224",
        "torchvision/efficientnet_b0",
        "torchvision/squeezenet1_1",
        "torchvision/googlenet",
        "torchvision/mobilenet_v3_small",
        "torchvision/resnet18",
    ],
)
def test_set_head_dropout__drops_that_share_before_every_head(model: str) -> None:
    backbone = build_untrained(parse_backbone_name(model), weights=WeightsChoice(kind="none"))
    network, names = backbone.network, backbone.head_names
    keys = list(network.state_dict())
    given: list[torch.Tensor] = []
    used: list[torch.Tensor] = []
    for name in names:
        head = network.get_submodule(name)
        head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        head.register_forward_hook(lambda _layer, inputs, _: used.append(inputs[0]))
    set_head_dropout(network, head_names=names, rate=0.75)
    images = torch.randn(4, 3, *backbone.preprocessing.input_size)

    torch.manual_seed(0)
    network.train()(images)
    network.eval()(images)

    assert list(network.state_dict()) == keys
    assert len(used) == 2 * len(names)
    for before, after in zip(given[: len(names)], used[: len(names)], strict=True):
        kept = after != 0
        torch.testing.assert_close(after[kept], 4 * before[kept])
        assert 1 - kept[before != 0].float().mean() == pytest.approx(0.75, abs=0.08)
    for before, after in zip(given[len(names) :], used[len(names) :], strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("name", ["efficientnet_b0", "squeezenet1_1", "mobilenet_v3_small"])
def test_set_head_dropout__replaces_the_networks_own(name: str) -> None:
    backbone = build_untrained(
        parse_backbone_name(f"torchvision/{name}"), weights=WeightsChoice(kind="none")
    )
    dropouts = [m for m in backbone.network.modules() if isinstance(m, nn.Dropout)]
    assert {layer.p for layer in dropouts} != {0.0}

    set_head_dropout(backbone.network, head_names=backbone.head_names, rate=0.3)

    assert {layer.p for layer in dropouts} == {0.0}


def test_set_drop_path__blocks_without_a_way_around_them_are_not_counted() -> None:
    with torch.device("meta"):
        network = timm.create_model("efficientnet_b0")
    blocks = dict(network.named_modules())

    skipped = set_drop_path(network, rate=0.5)

    assert skipped == tuple(
        name.removesuffix(".drop_path")
        for name in rates_of(network)
        if blocks[name.removesuffix(".drop_path")].has_skip
    )
    assert 5 < len(skipped) < len(rates_of(network))


def test_set_head_dropout__goes_with_copies() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(100, 2))
    set_head_dropout(network, head_names=["2"], rate=0.0)
    images = torch.ones(3, 100)

    twin = copy.deepcopy(network).train()

    assert torch.equal(twin(images), twin(images))
    set_head_dropout(twin, head_names=["2"], rate=0.5)
    assert not torch.equal(twin(images), twin(images))
    assert torch.equal(network(images), network(images))
