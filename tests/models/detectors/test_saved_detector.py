"""Saved detectors compute what they computed, and are not mistaken for classifiers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pictures_with_boxes import pictures, seeded

from tlcli.errors import DataError
from tlcli.models.detectors.detector import Detector
from tlcli.models.detectors.detector_catalog import create_detector
from tlcli.models.detectors.saved_detector import (
    DetectorDescription,
    build_detector,
    describe_detector,
    load_detector,
    read_detector_description,
    write_detector_description,
)
from tlcli.models.saved_model import read_description, save_weights, saved_kind

CLASSES = ("ant", "bee")
SMALL = {"weights": "none", "class_names": CLASSES, "image_size": 64}


def made(model: str) -> Detector:
    with seeded():
        if model.startswith("ssdlite"):
            return create_detector(model, weights="none", class_names=CLASSES)
        if "_" in model:
            return create_detector(model, **SMALL)
        return create_detector(
            model, backbone="timm/test_efficientnet", strides=(4, 16), fpn_channels=32, **SMALL
        )


def saved(detector: Detector, folder: Path) -> DetectorDescription:
    description = describe_detector(detector, classes=CLASSES, category_ids=(3, 90))
    write_detector_description(description, folder / "model.json")
    save_weights(detector.network, folder / "model.safetensors")
    return description


@pytest.mark.parametrize(
    "model",
    [
        "fasterrcnn",
        "retinanet",
        "fcos",
        "ssdlite320_mobilenet_v3_large",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
    ],
)
def test_load_detector__the_same_outputs(model: str, tmp_path: Path) -> None:
    detector = made(model)
    description = saved(detector, tmp_path)
    again, read = load_detector(tmp_path)
    assert read == description
    assert again.build == detector.build
    assert again.stages == detector.stages
    assert again.no_weight_decay == detector.no_weight_decay
    assert again.class_names == CLASSES
    state, restored = detector.network.state_dict(), again.network.state_dict()
    assert state.keys() == restored.keys()
    assert all(torch.equal(state[key], restored[key]) for key in state)
    images = torch.stack([torch.rand(3, 64, 64)])
    with torch.inference_mode():
        before = detector.network.eval().backbone(images)
        after = again.network.eval().backbone(images)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_load_detector__finds_the_same_boxes(tmp_path: Path) -> None:
    detector = made("fasterrcnn")
    saved(detector, tmp_path)
    again, _ = load_detector(tmp_path)
    with torch.inference_mode():
        before = detector.network.eval()(pictures())
        after = again.network.eval()(pictures())
    for one, other in zip(before, after, strict=True):
        assert len(one["scores"]) > 0
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_build_detector__stages_as_they_were_trained(tmp_path: Path) -> None:
    description = saved(made("fasterrcnn"), tmp_path)
    new = build_detector(description)
    assert new.stages[-1].label == "head (+ fpn)"
    assert new.norms_to_freeze == frozenset()
    trained = build_detector(replace(description, is_neck_pretrained=True, is_body_pretrained=True))
    assert [stage.name for stage in trained.stages][-2:] == ["fpn", "head"]
    assert trained.norms_to_freeze
    assert all(name.startswith("backbone.body.") for name in trained.norms_to_freeze)


def test_model_json__says_what_labels_mean(tmp_path: Path) -> None:
    saved(made("fcos"), tmp_path)
    values = json.loads((tmp_path / "model.json").read_text())
    assert values["kind"] == "detection"
    assert values["labels"] == {"1": "ant", "2": "bee"}
    assert values["category_ids"] == [3, 90]
    assert values["build"]["strides"] == [4, 16]


def test_saved_kind__detectors_and_classifiers_are_told_apart(tmp_path: Path) -> None:
    saved(made("fcos"), tmp_path)
    assert saved_kind(tmp_path / "model.json") == "detection"
    with pytest.raises(DataError, match="describes a model for detection"):
        read_description(tmp_path / "model.json")
    (tmp_path / "model.json").write_text('{"model": "timm/resnet18"}')
    assert saved_kind(tmp_path / "model.json") == "classification"
    with pytest.raises(DataError, match="for classification, not a detector"):
        read_detector_description(tmp_path / "model.json")


def test_read_detector_description__damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text('{"kind": "detection", "classes": []}')
    with pytest.raises(DataError, match="is damaged"):
        read_detector_description(path)
