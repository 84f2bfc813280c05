"""Architectures on any backbone: defaults by the size of the body, building, stages."""

from torch import nn

from tlcli.backbones.catalog import parse_backbone_name
from tlcli.backbones.pretrained import WeightsChoice, build_untrained
from tlcli.backbones.protocol import Backbone
from tlcli.models.detectors.architectures import (
    FASTER_RCNN,
    FCOS_NAME,
    build_architecture,
    extra_levels,
)
from tlcli.models.detectors.detector import DetectorBuild
from tlcli.models.detectors.detector_options import DetectorOptions, longest_side
from tlcli.models.detectors.pyramid import make_pyramid, pyramid_levels

LIGHT_BODY_PARAMETERS = 15_000_000
"""Bodies below this count as light: made for small machines, so is what is put on them."""
LIGHT_IMAGE_SIZE, IMAGE_SIZE = 320, 800
LIGHT_FPN_CHANNELS, FPN_CHANNELS = 128, 256
LIGHT_SAMPLED_BOXES, SAMPLED_BOXES = 128, 512
ANCHOR_SIZE = 32.0
"""On the finest map, in pixels: that of torchvision's detectors."""


def plan_build(architecture: str, backbone: Backbone, *, options: DetectorOptions) -> DetectorBuild:
    """Fill in what the user leaves open.

    Args:
        architecture: One of `ARCHITECTURES`.
        backbone: What it will be put on; changed in nothing.
        options: What the user says.

    Raises:
        ConfigError: If a value can have no effect or is out of range.
        ModelError: If the backbone gives no pyramid of feature maps.
    """
    options.check(architecture)
    is_light = sum(p.numel() for p in backbone.network.parameters()) < LIGHT_BODY_PARAMETERS
    size = options.image_size or (LIGHT_IMAGE_SIZE if is_light else IMAGE_SIZE)
    boxes = options.sampled_boxes or (LIGHT_SAMPLED_BOXES if is_light else SAMPLED_BOXES)
    levels = pyramid_levels(backbone, strides=options.strides)
    return DetectorBuild(
        model=architecture,
        backbone=backbone.name,
        shape_tag=backbone.shape_tag,
        image_size=size,
        max_size=longest_side(size),
        mean=backbone.preprocessing.mean,
        std=backbone.preprocessing.std,
        strides=tuple(level.stride for level in levels),
        fpn_channels=options.fpn_channels or (LIGHT_FPN_CHANNELS if is_light else FPN_CHANNELS),
        sampled_boxes=boxes if architecture == FASTER_RCNN else None,
        anchor_size=None if architecture == FCOS_NAME else options.anchor_size or ANCHOR_SIZE,
    )


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
