"""From `--model`, `--backbone` and `--weights` to a detector."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tlcli.backbones.catalog import list_backbones, parse_backbone_name
from tlcli.backbones.pretrained import (
    DEFAULT_WEIGHTS,
    NO_WEIGHTS,
    choose_weights,
    create_backbone,
    find_weights,
)
from tlcli.backbones.protocol import Backbone, LoadedWeights
from tlcli.errors import ConfigError, ModelError, WeightsError
from tlcli.models.detectors import torchvision_detectors as named
from tlcli.models.detectors.architectures import ARCHITECTURES
from tlcli.models.detectors.detector import Detector, DetectorBuild
from tlcli.models.detectors.detector_building import assemble
from tlcli.models.detectors.detector_options import DetectorOptions
from tlcli.models.detectors.detector_weights import (
    DetectorWeights,
    from_file,
    from_run,
    key_table,
    published,
    put_in,
    run_folder,
)
from tlcli.models.detectors.pyramid_detectors import plan_build
from tlcli.results.counted import counted


class PublishedWeights(NamedTuple):
    """Weights of a hub, and where they lie on this machine."""

    model: str
    tag: str
    path: Path | None


def parse_detector_name(text: str) -> str:
    """Find the detector a user means, with or without `torchvision/` before it.

    Raises:
        ModelError: If there is none; the message names the nearest.
    """
    bare = text.removeprefix(named.PREFIX)
    if bare in named.NAMED:
        return f"{named.PREFIX}{bare}"
    if text in ARCHITECTURES:
        return text
    names = [*named.NAMED, *ARCHITECTURES]
    near = difflib.get_close_matches(bare, names, n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    if any(text in (known, known.partition("/")[2]) for known in list_backbones()):
        hint = f"It is a backbone: --model fasterrcnn --backbone {text} puts a detector on it. "
    raise ModelError(
        f"No detector is called '{text}'. {hint}There are: {', '.join(named.NAMED)}; and on any "
        f"--backbone: {', '.join(ARCHITECTURES)}."
    )


def find_published(model: str, *, backbone: str | None, weights: str) -> PublishedWeights | None:
    """Return which published weights are meant; None for random ones, a file, or a run's.

    Args:
        model: As for `create_detector`.
        backbone: As for `create_detector`.
        weights: As for `create_detector`.

    Raises:
        ModelError: If there is no such model.
        WeightsError: If there are no such weights.
    """
    name = parse_detector_name(model)
    if weights == NO_WEIGHTS or run_folder(weights) or Path(weights).expanduser().is_file():
        return None
    if backbone is None:
        tag = _tag_of(name, weights)
        return PublishedWeights(name, tag, named.find_file(name.removeprefix(named.PREFIX), tag))
    body = parse_backbone_name(backbone)
    choice = choose_weights(body, weights)
    assert choice.tag is not None
    return PublishedWeights(str(body), choice.tag, find_weights(body, choice.tag))


def create_detector(
    model: str,
    *,
    backbone: str | None = None,
    weights: str = DEFAULT_WEIGHTS,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    strides: Sequence[int] | None = None,
    fpn_channels: int | None = None,
    sampled_boxes: int | None = None,
    anchor_size: float | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    offline: bool = False,
) -> Detector:
    """Build a detector and load its weights.

    Args:
        model: `fasterrcnn_resnet50_fpn` and others of torchvision, or `fasterrcnn`, `retinanet`,
            `fcos` on a backbone.
        backbone: A classification network of either source, such as `timm/resnet18`.
        weights: Of torchvision's detectors `default`, `none`, a tag, a file, or the folder of a
            run. On a backbone those of `create_backbone`, or a file or run of the same detector.
        class_names: What labels 1..K shall mean. The loaded class head stays where its names are
            the same in the same order (or unknown, but as many), else it is new. None takes the
            classes of the weights.
        image_size: This and the following are explained at `DetectorOptions`.
        strides: See there.
        fpn_channels: See there.
        sampled_boxes: See there.
        anchor_size: See there.
        mean: See there.
        std: See there.
        offline: Never open a socket.

    Raises:
        ConfigError: If options do not go together.
        ModelError: If there is no such model, or the backbone gives no pyramid of feature maps.
        WeightsError: If the weights are not to be had or do not fit.
    """
    name = parse_detector_name(model)
    if (backbone is not None) != (name in ARCHITECTURES):
        raise ConfigError(
            f"--backbone has no effect on {name}, which has its own. Use {_any_architecture()}."
            if backbone
            else f"{name} needs a --backbone, such as --backbone timm/tf_efficientnet_lite0."
        )
    options = DetectorOptions(
        image_size=image_size,
        strides=strides,
        fpn_channels=fpn_channels,
        sampled_boxes=sampled_boxes,
        anchor_size=anchor_size,
        mean=mean,
        std=std,
    )
    if backbone is None:
        return _named_detector(name, weights, options, class_names=class_names, offline=offline)
    return _on_backbone(name, backbone, weights, options, class_names=class_names, offline=offline)


def _named_detector(
    name: str,
    weights: str,
    options: DetectorOptions,
    *,
    class_names: Sequence[str] | None,
    offline: bool,
) -> Detector:
    trained = _named_weights(name, weights, offline=offline)
    bare = name.removeprefix(named.PREFIX)
    build = named.plan_named(bare, tag=trained.tag if trained else None, options=options)
    if trained and trained.build:
        build = options.of_trained(trained.build)
    build = options.normalized(build)
    if trained is None:
        return _untrained(build, class_names=class_names)
    return _trained(build, trained, class_names=class_names)


def _named_weights(name: str, weights: str, *, offline: bool) -> DetectorWeights | None:
    """Return what `--weights` means for one of torchvision's detectors, None for random ones."""
    bare = name.removeprefix(named.PREFIX)
    if weights == NO_WEIGHTS:
        return None
    if folder := run_folder(weights):
        return from_run(folder, model=name, backbone=None)
    path = Path(weights).expanduser()
    if not path.is_file():
        return published(bare, _tag_of(name, weights), offline=offline)
    found = from_file(path, model=name)
    if found is None:
        raise WeightsError(
            f"{path} holds no detector: none of its keys starts with 'backbone.'. Give weights of "
            f"{name}, or put {_any_architecture()} on the --backbone that they are of."
        )
    return found


def _tag_of(name: str, weights: str) -> str:
    """Return the tag that `--weights` means for one of torchvision's detectors."""
    tags = named.tags(name.removeprefix(named.PREFIX))
    if weights == DEFAULT_WEIGHTS:
        return tags[0]
    if weights in tags:
        return weights
    offers = ", ".join(["default", "none", *tags])
    raise WeightsError(
        f"--weights '{weights}' is no file here and no weight tag of {name}. There are: "
        f"{offers}, or a file, or the folder of a run."
    )


def _on_backbone(
    name: str,
    backbone: str,
    weights: str,
    options: DetectorOptions,
    *,
    class_names: Sequence[str] | None,
    offline: bool,
) -> Detector:
    body_name = parse_backbone_name(backbone)
    trained: DetectorWeights | None = None
    path = Path(weights).expanduser()
    if folder := run_folder(weights):
        trained = from_run(folder, model=name, backbone=str(body_name))
    elif path.is_file():
        trained = from_file(path, model=name)
    if trained and trained.build:
        options.check(name)
        build = options.normalized(options.of_trained(trained.build))
        return _trained(build, trained, class_names=class_names)
    body = create_backbone(backbone, weights=NO_WEIGHTS if trained else weights, offline=offline)
    build = options.normalized(plan_build(name, body, options=options))
    if trained:
        return _trained(build, trained, class_names=class_names, backbone=body)
    return _untrained(build, class_names=class_names, backbone=body)


def _untrained(
    build: DetectorBuild, *, class_names: Sequence[str] | None, backbone: Backbone | None = None
) -> Detector:
    """Build a detector whose heads and neck are new; its body may be pretrained."""
    if class_names is None:
        raise ModelError(
            f"{build.model} has no trained class head with these weights, so there are no classes "
            "that it could find. Train it first, or give the --weights of a detector."
        )
    built = assemble(
        build, num_classes=len(class_names), is_neck_pretrained=False, backbone=backbone
    )
    loaded = backbone.weights if backbone else LoadedWeights(tag=NO_WEIGHTS)
    is_pretrained = loaded.tag != NO_WEIGHTS
    return Detector(
        build=build,
        network=built.network,
        stages=built.stages,
        norms_to_freeze=built.body_norms if is_pretrained else frozenset(),
        no_weight_decay=built.no_weight_decay,
        num_classes=len(class_names),
        class_names=(),
        weights=loaded,
        is_body_pretrained=is_pretrained,
        is_neck_pretrained=False,
    )


def _trained(
    build: DetectorBuild,
    trained: DetectorWeights,
    *,
    class_names: Sequence[str] | None,
    backbone: Backbone | None = None,
) -> Detector:
    """Build a detector with the weights of a trained one, its class head where that fits."""
    wanted = trained.class_names if class_names is None else tuple(class_names)
    count = len(wanted) or trained.num_classes
    is_head_kept = count == trained.num_classes and trained.class_names in ((), wanted)
    built = assemble(build, num_classes=count, is_neck_pretrained=True, backbone=backbone)
    report = put_in(built.network, trained, model=build.model, is_head_kept=is_head_kept)
    remarks: tuple[str, ...] = ()
    if not is_head_kept:
        former = counted(trained.num_classes, "class", "classes")
        remarks = (f"class head of {former} replaced by a new one for {count}; all else is kept",)
    elif class_names is not None and not trained.class_names:
        remarks = (f"class head kept: its {count} classes are taken for yours, in this order",)
    return Detector(
        build=build,
        network=built.network,
        stages=built.stages,
        norms_to_freeze=built.body_norms,
        no_weight_decay=built.no_weight_decay,
        num_classes=count,
        class_names=trained.class_names if is_head_kept else (),
        weights=replace(trained.loaded, remarks=(*trained.loaded.remarks, *remarks)),
        is_body_pretrained=True,
        is_neck_pretrained=True,
        key_table=key_table(report),
    )


def _any_architecture() -> str:
    return " or ".join(ARCHITECTURES)
