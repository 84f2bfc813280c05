"""torchvision's detectors with our plain BatchNorm, against torchvision's own builders."""

from pathlib import Path

import pytest
import torch
from pictures_with_boxes import pictures, seeded, staged, total_loss
from torch import Tensor, nn
from torchvision import models as zoo
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from tlcli.backbones.pretrained import create_backbone
from tlcli.errors import ConfigError, WeightsError
from tlcli.models.detectors.detector_catalog import create_detector
from tlcli.models.detectors.torchvision_detectors import (
    NAMED,
    coco_names,
    current_keys,
    fetch_file,
)

CLASSES = ("ant", "bee")
FIXED = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")


def own_image_size(name: str) -> int | None:
    return None if name in FIXED else 64


def published_file(name: str, *, path: Path) -> dict[str, Tensor]:
    """Write what torchvision publishes: statistics but no counters, boxes that are found."""
    with seeded():
        network = zoo.get_model(name, weights=None, weights_backbone=None, num_classes=91)
    tensors = {}
    for key, tensor in network.state_dict().items():
        if key.endswith("num_batches_tracked") and ".body." in key:
            continue
        random = torch.rand(tensor.shape) if key.endswith("running_var") else tensor
        tensors[key] = random + 0.5 if key.endswith("running_var") else random
    for key in tensors:
        if key.endswith("box_predictor.cls_score.bias"):
            tensors[key][17] = 4.0
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, path)
    return tensors


@pytest.mark.parametrize("name", NAMED)
def test_create__every_tensor_lies_in_one_stage(name: str) -> None:
    detector = create_detector(name, weights="none", class_names=CLASSES)
    state = detector.network.state_dict()
    assert all(sum(stage.owns(key) for stage in detector.stages) == 1 for key in state)
    with torch.device("meta"):
        body = create_backbone(f"torchvision/{NAMED[name].body}", weights="none")
    expected = {
        stage.name: sum(p.numel() for key, p in body.network.named_parameters() if stage.owns(key))
        for stage in body.stages
        if "classifier" not in stage.name
    }
    del expected["head"]
    if name.startswith("ssdlite"):  # torchvision halves the last blocks of this body
        expected = {key: n for key, n in expected.items() if int(key.rpartition(".")[2]) <= 12}
    found = {
        stage.name: sum(
            p.numel() for key, p in detector.network.named_parameters() if stage.owns(key)
        )
        for stage in detector.stages
    }
    assert found | expected == found
    assert detector.stages[-1].label == f"head (+ {NAMED[name].neck})"
    assert detector.norms_to_freeze == frozenset()


@pytest.mark.parametrize(
    "name",
    [
        "ssdlite320_mobilenet_v3_large",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in NAMED
            if "resnet50" in name or "vgg" in name
        ),
    ],
)
def test_create__trains_and_detects(name: str) -> None:
    with seeded():
        detector = create_detector(
            name, weights="none", class_names=CLASSES, image_size=own_image_size(name)
        )
        model = staged(detector).train()
        loss = total_loss(model)
        loss.backward()
    assert loss.isfinite()
    assert [key for key, p in detector.network.named_parameters() if p.grad is None] == []
    with torch.inference_mode():
        found = model.eval()(pictures())
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2


def test_create__new_norms_forget_their_initial_statistics(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "ssdlite320_mobilenet_v3_large"
    new = create_detector(name, weights="none", class_names=CLASSES)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = zoo.get_model_weights(name).COCO_V1
    path = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    published_file(name, path=path)
    trained = create_detector(name, offline=True)

    assert momenta(new.network) == {0.1}
    assert momenta(trained.network) == {0.03}  # as torchvision trained it


def momenta(network: nn.Module) -> set[float]:
    return {layer.momentum for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)}


@pytest.mark.parametrize(
    "name",
    [
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        pytest.param("fasterrcnn_resnet50_fpn", marks=pytest.mark.slow),  # eps 0, big file
    ],
)
def test_default_weights__outputs_are_those_of_torchvision(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = zoo.get_model_weights(name).COCO_V1
    path = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    published_file(name, path=path)
    reference = zoo.get_model(name, weights=weights, min_size=96, max_size=160).eval()
    detector = create_detector(name, image_size=96, offline=True)
    model = staged(detector).eval()
    with torch.inference_mode():
        expected, found = reference(pictures()), model(pictures())
    for theirs, ours in zip(expected, found, strict=True):
        assert len(theirs["labels"]) > 0
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-3)
    assert detector.class_names[0] == "person"
    assert len(detector.class_names) == 90
    assert detector.weights.tag == "COCO_V1"
    assert detector.weights.path == str(path)
    assert [stage.name for stage in detector.stages][-2:] == ["fpn", "head"]
    assert len(detector.norms_to_freeze) > 40


def test_default_weights__eps_is_zero_where_torchvision_overwrites_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.url
    published_file(
        "fasterrcnn_resnet50_fpn", path=tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    )
    detector = create_detector("fasterrcnn_resnet50_fpn", class_names=CLASSES, offline=True)
    norms = [detector.network.get_submodule(name) for name in detector.norms_to_freeze]
    assert {norm.eps for norm in norms} == {0.0}
    assert len(norms) == 53
    assert detector.build.norm_eps == 0.0
    assert detector.class_names == ()
    assert detector.network.roi_heads.box_predictor.cls_score.out_features == 3


def test_current_keys__as_torchvision_renames_old_files() -> None:
    with torch.device("meta"):
        old_names = {
            "backbone.fpn.inner_blocks.0.weight": "backbone.fpn.inner_blocks.0.0.weight",
            "backbone.fpn.layer_blocks.2.bias": "backbone.fpn.layer_blocks.2.0.bias",
            "backbone.fpn.extra_blocks.p6.weight": "backbone.fpn.extra_blocks.p6.weight",
            "head.classification_head.conv.4.weight": "head.classification_head.conv.2.0.weight",
            "head.regression_head.conv.6.bias": "head.regression_head.conv.3.0.bias",
        }
        state = zoo.get_model(
            "retinanet_resnet50_fpn", weights=None, weights_backbone=None
        ).state_dict()
    assert set(old_names.values()) <= set(state)
    tensors = {old: state[new] for old, new in old_names.items()}
    assert list(current_keys("retinanet_resnet50_fpn", tensors)) == list(old_names.values())
    tower = {"head.classification_head.conv.4.weight": torch.zeros(1)}  # FCOS is named so today
    assert current_keys("fcos_resnet50_fpn", tower) == tower
    assert list(
        current_keys("fasterrcnn_resnet50_fpn", {"rpn.head.conv.bias": torch.zeros(1)})
    ) == ["rpn.head.conv.0.0.bias"]


def test_coco_names__places_are_labels() -> None:
    names = coco_names("ssd300_vgg16")
    assert (names[0], names[11], names[89]) == ("person", "N/A", "toothbrush")


def test_fetch_file__offline_says_what_there_is() -> None:
    with pytest.raises(WeightsError, match=r"'COCO_V1' of torchvision/ssd300_vgg16 .* --offline"):
        fetch_file("ssd300_vgg16", "COCO_V1", offline=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 320}, r"300x300 pixels only, not --image-size 320"),
        ({"strides": (8, 16)}, r"--strides has no effect on torchvision/ssd300_vgg16"),
        ({"sampled_boxes": 64}, r"--sampled-boxes has no effect on ssd300"),
    ],
)
def test_create__options_without_effect_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        create_detector("ssd300_vgg16", weights="none", class_names=CLASSES, **options)
