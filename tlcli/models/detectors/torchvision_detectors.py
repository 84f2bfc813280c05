"""The detectors that torchvision builds itself, with weights trained on COCO."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models as zoo
from torchvision.models import Weights, WeightsEnum

from tlcli.backbones import downloads
from tlcli.backbones.catalog import SOURCES
from tlcli.backbones.protocol import PublishedFacts
from tlcli.backbones.stages import HEAD, Stage, find_stages
from tlcli.errors import ConfigError, WeightsError
from tlcli.models.detectors.architectures import train_proposals
from tlcli.models.detectors.class_heads import architecture_of
from tlcli.models.detectors.detector import DetectorBuild
from tlcli.models.detectors.detector_options import DetectorOptions, longest_side
from tlcli.models.detectors.roi_pooling import RoIPooling
from tlcli.models.staged import norms_of

PREFIX = "torchvision/"
_SSD_SPLIT = 23
"""Layer of VGG-16 at which torchvision's SSD300 cuts the body: the fourth pooling."""
_SSD_LAST = 29
"""Behind it SSD300 has layers of its own."""
_SSDLITE_SPLIT = 13
"""Block of MobileNetV3 inside which SSDlite cuts the body: behind its expansion."""

_LAYER = re.compile(r"features\.(\d+)(.*)")


@dataclass(frozen=True, kw_only=True)
class _Named:
    """What torchvision does not say of one of its detectors."""

    body: str
    """The classification network that it stands on."""
    places: Callable[[str], tuple[str, ...]]
    """From a module of that network to where it lies in the detector."""
    image_size: int = 800
    max_size: int = 1333
    is_fixed: bool = False
    """Works on pictures of `image_size` only."""
    neck: str = "fpn"
    roi_strides: tuple[int, ...] = ()
    """Pixels per cell of the maps that a Faster R-CNN cuts boxes from."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


def _under_body(name: str) -> tuple[str, ...]:
    return (f"backbone.body.{name}",)


def _under_numbered_body(name: str) -> tuple[str, ...]:
    return (f"backbone.body.{name.removeprefix('features.')}",)


def _in_ssd300(name: str) -> tuple[str, ...]:
    if (found := _LAYER.fullmatch(name)) is None or int(found[1]) > _SSD_LAST:
        return ()
    number, rest = int(found[1]), found[2]
    if number < _SSD_SPLIT:
        return (f"backbone.features.{number}{rest}",)
    return (f"backbone.extra.0.{number - _SSD_SPLIT}{rest}",)


def _in_ssdlite(name: str) -> tuple[str, ...]:
    if (found := _LAYER.fullmatch(name)) is None:
        return ()
    number, rest = int(found[1]), found[2]
    before = f"backbone.features.0.{number}{rest}"
    behind = f"backbone.features.1.{number - _SSDLITE_SPLIT}{rest}"
    if number == _SSDLITE_SPLIT:
        return (before, behind)
    return (before if number < _SSDLITE_SPLIT else behind,)


_RESNET = _Named(body="resnet50", places=_under_body)
_RCNN_RESNET = replace(_RESNET, roi_strides=(4, 8, 16, 32))
_RCNN_MOBILENET = _Named(
    body="mobilenet_v3_large", places=_under_numbered_body, roi_strides=(32, 32)
)
NAMED: Mapping[str, _Named] = MappingProxyType(
    {
        "fasterrcnn_resnet50_fpn": _RCNN_RESNET,
        "fasterrcnn_resnet50_fpn_v2": _RCNN_RESNET,
        "fasterrcnn_mobilenet_v3_large_fpn": _RCNN_MOBILENET,
        "fasterrcnn_mobilenet_v3_large_320_fpn": replace(
            _RCNN_MOBILENET, image_size=320, max_size=640
        ),
        "retinanet_resnet50_fpn": _RESNET,
        "retinanet_resnet50_fpn_v2": _RESNET,
        "fcos_resnet50_fpn": _RESNET,
        "ssd300_vgg16": _Named(
            body="vgg16",
            places=_in_ssd300,
            image_size=300,
            max_size=300,
            is_fixed=True,
            neck="extra",
            mean=(0.48235, 0.45882, 0.40784),
            std=(1 / 255,) * 3,
        ),
        "ssdlite320_mobilenet_v3_large": _Named(
            body="mobilenet_v3_large",
            places=_in_ssdlite,
            image_size=320,
            max_size=320,
            is_fixed=True,
            neck="extra",
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
        ),
    }
)
"""By torchvision's own names."""

# Their published weights were trained when FrozenBatchNorm added nothing to the variance; see
# `overwrite_eps` in torchvision/models/detection/_utils.py.
_ZERO_EPS = {("fasterrcnn_resnet50_fpn", "COCO_V1"), ("retinanet_resnet50_fpn", "COCO_V1")}
# Published files keep the names that layers had when they were trained; torchvision renames them
# while loading: `_load_from_state_dict` of its feature pyramid, RPN head and RetinaNet heads.
_RENAMED = (
    (re.compile(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)"), r"\1.0.\2"),
    (re.compile(r"rpn\.head\.conv\.(weight|bias)"), r"rpn.head.conv.0.0.\1"),
)
_RETINANET_TOWER = re.compile(
    r"(head\.(?:classification|regression)_head\.conv)\.(\d+)\.(weight|bias)"
)


def tags(name: str) -> tuple[str, ...]:
    """Return the published weights of a detector, the default first."""
    enum = zoo.get_model_weights(name)
    return tuple(entry.name for entry in sorted(enum, key=lambda entry: entry is not enum.DEFAULT))


def facts(name: str) -> PublishedFacts:
    """Return parameters and GMACs that torchvision publishes of a detector."""
    meta = _entry(name, tags(name)[0]).meta
    return PublishedFacts(parameters=meta["num_params"], gmacs=meta["_ops"])


def box_ap(name: str) -> float:
    """Return AP on COCO val2017 of the default weights as a fraction."""
    return float(_entry(name, tags(name)[0]).meta["_metrics"]["COCO-val2017"]["box_map"]) / 100


def coco_names(name: str) -> tuple[str, ...]:
    """Return what labels 1..90 of a published head mean.

    Numbers that COCO does not use are called `N/A`, so that a name's place is its label.
    """
    return tuple(_entry(name, tags(name)[0]).meta["categories"][1:])


def published_file(name: str, tag: str) -> downloads.PublishedFile:
    """Return where published weights come from."""
    return downloads.PublishedFile(url=_entry(name, tag).url)


def find_file(name: str, tag: str) -> Path | None:
    """Return the file of published weights if this machine has it; opens no socket."""
    return downloads.cached_file(published_file(name, tag))


def fetch_file(name: str, tag: str, *, offline: bool) -> Path:
    """Return the file of published weights, downloaded if need be.

    Raises:
        WeightsError: If it is not to be had.
        MachineError: If it cannot be stored.
    """
    if path := find_file(name, tag):
        return path
    problem = "--offline is set and they are not on this machine."
    if not offline:
        try:
            return downloads.download_url(_entry(name, tag).url)
        except WeightsError as error:
            problem = str(error)
    here = [f"{PREFIX}{n} {t}" for n in NAMED for t in tags(n) if find_file(n, t)]
    raise WeightsError(
        f"Weights '{tag}' of {PREFIX}{name} are not to be had: {problem} Weights of detectors on "
        f"this machine: {', '.join(here) or 'none'}. Or use --weights FILE; "
        "--weights none trains from random ones."
    )


def tag_of_file(name: str, sha256: str) -> str | None:
    """Return the tag whose file has this SHA-256, by the digits that its name promises."""
    for tag in tags(name):
        prefix = downloads.sha_prefix_of(_entry(name, tag).url)
        if prefix and sha256.startswith(prefix):
            return tag
    return None


def plan_named(name: str, *, tag: str | None, options: DetectorOptions) -> DetectorBuild:
    """Fill in torchvision's own values where the user leaves them open.

    Args:
        name: One of `NAMED`.
        tag: Published weights that will be loaded.
        options: What the user says.

    Raises:
        ConfigError: If a value can have no effect or is out of range.
    """
    named = NAMED[name]
    for option, value in (
        ("--strides", options.strides),
        ("--fpn-channels", options.fpn_channels),
        ("--anchor-size", options.anchor_size),
    ):
        if value is not None:
            raise ConfigError(
                f"{option} has no effect on {PREFIX}{name}, which is built as it is. Use it with "
                "--backbone."
            )
    options.check(architecture_of(name))
    image_size = options.image_size
    if named.is_fixed and image_size not in (None, named.image_size):
        raise ConfigError(
            f"{PREFIX}{name} works on pictures of {named.image_size}x{named.image_size} pixels "
            f"only, not --image-size {image_size}. Leave it out, or choose another --model."
        )
    is_own = image_size == named.image_size
    return DetectorBuild(
        model=f"{PREFIX}{name}",
        image_size=image_size or named.image_size,
        max_size=named.max_size if image_size is None or is_own else longest_side(image_size),
        mean=named.mean,
        std=named.std,
        sampled_boxes=options.sampled_boxes,
        norm_eps=0.0 if (name, tag) in _ZERO_EPS else None,
    )


def build_named(build: DetectorBuild, *, num_classes: int) -> nn.Module:
    """Build with random weights; every BatchNorm is a plain one, see `StagedModel`.

    Args:
        build: From `plan_named`.
        num_classes: Without the background.
    """
    name = build.model.removeprefix(PREFIX)
    options: dict[str, Any] = {"image_mean": list(build.mean), "image_std": list(build.std)}
    if not NAMED[name].is_fixed:
        options |= {"min_size": build.image_size, "max_size": build.max_size}
    if build.sampled_boxes is not None:
        options["box_batch_size_per_image"] = build.sampled_boxes
        options |= train_proposals(build.sampled_boxes)
    network: nn.Module = zoo.get_model(
        name, weights=None, weights_backbone=None, num_classes=num_classes + 1, **options
    )
    if strides := NAMED[name].roi_strides:
        maps = [str(place) for place in range(len(strides))]
        pool = RoIPooling(maps, strides=strides, output_size=7, sampling_ratio=2)
        network.set_submodule("roi_heads.box_roi_pool", pool)
    if build.norm_eps is not None:
        body = named_body_stages(network, build)
        for norm_name in norms_of(network):
            if any(stage.owns(norm_name) for stage in body):
                norm = network.get_submodule(norm_name)
                setattr(norm, "eps", build.norm_eps)  # noqa: B010 (mypy: a Module has no such field)
    return network


def named_body_stages(network: nn.Module, build: DetectorBuild) -> tuple[Stage, ...]:
    """Return the stages of the body by the names that `finetune` has for the network it is."""
    named = NAMED[build.model.removeprefix(PREFIX)]
    with torch.device("meta"):
        pattern = SOURCES["torchvision"].build(named.body, tag=None, num_classes=None)
    heads = SOURCES["torchvision"].head_names(pattern)
    there = {name for name, _ in (*network.named_modules(), *network.named_parameters())}
    stages = []
    for stage in find_stages(pattern, head_names=heads):
        members = tuple(place for m in stage.members for place in named.places(m) if place in there)
        if members and stage.name != HEAD:
            stages.append(replace(stage, members=members))
    return tuple(stages)


def is_squashing(build: DetectorBuild) -> bool:
    """Say whether a detector makes squares of all pictures, `image_size` wide and high."""
    named = NAMED.get(build.model.removeprefix(PREFIX))
    return named is not None and named.is_fixed


def neck_name(build: DetectorBuild) -> str:
    """Return what the layers between body and heads are called: `fpn`, or SSD's `extra`."""
    return NAMED[build.model.removeprefix(PREFIX)].neck


def current_keys(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file by the names that torchvision's layers have today."""
    return {_current_key(name, key): tensor for key, tensor in tensors.items()}


def _current_key(name: str, key: str) -> str:
    for pattern, replacement in _RENAMED:
        if pattern.fullmatch(key):
            return pattern.sub(replacement, key)
    found = _RETINANET_TOWER.fullmatch(key)
    if found and name.startswith("retinanet"):  # once convolutions and ReLUs in one sequence
        return f"{found[1]}.{int(found[2]) // 2}.0.{found[3]}"
    return key


def _entry(name: str, tag: str) -> Weights:
    enum: type[WeightsEnum] = zoo.get_model_weights(name)
    return enum[tag]
