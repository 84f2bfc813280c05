"""Boxes cut from maps, against torchvision's own pooling."""

from collections.abc import Iterator

import pytest
import torch
from pictures_with_boxes import pictures, seeded
from torch import Tensor
from torchvision import models as zoo
from torchvision.ops import MultiScaleRoIAlign

from tlcli.models.detectors.detector_catalog import create_detector
from tlcli.models.detectors.roi_pooling import RoIPooling

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


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def maps(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        str(place): torch.randn(3, 6, side, side + 1, generator=generator)
        .to(dtype)
        .requires_grad_()
        for place, side in enumerate((16, 8, 4))
    }


def boxes_of(*counts: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    corners = [torch.rand(n, 2, generator=generator) * 60 for n in counts]
    return [
        torch.cat([c, c + 1 + torch.rand(len(c), 2, generator=generator) * 400], dim=1)
        for c in corners
    ]


@pytest.mark.parametrize("counts", [(5, 40, 7), (0, 3, 0), (0, 0, 0)])
def test_pooling__has_the_bits_of_torchvision_forward_and_backward(
    counts: tuple[int, ...], threads: int
) -> None:
    plain = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)
    ours = RoIPooling(["0", "1", "2"], strides=(8, 16, 32), output_size=7, sampling_ratio=2)
    found = []
    for pool in (plain, ours):
        inputs = maps()
        out = pool(inputs, boxes_of(*counts), [(128, 136)] * 3)
        (out * torch.arange(out.numel()).reshape(out.shape)).sum().backward()
        found.append([out.detach(), *(one.grad for one in inputs.values())])
    assert plain.scales == ours.scales
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert found[0][0].shape == (sum(counts), 6, 7, 7)


def test_pooling__works_in_mixed_precision(threads: int) -> None:
    ours = RoIPooling(["0", "1", "2"], strides=(8, 16, 32), output_size=7, sampling_ratio=2)
    plain = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        args = boxes_of(4, 5, 6), [(128, 136)] * 3
        assert torch.equal(ours(maps(torch.bfloat16), *args), plain(maps(torch.bfloat16), *args))
