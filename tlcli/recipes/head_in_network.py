"""Solved heads inside their networks: as a model that can be saved, or as a start of training."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tlcli.backbones import weight_files
from tlcli.backbones.catalog import SOURCES, parse_backbone_name
from tlcli.backbones.pretrained import FROM_FILE, NO_WEIGHTS
from tlcli.backbones.protocol import Backbone, LoadedWeights
from tlcli.backbones.stages import find_stages
from tlcli.data.preprocessing import Preprocessing
from tlcli.engine.classification import outputs_of
from tlcli.errors import ConfigError, ModelError
from tlcli.models.feature_classifier import FeatureClassifier
from tlcli.models.features import FeatureExtractor
from tlcli.models.head import HeadSpec, set_linear_head
from tlcli.models.knn_head import KnnHead
from tlcli.models.saved_model import (
    ModelDescription,
    build_network,
    linear_head_of,
    read_description,
    read_weights,
)
from tlcli.recipes.feature_folder import FeatureFolder, head_run_of
from tlcli.recipes.talk import Talk
from tlcli.results.counted import counted
from tlcli.results.run_dir import RunDirectory

_TOLERANCE = 1e-3
"""Largest difference between a head on features and the network with it, of the largest logit."""


def put_into_network(
    folder: FeatureFolder, module: nn.Module
) -> tuple[nn.Module, ModelDescription]:
    """Rebuild the network that the features are of, with a head that was solved on them.

    Args:
        folder: The features.
        module: A linear layer or a k-NN head on all of them, side by side.

    Returns:
        The network and what `model.json` has to say of it.

    Raises:
        ModelError: If the network does not compute with the head what the head alone does.
    """
    description = folder.description
    if isinstance(module, KnnHead):
        spec = HeadSpec(neighbours=module.neighbours, bank=len(module.bank))
        description = replace(description, head=spec)
    network, _ = build_network(description)
    name = parse_backbone_name(description.model)
    body = network.extractor.network if isinstance(network, FeatureClassifier) else network
    heads = SOURCES[name.source].head_names(body)
    path = folder.backbone_weights
    weight_files.load_state(body, read_weights(path), head_names=heads, origin=str(path))
    if isinstance(network, FeatureClassifier):
        network.head.load_state_dict(module.state_dict())
        extractor = network.extractor
    else:
        assert isinstance(module, nn.Linear)
        set_linear_head(network, head_names=heads, weight=module.weight, bias=module.bias)
        extractor = FeatureExtractor(
            network,
            head_names=heads,
            stages=find_stages(network, head_names=heads),
            input_size=description.preprocessing.input_size,
            in_channels=description.preprocessing.channels,
        )
    _check_agreement(network, extractor, module, preprocessing=description.preprocessing)
    return network, description


@torch.inference_mode()
def _check_agreement(
    network: nn.Module,
    extractor: FeatureExtractor,
    head: nn.Module,
    *,
    preprocessing: Preprocessing,
) -> None:
    """Compare the network with the head on its features, for random images."""
    generator = torch.Generator().manual_seed(0)
    size = (2, len(preprocessing.mean), *preprocessing.input_size)
    images = torch.randn(size, generator=generator)
    features = extractor(images)
    flat = torch.cat([features[name].flatten(1) for name in extractor.names], dim=1)
    wanted, found = head(flat), network.eval()(images)
    worst = float((wanted - found).abs().max() / wanted.abs().max().clamp_min(1))
    if not worst <= _TOLERANCE:
        raise ModelError(
            f"This network combines its heads in a way of its own: with the solved head it is off "
            f"by {worst:.2g}. Use --layer with its last stage."
        )


@dataclass(frozen=True, kw_only=True)
class StartingHead:
    """A linear head to start training from, its rows in the order of the training's classes."""

    path: Path
    """Of the run folder that it is in."""
    weight: Tensor
    """Shape (K, D)."""
    bias: Tensor
    """Shape (K,)."""


def start_from_head(
    network: nn.Module, run: Path, *, backbone: Backbone, classes: tuple[str, ...], talk: Talk
) -> Path:
    """Put the linear head of a run into a network that is about to be trained.

    Args:
        network: Changed in place.
        run: A run folder of `extract-features`, `probe` or `finetune`, or a folder of features.
        backbone: What the network was built from.
        classes: Of the training.
        talk: Is told which head of several is taken.

    Returns:
        The run folder of the head.

    Raises:
        ConfigError: If the run is of another model, other weights or other classes, or its
            backbone was trained.
        ModelError: If its head is not linear on the embedding.
    """
    head = find_starting_head(run, backbone=backbone, classes=classes, talk=talk)
    names = backbone.head_names
    _check_same_backbone(network, head.path, head_names=names)
    set_linear_head(network, head_names=names, weight=head.weight, bias=head.bias)
    return head.path


def find_starting_head(
    run: Path, *, backbone: Backbone, classes: tuple[str, ...], talk: Talk
) -> StartingHead:
    """Return the head of a run if it was solved on features of a backbone.

    Arguments and errors are those of `start_from_head`. The backbone may lack its published
    weights: then their name is compared, not their content.
    """
    path = head_run_of(run, talk=talk)
    description = read_description(path / "model.json")
    _check_same_origin(description, backbone=backbone, path=path)
    if set(description.classes) != set(classes):
        differing = sorted(set(description.classes) ^ set(classes))
        raise ConfigError(
            f"--init-head {path}: its classes are not those of the data; {len(differing)} differ, "
            f"'{differing[0]}' for one. Solve a head on this data."
        )
    weight, bias = linear_head_of(path)
    rows = torch.tensor(outputs_of(description.classes, wanted=classes))
    return StartingHead(path=path, weight=weight[rows], bias=bias[rows])


@dataclass(frozen=True, kw_only=True)
class _Difference:
    """One thing that decides features, as it was for the head and as it is in this run."""

    theirs: str
    ours: str
    remedy: tuple[str, ...] = ()
    """Option and value that make it the same."""


def _check_same_origin(description: ModelDescription, *, backbone: Backbone, path: Path) -> None:
    """Make sure that the features which the head was solved on are those of this network."""
    differences = _differences(description, backbone=backbone, path=path)
    if not differences:
        return
    theirs, ours = (
        ", ".join(getattr(one, side) for one in differences) for side in ("theirs", "ours")
    )
    words = [word for one in differences for word in one.remedy]
    remedy = f"Give {shlex.join(words)}, or solve" if words else "Solve"
    raise ConfigError(
        f"--init-head {path}: it was solved on features of {theirs}; this run has {ours}. "
        f"{remedy} a head on features of this run's own."
    )


def _differences(
    description: ModelDescription, *, backbone: Backbone, path: Path
) -> list[_Difference]:
    """Return what differs; what only follows from another model or other weights is left out."""
    if description.model != backbone.name:
        named = ("--model", _with_tag(description.model, description.shape_tag))
        return [_Difference(theirs=description.model, ours=backbone.name, remedy=named)]
    pixels = _pixel_differences(description.preprocessing, backbone.preprocessing)
    kept = RunDirectory(path=path).read_record().get("model", {})
    theirs = LoadedWeights(
        tag=description.weights, path=kept.get("weights_path"), sha256=description.weights_sha256
    )
    ours = backbone.weights
    is_named_only = ours.sha256 is None and ours.tag not in (NO_WEIGHTS, FROM_FILE)
    if theirs.tag != ours.tag if is_named_only else theirs.sha256 != ours.sha256:
        value = theirs.path if theirs.tag == FROM_FILE else theirs.tag
        remedy = ("--weights", value) if value else ()
        weights = _Difference(theirs=_named(theirs), ours=_named(ours), remedy=remedy)
        return [weights, *(one for one in pixels if one.remedy)]
    if description.shape_tag != backbone.shape_tag:
        names = [_with_tag(backbone.name, t) for t in (description.shape_tag, backbone.shape_tag)]
        variant = _Difference(theirs=names[0], ours=names[1], remedy=("--model", names[0]))
        return [variant, *(one for one in pixels if one.remedy)]
    return pixels


def _pixel_differences(theirs: Preprocessing, ours: Preprocessing) -> list[_Difference]:
    """Compare field by field; channels, size, mean and std can be given by options."""
    if theirs.channels != ours.channels:
        remedy = ("--in-channels", str(theirs.channels))
        theirs_have, ours_have = (
            f"pictures of {counted(one.channels, 'channel')}" for one in (theirs, ours)
        )
        return [_Difference(theirs=theirs_have, ours=ours_have, remedy=remedy)]
    there, here = theirs.to_json(), ours.to_json()
    height, width = theirs.input_size
    if theirs.input_size != ours.input_size and height == width:
        remedy = ("--input-size", str(height))
        sizes = [f"input size {_plain(one.input_size)}" for one in (theirs, ours)]
        size = _Difference(theirs=f"pixels with {sizes[0]}", ours=sizes[1], remedy=remedy)
        del there["input_size"], there["resize_size"]  # the second follows from the first
        return [size, *_field_differences(there, here)]
    return _field_differences(there, here)


def _field_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[_Difference]:
    return [
        _Difference(
            theirs=f"pixels with {name.replace('_', ' ')} {_plain(there[name])}",
            ours=f"{name.replace('_', ' ')} {_plain(here[name])}",
            remedy=(f"--{name}", _plain(there[name])) if name in ("mean", "std") else (),
        )
        for name in there
        if there[name] != here[name]
    ]


def _plain(value: object) -> str:
    """Write a value as options take it: 0.5 for three equal channels, else with commas."""
    if not isinstance(value, tuple):
        return str(value)
    return str(value[0]) if len({*value}) == 1 else ",".join(map(str, value))


def _named(weights: LoadedWeights) -> str:
    if weights.tag == NO_WEIGHTS:
        return "random weights"
    name = weights.path or "from a file" if weights.tag == FROM_FILE else weights.tag
    return f"weights {name}" + (f" (sha256 {weights.sha256[:8]}…)" if weights.sha256 else "")


def _with_tag(name: str, tag: str | None) -> str:
    return f"{name}.{tag}" if tag else name


def _check_same_backbone(network: nn.Module, path: Path, *, head_names: Sequence[str]) -> None:
    """Compare tensor by tensor: random weights have no hash, and a run may have trained its own."""
    saved = read_weights(path / "model.safetensors")
    differing = [
        name
        for name, tensor in network.state_dict().items()
        if not any(name.startswith(f"{head}.") for head in head_names)
        and not torch.equal(saved[name], tensor)
    ]
    if differing:
        raise ConfigError(
            f"--init-head {path}: {counted(len(differing), 'tensor')} of its backbone differ from "
            f"this network's, '{differing[0]}' for one: a head is of use on the features it was "
            "solved on only. With --weights none give the same --seed."
        )
