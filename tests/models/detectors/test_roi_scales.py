"""A detector's first picture must not decide how it looks at all others."""

import pytest
import torch
from pictures_with_boxes import pictures, seeded
from torchvision import models as zoo

from tlcli.models.detectors.detector_catalog import create_detector

CLASSES = ("ant", "bee")


@pytest.mark.parametrize(
    ("model", "backbone"),
    [
        ("fasterrcnn", "timm/test_resnet"),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", None),
        pytest.param("fasterrcnn_resnet50_fpn", None, marks=pytest.mark.slow),
    ],
)
def test_detect__does_not_depend_on_the_picture_seen_first(
    model: str, backbone: str | None
) -> None:
    outputs = []
    for first in ([], [torch.rand(3, 20, 400)]):
        with seeded(), torch.no_grad():
            detector = create_detector(
                model, backbone=backbone, weights="none", class_names=CLASSES, image_size=64
            )
            network = detector.network.eval()
            if first:
                network(first)
            outputs.append(network(pictures())[0]["boxes"])
    assert len(outputs[0]) > 0
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    "name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn"]
)
def test_scales__are_those_that_torchvision_finds_with_a_square_picture(name: str) -> None:
    with torch.no_grad(), seeded():
        plain = zoo.get_model(name, weights=None, weights_backbone=None, min_size=64).eval()
        plain([torch.rand(3, 64, 64)])
        ours = create_detector(name, weights="none", class_names=CLASSES).network
    assert ours.roi_heads.box_roi_pool.scales == plain.roi_heads.box_roi_pool.scales
    assert vars(ours.roi_heads.box_roi_pool.map_levels) == vars(
        plain.roi_heads.box_roi_pool.map_levels
    )
