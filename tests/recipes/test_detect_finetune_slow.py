"""Detectors can learn a few scenes by heart: loss, targets, boxes and labels fit together."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from recipes.box_runs import detect
from tlcli.data.boxes.digit_scenes import digit_scenes_folder

IMAGES = 8
COPIES = 5
"""Of every training image: fewer epochs, and so less time for checkpoints and validation."""
LITE0 = "timm/tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first scenes of the sample, to learn from and to judge by."""
    source = digit_scenes_folder()
    root = tmp_path_factory.mktemp("by_heart")
    document = json.loads((source / "annotations" / "instances_train.json").read_text())
    images = document["images"][:IMAGES]
    (root / "annotations").mkdir()
    for split, copies in (("train", COPIES), ("val", 1)):
        (root / split).mkdir()
        part = copied(document, images, copies=copies)
        for image in part["images"]:
            name = image["file_name"].partition("-")[2]
            shutil.copy(source / "train" / name, root / split / image["file_name"])
        path = root / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(part))
    return root


def copied(
    document: dict[str, Any], images: list[dict[str, Any]], *, copies: int
) -> dict[str, Any]:
    """Repeat images and their boxes under names and ids of their own."""
    step = 1 + max(image["id"] for image in images)
    ids = {image["id"] for image in images}
    boxes = [box for box in document["annotations"] if box["image_id"] in ids]
    pictures, annotations = [], []
    for number in range(copies):
        for image in images:
            name = f"{number}-{image['file_name']}"
            pictures.append({**image, "id": image["id"] + number * step, "file_name": name})
        for box in boxes:
            own = {"id": len(annotations) + 1, "image_id": box["image_id"] + number * step}
            annotations.append({**box, **own})
    return {**document, "images": pictures, "annotations": annotations}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("fasterrcnn", {"epochs": 6}),
        ("fcos", {"epochs": 14}),
        ("retinanet", {"epochs": 14, "batch_size": 2, "lr": 1e-3, "backbone_lr": 4e-4}),
    ],
)
def test_run__learns_eight_scenes_by_heart(
    tmp_path: Path, scenes: Path, shared_weights: Path, model: str, options: dict[str, Any]
) -> None:
    base: dict[str, Any] = {
        "backbone": LITE0,
        "weights": shared_weights / "timm_tf_efficientnet_lite0.safetensors",
        "augment": "none",
        "image_size": 192,
        "batch_size": 4,
    }

    summary, _ = detect(tmp_path / "run", data=scenes, model=model, **{**base, **options})

    assert summary["results"]["val"]["metrics"]["map50"] >= 0.95
    assert summary["frozen"]["changed"] == 0


@pytest.mark.slow
def test_run__ssdlite_from_random_weights_learns_eight_scenes_by_heart(
    tmp_path: Path, scenes: Path
) -> None:
    summary, _ = detect(
        tmp_path / "run",
        data=scenes,
        model="ssdlite320_mobilenet_v3_large",
        backbone=None,
        image_size=None,
        augment="none",
        batch_size=8,
        epochs=20,
        lr=2e-3,
        backbone_lr=2e-3,
    )

    assert summary["results"]["val"]["metrics"]["map50"] >= 0.95
