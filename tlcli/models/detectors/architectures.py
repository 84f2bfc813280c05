"""Faster R-CNN, RetinaNet and FCOS of torchvision on a feature pyramid."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from tlcli.errors import ConfigError
from tlcli.models.detectors.detector import DetectorBuild
from tlcli.models.detectors.pyramid import FeaturePyramid
from tlcli.models.detectors.roi_pooling import RoIPooling

FASTER_RCNN = "fasterrcnn"
RETINANET = "retinanet"
FCOS_NAME = "fcos"

_RATIOS = (0.5, 1.0, 2.0)
_OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
_RPN_SAMPLES = 256
_TRAIN_PROPOSALS_PER_SAMPLE = 4
_TEST_PROPOSALS_PER_SAMPLE = 2
"""torchvision proposes 2000 boxes in training and 1000 in tests where it samples 512."""
_GROUPS = 32
"""Of the GroupNorm in FCOS's towers."""


def extra_levels(architecture: str, *, channels: int) -> ExtraFPNBlock:
    """Return what makes maps coarser than the backbone's: one by pooling, or two by convolutions.

    Args:
        architecture: One of `ARCHITECTURES`.
        channels: Of the pyramid's maps.

    Raises:
        ConfigError: If the architecture cannot work with so many channels.
    """
    if architecture == FASTER_RCNN:
        return LastLevelMaxPool()
    if architecture == FCOS_NAME and channels % _GROUPS:
        raise ConfigError(
            f"--fpn-channels {channels} does not fit fcos, which normalises channels in {_GROUPS} "
            f"groups. Give a multiple of {_GROUPS}."
        )
    return LastLevelP6P7(channels, channels)


def build_architecture(
    build: DetectorBuild, pyramid: FeaturePyramid, *, num_classes: int
) -> nn.Module:
    """Build a detector with a random head.

    Args:
        build: Its sizes; all values for pyramids are set.
        pyramid: Its backbone.
        num_classes: Without the background.
    """
    return ARCHITECTURES[build.model](build, pyramid, num_classes)


def train_proposals(sampled_boxes: int) -> dict[str, int]:
    """Return how many boxes a Faster R-CNN proposes in training, as torchvision's options."""
    count = _TRAIN_PROPOSALS_PER_SAMPLE * sampled_boxes
    return {"rpn_pre_nms_top_n_train": count, "rpn_post_nms_top_n_train": count}


def _fasterrcnn(build: DetectorBuild, pyramid: FeaturePyramid, num_classes: int) -> nn.Module:
    """Build as torchvision does, with fewer boxes where fewer are sampled.

    Reference: Ren et al., Faster R-CNN, NeurIPS 2015.
    """
    assert build.sampled_boxes is not None
    sides = _sides(build, extra=1)
    maps = [str(place) for place in range(len(build.strides))]
    test = _TEST_PROPOSALS_PER_SAMPLE * build.sampled_boxes
    network: nn.Module = FasterRCNN(
        pyramid,
        num_classes + 1,
        min_size=build.image_size,
        max_size=build.max_size,
        image_mean=build.mean,
        image_std=build.std,
        rpn_anchor_generator=AnchorGenerator(
            tuple((side,) for side in sides), (_RATIOS,) * len(sides)
        ),
        box_roi_pool=RoIPooling(maps, strides=build.strides, output_size=7, sampling_ratio=2),
        **train_proposals(build.sampled_boxes),
        rpn_pre_nms_top_n_test=test,
        rpn_post_nms_top_n_test=test,
        rpn_batch_size_per_image=_RPN_SAMPLES,
        box_batch_size_per_image=build.sampled_boxes,
    )
    return network


def _retinanet(build: DetectorBuild, pyramid: FeaturePyramid, num_classes: int) -> nn.Module:
    """Build with three anchor sizes per octave: Lin et al., Focal Loss, ICCV 2017."""
    sides = _sides(build, extra=2)
    network: nn.Module = RetinaNet(
        pyramid,
        num_classes + 1,
        min_size=build.image_size,
        max_size=build.max_size,
        image_mean=build.mean,
        image_std=build.std,
        anchor_generator=AnchorGenerator(
            tuple(tuple(side * octave for octave in _OCTAVES) for side in sides),
            (_RATIOS,) * len(sides),
        ),
    )
    return network


def _fcos(build: DetectorBuild, pyramid: FeaturePyramid, num_classes: int) -> nn.Module:
    """Build with one point per cell: Tian et al., FCOS, ICCV 2019.

    torchvision takes the anchor's side for the cell's: a map learns boxes of 4 to 8 cells.
    """
    sides = [float(stride) for stride in _all_strides(build.strides, extra=2)]
    network: nn.Module = FCOS(
        pyramid,
        num_classes + 1,
        min_size=build.image_size,
        max_size=build.max_size,
        image_mean=build.mean,
        image_std=build.std,
        anchor_generator=AnchorGenerator(tuple((side,) for side in sides), ((1.0,),) * len(sides)),
    )
    return network


ARCHITECTURES: Mapping[str, Callable[[DetectorBuild, FeaturePyramid, int], nn.Module]] = (
    MappingProxyType({FASTER_RCNN: _fasterrcnn, RETINANET: _retinanet, FCOS_NAME: _fcos})
)
"""Those that can be put on any backbone."""


def _sides(build: DetectorBuild, *, extra: int) -> list[float]:
    """Return the side of the square anchors of every map in pixels; they grow with the stride."""
    assert build.anchor_size is not None
    strides = _all_strides(build.strides, extra=extra)
    return [build.anchor_size * stride / strides[0] for stride in strides]


def _all_strides(strides: Sequence[int], *, extra: int) -> list[int]:
    return [*strides, *(strides[-1] * 2**step for step in range(1, extra + 1))]
