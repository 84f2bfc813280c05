import pytest
import timm
import torchvision

from tlcli.errors import ModelError
from tlcli.recipes.models import ModelRow, list_models, show_model


def names(pattern: str = "", **options: object) -> list[str]:
    chosen = {"source": None, "pretrained_only": False, "available_only": False, "limit": 0}
    return [row.name for row in list_models(pattern, **{**chosen, **options})]  # type: ignore[arg-type]


def test_list_models__source_and_glob_equal_timms_own() -> None:
    found = names("resnet1*", source="timm")

    assert found == sorted(f"timm/{name}" for name in timm.list_models("resnet1*"))


def test_list_models__pretrained_ones_of_torchvision() -> None:
    found = names("resnet*", source="torchvision", pretrained_only=True)

    expected = torchvision.models.list_models(torchvision.models, include="resnet*")
    assert found == [f"torchvision/{name}" for name in expected]


def test_list_models__part_of_a_name_may_stand_anywhere() -> None:
    found = names("wide_resnet50")

    assert {"torchvision/wide_resnet50_2", "timm/wide_resnet50_2"} <= set(found)
    assert all("wide_resnet50" in name for name in found)


def test_list_models__pretrained_only_leaves_out_what_nobody_published() -> None:
    published = {name.partition(".")[0] for name in timm.list_pretrained("vit_*")}

    everything = names("vit_*", source="timm")
    pretrained = names("vit_*", source="timm", pretrained_only=True)

    assert pretrained == [name for name in everything if name.removeprefix("timm/") in published]
    assert len(pretrained) < len(everything)


def test_list_models__limit_counts_matches() -> None:
    assert names("resnet*", limit=3) == names("resnet*")[:3]


def test_list_models__rows_name_the_default_tag_first() -> None:
    (row,) = list_models(
        "torchvision/resnet50",
        source=None,
        pretrained_only=True,
        available_only=False,
        limit=0,
    )

    assert row == ModelRow(
        name="torchvision/resnet50", tags=("IMAGENET1K_V2", "IMAGENET1K_V1"), available=None
    )


def test_show_model__tells_what_timm_says() -> None:
    card = show_model("timm/test_resnet")
    network = timm.create_model("test_resnet")

    assert card.parameters == sum(p.numel() for p in network.parameters())
    assert card.feature_dim == network.num_features
    assert card.parameters == sum(count for _, _, count in card.stages)
    assert card.preprocessing["input_size"] == (160, 160)
    assert [name for name, _, _ in card.stages][-2:] == ["layer4", "head"]
    assert {weights["tag"] for weights in card.weights} == {"r160_in1k"}
    assert {weights["path"] for weights in card.weights} == {None}


def test_show_model__unknown_name_suggests_one() -> None:
    with pytest.raises(ModelError, match=r"resnet5O.*Did you mean.*resnet50"):
        show_model("torchvision/resnet5O")
