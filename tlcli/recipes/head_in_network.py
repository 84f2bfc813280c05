"""Solved heads inside their networks: as a model that can be saved, or as a start of training."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tlcli.backbones import weight_files
from tlcli.backbones.catalog import SOURCES, parse_backbone_name
from tlcli.backbones.protocol import Backbone
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


def start_from_head(
    network: nn.Module, run: Path, *, backbone: Backbone, classes: tuple[str, ...]
) -> None:
    """Put the linear head of a run into a network that is about to be trained.

    Args:
        network: Changed in place.
        run: A run folder of `extract-features`, `probe` or `finetune`, or a folder of features.
        backbone: What the network was built from.
        classes: Of the training; the rows of the head are put in their order.

    Raises:
        ConfigError: If the run is of another model, other weights or other classes, or its
            backbone was trained.
        ModelError: If its head is not linear on the embedding.
    """
    path = head_run_of(run)
    description = read_description(path / "model.json")
    _check_same_origin(description, backbone=backbone, path=path)
    if set(description.classes) != set(classes):
        differing = sorted(set(description.classes) ^ set(classes))
        raise ConfigError(
            f"--init-head {path}: its classes are not those of the data; {len(differing)} differ, "
            f"'{differing[0]}' for one. Solve a head on this data."
        )
    weight, bias = linear_head_of(path)
    _check_same_backbone(network, path, head_names=backbone.head_names)
    rows = torch.tensor(outputs_of(description.classes, wanted=classes))
    head: tuple[Tensor, Tensor] = (weight[rows], bias[rows])
    set_linear_head(network, head_names=backbone.head_names, weight=head[0], bias=head[1])


def _check_same_origin(description: ModelDescription, *, backbone: Backbone, path: Path) -> None:
    """Make sure that the features which the head was solved on are those of this network."""
    here = {
        "model": (description.model, backbone.name),
        "weights": (description.weights_sha256, backbone.weights.sha256),
        "variant": (description.shape_tag, backbone.shape_tag),
        "preprocessing": (description.preprocessing, backbone.preprocessing),
    }
    for what, (theirs, ours) in here.items():
        if theirs != ours:
            raise ConfigError(
                f"--init-head {path}: its {what} is {theirs}, not {ours}: a head is of use on the "
                "features it was solved on only."
            )


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
            f"--init-head {path}: {len(differing)} tensors of its backbone are not those of this "
            f"network, '{differing[0]}' for one: a head is of use on the features it was solved "
            "on only. With --weights none give the same --seed."
        )
