import pytest
import timm
import torchvision

from tlcli.backbones.catalog import SOURCES, BackboneName, list_backbones, parse_backbone_name
from tlcli.errors import ModelError


@pytest.mark.parametrize(
    ("text", "source", "architecture", "tag"),
    [
        ("resnet50", "torchvision", "resnet50", None),
        ("torchvision/resnet50", "torchvision", "resnet50", None),
        ("timm/resnet50", "timm", "resnet50", None),
        ("tf_efficientnet_lite0", "timm", "tf_efficientnet_lite0", None),
        ("vit_b_16", "torchvision", "vit_b_16", None),
        ("timm/resnet18.a1_in1k", "timm", "resnet18", "a1_in1k"),
        ("resnet18.a1_in1k", "timm", "resnet18", "a1_in1k"),
        ("resnet50.IMAGENET1K_V1", "torchvision", "resnet50", "IMAGENET1K_V1"),
        ("torchvision/resnet50.IMAGENET1K_V2", "torchvision", "resnet50", "IMAGENET1K_V2"),
        ("test_vit.r160_in1k", "timm", "test_vit", "r160_in1k"),
        # A tag that nobody published stays with the model; the choice of weights refuses it.
        ("resnet50.nonsense", "torchvision", "resnet50", "nonsense"),
    ],
)
def test_parse_backbone_name(text: str, source: str, architecture: str, tag: str | None) -> None:
    expected = BackboneName(source=source, architecture=architecture, tag=tag)
    assert parse_backbone_name(text) == expected


def test_parse_backbone_name__bare_names_only_timm_has() -> None:
    assert not hasattr(torchvision.models, "convnext_atto")
    assert parse_backbone_name("convnext_atto").source == "timm"


def test_backbone_name__prints_without_tag() -> None:
    assert str(parse_backbone_name("timm/resnet18.a1_in1k")) == "timm/resnet18"


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("resnet81", "'torchvision/resnet18'"),
        ("timm/resnt18", "'timm/resnet18'"),
        ("torchvision/efficientnetb0", "'torchvision/efficientnet_b0'"),
        ("vit_tiny_patch16_225", "'timm/vit_tiny_patch16_224'"),
        ("ResNet50", "'torchvision/resnet50'"),
    ],
)
def test_parse_backbone_name__unknown_suggests_nearest(text: str, nearest: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_backbone_name(text)
    message = str(caught.value)
    assert message.startswith(f"No model is called '{text}'. Did you mean {nearest}")
    assert message.endswith("? Run 'tlcli models list' to see what there is.")


def test_parse_backbone_name__suggestions_stay_in_the_named_source() -> None:
    with pytest.raises(ModelError) as caught:
        parse_backbone_name("torchvision/convnext_atto")
    assert "'timm/" not in str(caught.value)
    assert "'torchvision/convnext_" in str(caught.value)


@pytest.mark.parametrize("text", ["", "timm/", "qqqqqqqqqqqq", "timm/zzzzzzzzzz.in1k", ".in1k"])
def test_parse_backbone_name__nothing_near(text: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_backbone_name(text)
    assert str(caught.value) == (
        f"No model is called '{text}'. Run 'tlcli models list' to see what there is."
    )


def test_parse_backbone_name__unknown_source() -> None:
    with pytest.raises(ModelError) as caught:
        parse_backbone_name("keras/resnet50")
    assert str(caught.value) == (
        "No model is called 'keras/resnet50': 'keras' is no source. Sources: torchvision, timm."
    )


def test_list_backbones__both_sources_whole_and_in_order() -> None:
    names = list_backbones()
    ours = [name.removeprefix("torchvision/") for name in names if name.startswith("torchvision/")]
    theirs = [name.removeprefix("timm/") for name in names if name.startswith("timm/")]
    assert len(ours) + len(theirs) == len(names)
    assert names == [*(f"torchvision/{n}" for n in ours), *(f"timm/{n}" for n in theirs)]
    assert ours == sorted(torchvision.models.list_models(module=torchvision.models))
    assert theirs == sorted(timm.list_models())
    assert "torchvision/fasterrcnn_resnet50_fpn" not in names
    assert "torchvision/quantized_resnet50" not in names


def test_list_backbones__of_one_source() -> None:
    assert list_backbones("timm") == [n for n in list_backbones() if n.startswith("timm/")]
    assert list_backbones("torchvision")[0] == "torchvision/alexnet"


@pytest.mark.slow
@pytest.mark.parametrize("source", list(SOURCES))
def test_parse_backbone_name__finds_every_listed_name(source: str) -> None:
    for text in list_backbones(source):
        assert str(parse_backbone_name(text)) == text
