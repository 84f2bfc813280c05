"""From `--model` and `--weights` to a network: published weights, a file, or random ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import nn

from tlcli.backbones import installed_weights, weight_files
from tlcli.backbones.building import build_for_images
from tlcli.backbones.catalog import SOURCES, BackboneName, list_backbones, parse_backbone_name
from tlcli.backbones.finite_weights import check_finite
from tlcli.backbones.input_channels import adaptation_remark, adapted_input
from tlcli.backbones.key_prefixes import below_best_prefix
from tlcli.backbones.protocol import Backbone, BackboneSource, LoadedWeights, head_width
from tlcli.backbones.stages import find_stages
from tlcli.data.preprocessing import RGB_CHANNELS
from tlcli.errors import ConfigError, ModelError, WeightsError
from tlcli.results.counted import counted

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
    name: BackboneName,
    *,
    weights: WeightsChoice,
    input_size: int | None = None,
    in_channels: int = RGB_CHANNELS,
) -> Backbone:
    """Build a model in the shape its weights would give it, without looking for them.

    Raises:
        ModelError: If it cannot work with images of `input_size` or `in_channels`.
    """
    source = SOURCES[name.source]
    tag = weights.tag or name.tag
    network = build_for_images(name, tag=tag, input_size=input_size, in_channels=in_channels)
    return _describe(
        name,
        network,
        source=source,
        tag=tag,
        class_tag=tag,
        shape_tag=tag,
        weights=LoadedWeights(tag=NO_WEIGHTS),
        input_size=input_size,
        in_channels=in_channels,
    )


def create_backbone(
    text: str,
    *,
    weights: str = DEFAULT_WEIGHTS,
    offline: bool = False,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    input_size: int | None = None,
    in_channels: int = RGB_CHANNELS,
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
        in_channels: Of the images; weights of the first layer are adapted, see `input_channels`.

    Raises:
        ConfigError: If mean or std do not have a value for each channel.
        ModelError: If there is no such model, or it cannot work with such images.
        WeightsError: If the weights are not to be had or do not fit.
    """
    created = _create(
        text, weights=weights, offline=offline, input_size=input_size, in_channels=in_channels
    )
    backbone = with_pixels(created, mean=mean, std=std)
    if backbone.weights.tag != FROM_FILE:
        return backbone
    remark = _assumption(backbone, is_told=mean is not None and std is not None)
    loaded = replace(backbone.weights, remarks=(*backbone.weights.remarks, remark))
    return replace(backbone, weights=loaded)


def with_pixels(
    backbone: Backbone, *, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Backbone:
    """Return a backbone with another mean and std of the pixels, where they are given.

    Raises:
        ConfigError: If they do not have a value for each channel.
    """
    known = backbone.preprocessing
    for option, values in (("--mean", mean), ("--std", std)):
        if values is not None and len(values) != known.channels:
            raise ConfigError(
                f"{option} {','.join(map(str, values))} has {len(values)} values, but "
                f"{backbone.name} takes pictures of {known.channels} channels: give one for each."
            )
    preprocessing = replace(known, mean=mean or known.mean, std=std or known.std)
    return replace(backbone, preprocessing=preprocessing)


def _assumption(backbone: Backbone, *, is_told: bool) -> str:
    """Say what a weights file leaves open, and which pixels its network will see."""
    name = parse_backbone_name(backbone.name)
    tag = backbone.shape_tag or next(iter(_tags(name)), None)
    file, wanted = Path(backbone.weights.path or "").name, backbone.preprocessing
    unknown = "classes" if is_told else "preprocessing and classes"
    mean, std = (
        ",".join(str(round(value, 6)) for value in values) for values in (wanted.mean, wanted.std)
    )
    size = "x".join(map(str, wanted.input_size))
    return (
        f"{file} says nothing of {unknown}: those of {name}'s weights '{tag}' are assumed. Images "
        f"are {size} pixels, mean {mean}, std {std}."
    )


def _tags(name: BackboneName) -> list[str]:
    return [tag.name for tag in SOURCES[name.source].tags(name.architecture)]


def _create(
    text: str, *, weights: str, offline: bool, input_size: int | None, in_channels: int
) -> Backbone:
    name = parse_backbone_name(text)
    choice = choose_weights(name, weights)
    if choice.kind == "none":
        return build_untrained(name, weights=choice, input_size=input_size, in_channels=in_channels)
    if choice.path is not None:
        return _from_file(name, choice.path, input_size=input_size, in_channels=in_channels)
    assert choice.tag is not None
    return _from_tag(
        name, choice.tag, offline=offline, input_size=input_size, in_channels=in_channels
    )


def _from_tag(
    name: BackboneName, tag: str, *, offline: bool, input_size: int | None, in_channels: int
) -> Backbone:
    package = installed_weights.read(str(name), tag=tag)
    if package is not None:
        network, loaded = _from_package(
            name, package, tag=tag, input_size=input_size, in_channels=in_channels
        )
    else:
        network, loaded = _from_hub(
            name, tag, offline=offline, input_size=input_size, in_channels=in_channels
        )
    return _describe(
        name,
        network,
        source=SOURCES[name.source],
        tag=tag,
        class_tag=tag,
        shape_tag=tag,
        weights=loaded,
        input_size=input_size,
        in_channels=in_channels,
    )


def _from_package(
    name: BackboneName,
    package: weight_files.WeightFile,
    *,
    tag: str,
    input_size: int | None,
    in_channels: int,
) -> tuple[nn.Module, LoadedWeights]:
    network = build_for_images(name, tag=tag, input_size=input_size, in_channels=in_channels)
    tensors = package.tensors
    if input_size is not None:
        tensors = SOURCES[name.source].resampled(network, tensors)
    origin = str(package.path)
    tensors, layers = adapted_input(network, tensors, channels=in_channels, origin=origin)
    weight_files.load_state(network, tensors, head_names=(), origin=origin)
    loaded = LoadedWeights(
        tag=tag,
        path=origin,
        sha256=package.sha256,
        remarks=(*package.remarks, *adaptation_remark(layers, channels=in_channels)),
        adapted_layers=layers,
    )
    return network, loaded


def _from_hub(
    name: BackboneName, tag: str, *, offline: bool, input_size: int | None, in_channels: int
) -> tuple[nn.Module, LoadedWeights]:
    """Load published weights, which are for RGB, and adapt them where that is asked for."""
    source, is_rgb = SOURCES[name.source], in_channels == RGB_CHANNELS
    if input_size is not None or not is_rgb:  # told before anything is fetched
        empty = build_for_images(name, tag=tag, input_size=input_size, in_channels=in_channels)
    path = find_weights(name, tag) or _download(name, tag, offline=offline)
    published = source.load_published(name.architecture, tag=tag, path=path, input_size=input_size)
    loaded = LoadedWeights(tag=tag, path=str(path), sha256=weight_files.sha256_of(path))
    if is_rgb:
        return published, loaded
    tensors, layers = adapted_input(
        empty, published.state_dict(), channels=in_channels, origin=str(path)
    )
    weight_files.load_state(empty, tensors, head_names=(), origin=str(path))
    remarks = adaptation_remark(layers, channels=in_channels)
    return empty, replace(loaded, remarks=remarks, adapted_layers=layers)


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


def _from_file(
    name: BackboneName, path: Path, *, input_size: int | None, in_channels: int
) -> Backbone:
    """Build the architecture with the head that the file holds, then load the file."""
    source = SOURCES[name.source]
    file = weight_files.read_state_dict(path)
    pattern = source.build(name.architecture, tag=name.tag, num_classes=None)
    heads = source.head_names(pattern)
    below, unwrapped = below_best_prefix(file.tensors, wanted=pattern.state_dict().keys())
    tensors = source.current_keys(name.architecture, below)
    check_finite(tensors, origin=str(path))  # before values are mixed for another size
    num_classes = weight_files.head_classes(tensors, heads[0])
    network = build_for_images(
        name,
        tag=name.tag,
        num_classes=num_classes,
        input_size=input_size,
        in_channels=in_channels,
    )
    if input_size is not None:
        tensors = source.resampled(network, tensors)
    tensors, layers = adapted_input(network, tensors, channels=in_channels, origin=str(path))
    report = weight_files.load_state(network, tensors, head_names=heads, origin=str(path))
    tag = name.tag or next(iter(_tags(name)), None)
    left_out = len(below) - len(tensors)
    remark = f"left out {counted(left_out, 'tensor')} of auxiliary classifiers"
    auxiliary = (remark,) if left_out else ()
    loaded = LoadedWeights(
        tag=FROM_FILE,
        path=str(path),
        sha256=file.sha256,
        remarks=(
            *file.remarks,
            *unwrapped,
            *auxiliary,
            *adaptation_remark(layers, channels=in_channels),
            *report.remarks(),
        ),
        adapted_layers=layers,
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
        in_channels=in_channels,
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
    in_channels: int,
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
        preprocessing=source.preprocessing(
            name.architecture, tag=tag, input_size=input_size, in_channels=in_channels
        ),
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
