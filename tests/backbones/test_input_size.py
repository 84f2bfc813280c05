"""Images of another size than the weights were trained on."""

from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor
from torchvision import models as zoo
from torchvision.models.vision_transformer import interpolate_embeddings

from tlcli.backbones.pretrained import create_backbone
from tlcli.errors import ModelError

VIT = "timm/test_vit"


def saved(tmp_path: Path, network: torch.nn.Module) -> Path:
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("size", [96, 160, 224])
def test_create__timm_resamples_as_timm_does(tmp_path: Path, size: int) -> None:
    path = saved(tmp_path, timm.create_model("test_vit"))

    backbone = create_backbone(VIT, weights=str(path), input_size=size)

    theirs = timm.create_model(
        "test_vit", img_size=size, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    )
    assert same(backbone.network.state_dict(), theirs.state_dict())
    positions = (size // 16) ** 2 + 1
    assert backbone.network.state_dict()["pos_embed"].shape[1] == positions
    assert backbone.preprocessing.input_size == (size, size)
    assert backbone.input_size == size
    with torch.no_grad():
        assert backbone.network(torch.zeros(1, 3, size, size)).shape == (1, 1000)


@pytest.mark.slow
def test_create__torchvision_resamples_as_torchvision_does(tmp_path: Path) -> None:
    plain = zoo.vit_b_32(weights=None)
    path = saved(tmp_path, plain)

    backbone = create_backbone("torchvision/vit_b_32", weights=str(path), input_size=96)

    theirs = interpolate_embeddings(96, 32, OrderedDict(plain.state_dict()))
    assert same(backbone.network.state_dict(), dict(theirs))
    assert backbone.network.state_dict()["encoder.pos_embedding"].shape[1] == 3 * 3 + 1


@pytest.mark.parametrize(
    ("name", "own", "size", "resize"),
    [
        ("timm/test_resnet", (160, 168), 100, 105),  # crop_pct 0.95: floor(100 / 0.95)
        ("torchvision/resnet18", (224, 256), 112, 128),
        ("torchvision/mobilenet_v3_small", (224, 256), 320, 366),
    ],
)
def test_create__the_same_share_of_the_picture_is_cut_out(
    name: str, own: tuple[int, int], size: int, resize: int
) -> None:
    plain = create_backbone(name, weights="none").preprocessing
    assert (plain.input_size[0], plain.resize_size[0]) == own

    other = create_backbone(name, weights="none", input_size=size).preprocessing

    assert (other.input_size, other.resize_size) == ((size, size), (resize, resize))
    assert (other.mean, other.std, other.interpolation) == (
        plain.mean,
        plain.std,
        plain.interpolation,
    )


@pytest.mark.parametrize(
    ("name", "size"),
    [("timm/test_vit", 100), ("torchvision/maxvit_t", 200), ("torchvision/inception_v3", 32)],
)
def test_create__size_that_does_not_work(name: str, size: int) -> None:
    words = f"{name} does not work on images of {size}x{size} pixels .*Its own --input-size is "
    with pytest.raises(ModelError, match=words):
        create_backbone(name, weights="none", input_size=size)
