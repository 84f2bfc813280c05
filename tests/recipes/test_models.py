from pathlib import Path

import pytest
import timm
from torchvision import models as zoo

from tlcli.errors import ModelError
from tlcli.recipes.models import available_weights, show_model


def test_available_weights__files_in_the_hubs_own_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    assert available_weights("torchvision/resnet18") == ()

    for name in ("resnet18", "fcos_resnet50_fpn"):
        url = zoo.get_model_weights(name).DEFAULT.url
        (folder / url.rpartition("/")[2]).write_bytes(b"weights")
    assert available_weights("torchvision/resnet18") == ("IMAGENET1K_V1",)
    assert available_weights("torchvision/fcos_resnet50_fpn") == ("COCO_V1",)
    assert available_weights("torchvision/resnet50") == ()


def test_show_model__tells_what_timm_says() -> None:
    card = show_model("timm/test_resnet")
    network = timm.create_model("test_resnet")

    assert card.parameters == sum(p.numel() for p in network.parameters())
    assert card.feature_dim == network.num_features
    assert card.gmacs == 0.1
    assert card.parameters == sum(count for _, _, count in card.stages)
    assert card.preprocessing["input_size"] == (160, 160)
    assert [name for name, _, _ in card.stages][-2:] == ["layer4", "head"]
    assert {weights["tag"] for weights in card.weights} == {"r160_in1k"}
    assert {weights["path"] for weights in card.weights} == {None}


def test_show_model__unknown_name_suggests_one() -> None:
    with pytest.raises(ModelError, match=r"resnet5O.*Did you mean.*resnet50"):
        show_model("torchvision/resnet5O")
