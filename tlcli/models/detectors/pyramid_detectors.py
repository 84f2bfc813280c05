"""Architectures on any backbone: defaults by the size of the body, building, stages."""

from collections.abc import Sequence

from torch import nn

from tlcli.backbones.catalog import parse_backbone_name
from tlcli.backbones.pretrained import WeightsChoice, build_untrained
from tlcli.backbones.protocol import Backbone
from tlcli.errors import ConfigError
from tlcli.models.detectors.architectures import (
    FASTER_RCNN,
    FCOS_NAME,
    build_architecture,
    extra_levels,
)
from tlcli.models.detectors.detector import DetectorBuild
from tlcli.models.detectors.pyramid import make_pyramid, pyramid_levels

LIGHT_BODY_PARAMETERS = 15_000_000
"""Bodies below this count as light: made for small machines, so is what is put on them."""
LIGHT_IMAGE_SIZE, IMAGE_SIZE = 320, 800
LIGHT_FPN_CHANNELS, FPN_CHANNELS = 128, 256
LIGHT_SAMPLED_BOXES, SAMPLED_BOXES = 128, 512
ANCHOR_SIZE = 32.0
"""On the finest map, in pixels: that of torchvision's detectors."""


def plan_build(
    architecture: str,
    backbone: Backbone,
    *,
    image_size: int | None = None,
    strides: Sequence[int] | None = None,
    fpn_channels: int | None = None,
    sampled_boxes: int | None = None,
    anchor_size: float | None = None,
) -> DetectorBuild:
    """Fill in what the user leaves open; arguments as in `create_detector`.

    Raises:
        ConfigError: If a value can have no effect or is out of range.
        ModelError: If the backbone gives no pyramid of feature maps.
    """
    check_options(
        architecture,
        image_size=image_size,
        fpn_channels=fpn_channels,
        sampled_boxes=sampled_boxes,
        anchor_size=anchor_size,
    )
    is_light = sum(p.numel() for p in backbone.network.parameters()) < LIGHT_BODY_PARAMETERS
    size = image_size or (LIGHT_IMAGE_SIZE if is_light else IMAGE_SIZE)
    boxes = sampled_boxes or (LIGHT_SAMPLED_BOXES if is_light else SAMPLED_BOXES)
    return DetectorBuild(
        model=architecture,
        backbone=backbone.name,
        shape_tag=backbone.shape_tag,
        image_size=size,
        max_size=longest_side(size),
        mean=backbone.preprocessing.mean,
        std=backbone.preprocessing.std,
        strides=tuple(level.stride for level in pyramid_levels(backbone, strides=strides)),
        fpn_channels=fpn_channels or (LIGHT_FPN_CHANNELS if is_light else FPN_CHANNELS),
        sampled_boxes=boxes if architecture == FASTER_RCNN else None,
        anchor_size=None if architecture == FCOS_NAME else anchor_size or ANCHOR_SIZE,
    )


def check_options(
    architecture: str,
    *,
    image_size: int | None,
    fpn_channels: int | None,
    sampled_boxes: int | None,
    anchor_size: float | None,
) -> None:
    """Check values of the user; None is not given.

    Raises:
        ConfigError: If a value can have no effect or is out of range.
    """
    for option, value, least in (
        ("--image-size", image_size, 32),
        ("--fpn-channels", fpn_channels, 1),
        ("--sampled-boxes", sampled_boxes, 1),
        ("--anchor-size", anchor_size, 1),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{option} {value} is too small. Give at least {least}.")
    if sampled_boxes is not None and architecture != FASTER_RCNN:
        raise ConfigError(
            f"--sampled-boxes has no effect on {architecture}, which samples none. Leave it out, "
            f"or use {FASTER_RCNN}."
        )
    if anchor_size is not None and architecture == FCOS_NAME:
        raise ConfigError(f"--anchor-size has no effect on {FCOS_NAME}, which has no anchors.")


def longest_side(image_size: int) -> int:
    """Return how long the long side may be, in pixels: as 1333 to 800 in torchvision."""
    return round(image_size * 1333 / 800)


def build_on_backbone(build: DetectorBuild, backbone: Backbone, *, num_classes: int) -> nn.Module:
    """Put an architecture on a backbone, whose network is changed in place.

    Args:
        build: From `plan_build` for this backbone.
        backbone: Its head still in place.
        num_classes: Without the background.

    Raises:
        ModelError: If the backbone takes images of one size only.
    """
    assert build.fpn_channels is not None
    pyramid = make_pyramid(
        backbone,
        levels=pyramid_levels(backbone, strides=build.strides),
        channels=build.fpn_channels,
        extra=extra_levels(build.model, channels=build.fpn_channels),
    )
    return build_architecture(build, pyramid, num_classes=num_classes)


def untrained_backbone(build: DetectorBuild) -> Backbone:
    """Build the backbone of a detector with random weights, its own classification head on.

    Raises:
        ModelError: If the installed libraries do not have it.
    """
    assert build.backbone is not None
    name = parse_backbone_name(build.backbone)
    choice = WeightsChoice(kind="none", tag=build.shape_tag)
    return build_untrained(name, weights=choice)
