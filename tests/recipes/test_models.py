import pytest
import timm

from tlcli.errors import ModelError
from tlcli.recipes.models import show_model


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
