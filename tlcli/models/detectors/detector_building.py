"""A detector of either kind from its build: network, stages, norms of the body."""

from torch import nn

from tlcli.backbones.protocol import Backbone
from tlcli.backbones.stages import Stage
from tlcli.models.detectors.detector import BuiltDetector, DetectorBuild
from tlcli.models.detectors.detector_stages import complete_stages
from tlcli.models.detectors.pyramid import body_stages
from tlcli.models.detectors.pyramid_detectors import build_on_backbone, untrained_backbone
from tlcli.models.detectors.torchvision_detectors import (
    build_named,
    named_body_stages,
    neck_name,
)
from tlcli.models.staged import norms_of

BODY = "backbone.body."
_LEAST_MOMENTUM = 0.1
"""PyTorch's default. With the 0.03 of SSDlite, or timm's 0.01, the initial variance of 1 drowns
that of layers with small values for hundreds of steps: judged by such statistics, a network that
has learned all its images by heart finds nothing."""


def assemble(
    build: DetectorBuild,
    *,
    num_classes: int,
    is_neck_pretrained: bool,
    backbone: Backbone | None = None,
) -> BuiltDetector:
    """Build a detector with a random head.

    Args:
        build: Its sizes.
        num_classes: Without the background.
        is_neck_pretrained: The pyramid's weights will be loaded, so it is a stage of its own.
        backbone: To put the detector on, with its weights; None builds it with random ones.

    Raises:
        ModelError: If the backbone does not exist here or cannot carry a detector.
    """
    if build.backbone is None:
        network = build_named(build, num_classes=num_classes)
        body, neck = named_body_stages(network, build), neck_name(build)
        exempt: frozenset[str] = frozenset()
    else:
        backbone = backbone or untrained_backbone(build)
        network = build_on_backbone(build, backbone, num_classes=num_classes)
        body, neck = body_stages(backbone, prefix=BODY), "fpn"
        exempt = frozenset(f"{BODY}{name}" for name in backbone.no_weight_decay)
    if not is_neck_pretrained:
        _forget_initial_statistics(network)
    return BuiltDetector(
        network=network,
        stages=complete_stages(network, body, neck=neck, is_neck_pretrained=is_neck_pretrained),
        body_norms=_norms_in(network, body),
        no_weight_decay=exempt & {name for name, _ in network.named_parameters()},
    )


def _forget_initial_statistics(network: nn.Module) -> None:
    """Let norms without trained statistics follow their batches at least as fast as PyTorch's do.

    Those of pretrained bodies keep their statistics in any case.
    """
    for name in norms_of(network):
        norm = network.get_submodule(name)
        momentum = getattr(norm, "momentum", None)
        if momentum is not None and momentum < _LEAST_MOMENTUM:
            setattr(norm, "momentum", _LEAST_MOMENTUM)  # noqa: B010 (a Module has no such field)


def _norms_in(network: nn.Module, stages: tuple[Stage, ...]) -> frozenset[str]:
    return frozenset(n for n in norms_of(network) if any(stage.owns(n) for stage in stages))
