"""Maps of backbones, against timm's own `features_only` and the networks' own parts."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from tlcli.backbones.pretrained import create_backbone
from tlcli.backbones.protocol import Backbone
from tlcli.errors import ConfigError, ModelError
from tlcli.models.detectors.pyramid import (
    FeaturePyramid,
    body_stages,
    make_pyramid,
    pyramid_levels,
)


def untrained(name: str) -> Backbone:
    torch.manual_seed(0)
    return create_backbone(name, weights="none")


def pyramid_on(backbone: Backbone, strides: tuple[int, ...] | None = None) -> FeaturePyramid:
    levels = pyramid_levels(backbone, strides=strides)
    pyramid = make_pyramid(backbone, levels=levels, channels=8, extra=LastLevelMaxPool())
    return pyramid.eval()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm/test_resnet", [(8, 48, "layer2"), (16, 192, "layer3"), (32, 96, "layer4")]),
        # conv_head (320 to 1280 channels) and features.18 merely widen
        (
            "timm/tf_efficientnet_lite0",
            [(8, 40, "blocks.2"), (16, 112, "blocks.4"), (32, 320, "blocks.6")],
        ),
        (
            "torchvision/mobilenet_v2",
            [(8, 32, "features.6"), (16, 96, "features.13"), (32, 320, "features.17")],
        ),
        (
            "torchvision/mobilenet_v3_small",
            [(8, 24, "features.3"), (16, 48, "features.8"), (32, 96, "features.11")],
        ),
        (
            "torchvision/shufflenet_v2_x0_5",
            [(8, 48, "stage2"), (16, 96, "stage3"), (32, 192, "stage4")],
        ),
        # its convolutions without padding lose cells, its pooling is part of stage features.7, and
        # there is no stride 32
        ("torchvision/squeezenet1_1", [(8, 256, "features.6"), (16, 512, "features.12")]),
    ],
)
def test_pyramid_levels__last_stage_at_each_stride(
    name: str, expected: list[tuple[int, int, str]]
) -> None:
    levels = pyramid_levels(untrained(name))
    assert [(level.stride, level.channels, level.tap.name) for level in levels] == expected


def test_pyramid_levels__chosen_strides_in_order() -> None:
    levels = pyramid_levels(untrained("timm/test_resnet"), strides=(32, 4))
    assert [level.stride for level in levels] == [4, 32]


def test_pyramid_levels__a_stride_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"no map of stride 64\. Its strides: 4, 8, 16, 32\."):
        pyramid_levels(untrained("timm/test_resnet"), strides=(8, 64))


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/levit_128s"])
def test_pyramid_levels__networks_of_tokens_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match=rf"{name} gives no pyramid of feature maps"):
        pyramid_levels(untrained(name))


def test_make_pyramid__one_size_only_is_refused() -> None:
    backbone = untrained("timm/visformer_tiny")
    with pytest.raises(ModelError, match="visformer_tiny takes images of 224x224 pixels only"):
        pyramid_on(backbone)


@pytest.mark.parametrize(
    ("name", "places"), [("test_resnet", (2, 3, 4)), ("tf_efficientnet_lite0", (2, 3, 4))]
)
def test_maps__equal_those_of_timm(name: str, places: tuple[int, ...]) -> None:
    backbone = untrained(f"timm/{name}")
    reference = timm.create_model(name, features_only=True, out_indices=places).eval()
    missing, _ = reference.load_state_dict(backbone.network.state_dict(), strict=False)
    assert not missing
    images = torch.randn(2, 3, 96, 160)
    maps = pyramid_on(backbone).maps(images)
    for ours, theirs in zip(maps, reference(images), strict=True):
        assert torch.equal(ours, theirs)


def test_maps__channels_last_networks() -> None:
    backbone = untrained("torchvision/swin_t")
    pyramid = pyramid_on(backbone, (8, 16))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = pyramid.maps(images)
        reference = pyramid.body.get_submodule("features")[:4](images)
    assert torch.equal(maps[0], reference.permute(0, 3, 1, 2))
    assert [tuple(one.shape[1:]) for one in maps] == [(192, 8, 12), (384, 4, 6)]


def test_forward__maps_of_one_width_and_a_coarser_one() -> None:
    out = pyramid_on(untrained("timm/test_resnet"))(torch.randn(2, 3, 64, 96))
    assert {name: tuple(one.shape) for name, one in out.items()} == {
        "0": (2, 8, 8, 12),
        "1": (2, 8, 4, 6),
        "2": (2, 8, 2, 3),
        "pool": (2, 8, 1, 2),
    }


def test_make_pyramid__takes_out_what_no_map_needs_and_keeps_the_rest() -> None:
    backbone = untrained("timm/tf_efficientnet_lite0")
    before = {key: value.clone() for key, value in backbone.network.state_dict().items()}
    body = pyramid_on(backbone).body
    after = body.state_dict()
    gone = {key.partition(".")[0] for key in before.keys() - after.keys()}
    assert gone == {"conv_head", "bn2", "classifier"}
    assert isinstance(body.get_submodule("conv_head"), nn.Identity)
    assert all(torch.equal(before[key], value) for key, value in after.items())


def test_body_stages__names_of_finetune_without_what_is_gone() -> None:
    backbone = untrained("timm/tf_efficientnet_lite0")
    pyramid_on(backbone)
    stages = body_stages(backbone, prefix="backbone.body.")
    assert [stage.label for stage in stages] == [
        "conv_stem (+ bn1)",
        *(f"blocks.{i}" for i in range(7)),
    ]
    assert stages[0].owns("backbone.body.bn1.weight")


def test_forward__gradients_reach_every_weight() -> None:
    pyramid = pyramid_on(untrained("timm/test_efficientnet")).train()
    torch.stack([m.sum() for m in pyramid(torch.randn(2, 3, 64, 64)).values()]).sum().backward()
    # The FPN's own coarser map is a pooled one and needs no weights.
    assert [name for name, p in pyramid.named_parameters() if p.grad is None] == []


def test_forward__several_threads_at_once() -> None:
    pyramid = pyramid_on(untrained("timm/test_resnet"))
    batches = [torch.randn(1, 3, 64, 32 * (1 + i % 3)) for i in range(12)]

    def run(images: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            result: dict[str, Tensor] = pyramid(images)
            return result

    alone = [run(images) for images in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, batches))
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_forward__a_copy_is_independent() -> None:
    pyramid = pyramid_on(untrained("timm/test_resnet"))
    twin = copy.deepcopy(pyramid)
    images = torch.randn(1, 3, 64, 64)
    before = pyramid.maps(images)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, pyramid.maps(images), strict=True))
    assert not any(one.any() for one in twin.maps(images))
