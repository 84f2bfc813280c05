"""From `--model` and `--weights` to a network: published weights, a file, or random ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from tlcli.backbones import installed_weights, weight_files
from tlcli.backbones.catalog import SOURCES, BackboneName, list_backbones, parse_backbone_name
from tlcli.backbones.key_prefixes import below_best_prefix
from tlcli.backbones.protocol import Backbone, BackboneSource, LoadedWeights, head_width
from tlcli.backbones.stages import find_stages
from tlcli.errors import ModelError, WeightsError

NO_WEIGHTS = "none"
DEFAULT_WEIGHTS = "default"
FROM_FILE = "file"
"""What `LoadedWeights.tag` says of weights from a file."""


@dataclass(frozen=True, kw_only=True)
class WeightsChoice:
    """What `--weights` means for one model: random, a published tag, or a file."""

    kind: Literal["none", "tag", "file"]
    tag: str | None = None
    path: Path | None = None

    def __str__(self) -> str:
        return str(self.path or self.tag or NO_WEIGHTS)


def choose_weights(name: BackboneName, weights: str) -> WeightsChoice:
    """Decide what `weights` means for a model.

    Args:
        name: The model, possibly with a tag of its own.
        weights: `default`, `none`, a tag, or the path of a file.

    Raises:
        WeightsError: For an unknown tag, a missing file, or a model without published weights.
    """
    if weights == NO_WEIGHTS:
        return WeightsChoice(kind="none")
    tags = _tags(name)
    is_default = weights == DEFAULT_WEIGHTS
    wanted = (name.tag or next(iter(tags), None)) if is_default else weights
    if wanted is None:
        raise WeightsError(
            f"Nobody published weights for {name}. Use --weights none or --weights FILE."
        )
    if wanted in tags:
        if name.tag not in (None, wanted):
            raise WeightsError(
                f"--model {name}.{name.tag} and --weights {wanted} name two different weights. "
                "Give one of them."
            )
        return WeightsChoice(kind="tag", tag=wanted)
    path = Path(wanted).expanduser()
    if path.is_file() and not is_default:
        return WeightsChoice(kind="file", path=path)
    looks_like_file = path.suffix.lower() in weight_files.SUFFIXES or "/" in wanted
    problem = "is no file here" if looks_like_file else f"is no weight tag of {name}"
    offers = ", ".join(["default", "none", *tags])
    given = f"--model {name}.{wanted}:" if is_default else "--weights"
    raise WeightsError(f"{given} '{wanted}' {problem}. There are: {offers}, or a file.")


def find_weights(name: BackboneName, tag: str) -> Path | None:
    """Return the file of a published tag if this machine has it, without opening a socket."""
    installed = installed_weights.find(str(name), tag=tag)
    return installed or SOURCES[name.source].cached_weights(name.architecture, tag=tag)


def available_here() -> list[str]:
    """Return `source/architecture.tag` of all published weights that lie on this machine."""
    names = (parse_backbone_name(text) for text in list_backbones())
    return [
        f"{name}.{tag.name}"
        for name in names
        for tag in SOURCES[name.source].tags(name.architecture)
        if find_weights(name, tag.name)
    ]


def build_untrained(
    name: BackboneName, *, weights: WeightsChoice, input_size: int | None = None
) -> Backbone:
    """Build a model in the shape its weights would give it, without looking for them.

    Raises:
        ModelError: If it cannot work with images of `input_size`.
    """
    source = SOURCES[name.source]
    tag = weights.tag or name.tag
    network = _build(name, tag=tag, input_size=input_size)
    return _describe(
        name,
        network,
        source=source,
        tag=tag,
        class_tag=tag,
        shape_tag=tag,
        weights=LoadedWeights(tag=NO_WEIGHTS),
        input_size=input_size,
    )


def create_backbone(
    text: str,
    *,
    weights: str = DEFAULT_WEIGHTS,
    offline: bool = False,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    input_size: int | None = None,
) -> Backbone:
    """Build the model called `text` and load its weights.

    Args:
        text: For example `timm/resnet18.a1_in1k`, `torchvision/resnet50`, or `resnet50`.
        weights: `default`, `none`, a published tag, or the path of a file.
        offline: Never open a socket; what is not on this machine is an error.
        mean: Of each channel for values in 0..1, instead of what is known of the weights.
        std: The same for the standard deviation.
        input_size: Side of the images in pixels, instead of that of the weights; position
            embeddings are resampled.

    Raises:
        ModelError: If there is no such model, or it cannot work with images of that size.
        WeightsError: If the weights are not to be had or do not fit.
    """
    created = _create(text, weights=weights, offline=offline, input_size=input_size)
    backbone = with_pixels(created, mean=mean, std=std)
    if backbone.weights.tag != FROM_FILE:
        return backbone
    remark = _assumption(backbone, is_told=mean is not None and std is not None)
    loaded = replace(backbone.weights, remarks=(*backbone.weights.remarks, remark))
    return replace(backbone, weights=loaded)


def with_pixels(
    backbone: Backbone, *, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Backbone:
    """Return a backbone with another mean and std of the pixels, where they are given."""
    known = backbone.preprocessing
    preprocessing = replace(known, mean=mean or known.mean, std=std or known.std)
    return replace(backbone, preprocessing=preprocessing)


def _assumption(backbone: Backbone, *, is_told: bool) -> str:
    """Say what a weights file leaves open, and which pixels its network will see."""
    name = parse_backbone_name(backbone.name)
    tag = backbone.shape_tag or next(iter(_tags(name)), None)
    file, wanted = Path(backbone.weights.path or "").name, backbone.preprocessing
    unknown = "classes" if is_told else "preprocessing and classes"
    mean, std = (",".join(map(str, values)) for values in (wanted.mean, wanted.std))
    size = "x".join(map(str, wanted.input_size))
    return (
        f"{file} says nothing of {unknown}: those of {name}'s weights '{tag}' are assumed. Images "
        f"are {size} pixels, mean {mean}, std {std}."
    )


def _tags(name: BackboneName) -> list[str]:
    return [tag.name for tag in SOURCES[name.source].tags(name.architecture)]


def _create(text: str, *, weights: str, offline: bool, input_size: int | None) -> Backbone:
    name = parse_backbone_name(text)
    choice = choose_weights(name, weights)
    if choice.kind == "none":
        return build_untrained(name, weights=choice, input_size=input_size)
    if choice.path is not None:
        return _from_file(name, choice.path, input_size=input_size)
    assert choice.tag is not None
    return _from_tag(name, choice.tag, offline=offline, input_size=input_size)


def _build(
    name: BackboneName, *, tag: str | None, input_size: int | None, num_classes: int | None = None
) -> nn.Module:
    """Build with random weights and see whether images of a chosen size go through."""
    source = SOURCES[name.source]
    if input_size is None:
        return source.build(name.architecture, tag=tag, num_classes=num_classes)
    try:
        network = source.build(
            name.architecture, tag=tag, num_classes=num_classes, input_size=input_size
        )
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, input_size, input_size))
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        own = source.preprocessing(name.architecture, tag=tag).input_size
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ModelError(
            f"{name} does not work on images of {input_size}x{input_size} pixels ({reason}). Its "
            f"own --input-size is {own[0]}; multiples of 32, or of its patch and window, may do."
        ) from error
    return network


def _from_tag(name: BackboneName, tag: str, *, offline: bool, input_size: int | None) -> Backbone:
    source = SOURCES[name.source]
    package = installed_weights.read(str(name), tag=tag)
    if package is not None:
        network = _build(name, tag=tag, input_size=input_size)
        tensors = package.tensors
        if input_size is not None:
            tensors = source.resampled(network, tensors)
        weight_files.load_state(network, tensors, head_names=(), origin=str(package.path))
        loaded = LoadedWeights(
            tag=tag, path=str(package.path), sha256=package.sha256, remarks=package.remarks
        )
    else:
        if input_size is not None:
            _build(name, tag=tag, input_size=input_size)  # told before anything is fetched
        path = find_weights(name, tag) or _download(name, tag, offline=offline)
        network = source.load_published(
            name.architecture, tag=tag, path=path, input_size=input_size
        )
        loaded = LoadedWeights(tag=tag, path=str(path), sha256=weight_files.sha256_of(path))
    return _describe(
        name,
        network,
        source=source,
        tag=tag,
        class_tag=tag,
        shape_tag=tag,
        weights=loaded,
        input_size=input_size,
    )


def _download(name: BackboneName, tag: str, *, offline: bool) -> Path:
    problem = "--offline is set and they are not on this machine."
    if not offline:
        try:
            return SOURCES[name.source].download_weights(name.architecture, tag=tag)
        except WeightsError as error:
            problem = str(error)
    here = ", ".join(available_here()) or "none"
    raise WeightsError(
        f"Weights '{tag}' of {name} are not to be had: {problem} "
        f"Weights on this machine: {here}. Or use --weights FILE; --weights none "
        "trains from random ones."
    )


def _from_file(name: BackboneName, path: Path, *, input_size: int | None) -> Backbone:
    """Build the architecture with the head that the file holds, then load the file."""
    source = SOURCES[name.source]
    file = weight_files.read_state_dict(path)
    pattern = source.build(name.architecture, tag=name.tag, num_classes=None)
    heads = source.head_names(pattern)
    below, unwrapped = below_best_prefix(file.tensors, wanted=pattern.state_dict().keys())
    tensors = source.current_keys(name.architecture, below)
    num_classes = weight_files.head_classes(tensors, heads[0])
    network = _build(name, tag=name.tag, num_classes=num_classes, input_size=input_size)
    if input_size is not None:
        tensors = source.resampled(network, tensors)
    report = weight_files.load_state(network, tensors, head_names=heads, origin=str(path))
    tag = name.tag or next(iter(_tags(name)), None)
    left_out = len(below) - len(tensors)
    auxiliary = (f"left out {left_out} tensors of auxiliary classifiers",) if left_out else ()
    loaded = LoadedWeights(
        tag=FROM_FILE,
        path=str(path),
        sha256=file.sha256,
        remarks=(*file.remarks, *unwrapped, *auxiliary, *report.remarks()),
    )
    is_published_size = num_classes == _outputs(pattern, heads)
    return _describe(
        name,
        network,
        source=source,
        tag=tag,
        class_tag=tag if is_published_size else None,
        shape_tag=name.tag,
        weights=loaded,
        input_size=input_size,
    )


def _describe(
    name: BackboneName,
    network: nn.Module,
    *,
    source: BackboneSource,
    tag: str | None,
    class_tag: str | None,
    shape_tag: str | None,
    weights: LoadedWeights,
    input_size: int | None,
) -> Backbone:
    """Collect what is known of a network.

    The published weights `tag` tell its preprocessing, `class_tag` what its outputs mean, and
    `shape_tag` which variant of the architecture was built.
    """
    heads = source.head_names(network)
    return Backbone(
        name=str(name),
        network=network,
        head_names=heads,
        feature_dim=head_width(network.get_submodule(heads[0])),
        stages=find_stages(network, head_names=heads),
        preprocessing=source.preprocessing(name.architecture, tag=tag, input_size=input_size),
        no_weight_decay=source.no_weight_decay(network),
        class_names=_class_names(name, source, tag=class_tag, outputs=_outputs(network, heads)),
        weights=weights,
        shape_tag=shape_tag,
        input_size=input_size,
    )


def _outputs(network: nn.Module, heads: Sequence[str]) -> int:
    return int(network.get_parameter(f"{heads[0]}.weight").shape[0])


def _class_names(
    name: BackboneName, source: BackboneSource, *, tag: str | None, outputs: int
) -> tuple[str, ...]:
    """Return the meaning of the outputs only where their number agrees with it."""
    names = source.class_names(name.architecture, tag=tag) if tag else ()
    if names and len(names) != outputs:
        raise ModelError(f"{name} has {outputs} outputs but weights '{tag}' name {len(names)}.")
    return names
