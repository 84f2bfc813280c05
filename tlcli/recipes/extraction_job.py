"""An extraction before its first image: network, views, and the key of all it computes."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL
import timm
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn

from tlcli.backbones.catalog import parse_backbone_name
from tlcli.backbones.pretrained import build_untrained, choose_weights, create_backbone
from tlcli.backbones.protocol import Backbone
from tlcli.config import ExtractConfig, FeaturesConfig, ModelConfig, RuntimeConfig
from tlcli.data.augment import train_transform
from tlcli.data.content_ids import Ids, content_ids, view_ids
from tlcli.data.store.row_ids import first_appearances
from tlcli.data.store.tensor_store import digest_of_key
from tlcli.engine.cpu_memory import available_cores
from tlcli.engine.distributed import Workers
from tlcli.engine.extraction import PLAIN, ImageEmbedder, ViewReader, ViewRequest
from tlcli.engine.runtime import Runtime, choose_runtime
from tlcli.errors import ConfigError
from tlcli.models.features import FeatureExtractor
from tlcli.models.folding import fold_batch_norms
from tlcli.models.frozen_proof import digests_of
from tlcli.models.head import HeadSpec, replace_heads
from tlcli.models.pooling import AVG
from tlcli.models.saved_model import ModelDescription
from tlcli.recipes.feature_places import default_features_path
from tlcli.recipes.finetune_job import FROZEN_INPUT, load_backbone
from tlcli.recipes.image_data import RunImages, tell_of_channels
from tlcli.recipes.talk import Talk

_FORMAT = 1
"""Of how features are computed; raised when the same options come to mean other numbers."""
_CPU_BATCH = 8
"""What fits the caches of one core was fastest or close to it (benchmarks/extraction.py)."""
_GPU_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class ExtractionJob:
    """One model on one data set."""

    config: ExtractConfig
    model: ModelConfig
    backbone: Backbone
    images: RunImages
    runtime: Runtime
    digests: Mapping[str, str]
    """Of every tensor of the network, but for its head, before anything was computed."""
    working_digests: Mapping[str, str]
    """The same of the network that computes, which may be a folded copy."""
    dims: Mapping[str, tuple[int, ...]]
    """Shape per image of every tensor that is stored."""
    key: Mapping[str, Any]
    path: Path
    embedder: ImageEmbedder
    items: pd.DataFrame
    """A row per view: path, label, split, group, view."""
    ids: Ids
    """Of the rows of `items`."""
    batch_size: int
    threads: int

    @property
    def description(self) -> ModelDescription:
        """The network under a linear head of zeros."""
        table = self.images.table
        return ModelDescription(
            model=self.backbone.name,
            weights=self.backbone.weights.tag,
            weights_sha256=self.backbone.weights.sha256,
            shape_tag=self.backbone.shape_tag,
            input_size=self.backbone.input_size,
            head=HeadSpec(),
            classes=table.classes,
            class_titles=dict(table.class_titles),
            preprocessing=self.backbone.preprocessing,
            feature_dim=sum(math.prod(shape) for shape in self.dims.values()),
        )

    def request(self, row: int) -> ViewRequest:
        """Return what a row of `items` asks for."""
        path = os.fsdecode(self._paths[row])
        return ViewRequest(self.images.table.root / path, int(self._views[row]))

    @cached_property
    def copies(self) -> int:
        """Rows that equal an earlier one byte for byte; those are computed once."""
        return len(self.ids) - len(first_appearances(self.ids))

    @cached_property
    def _paths(self) -> NDArray[np.bytes_]:
        """One array: asking a table for one cell at a time leaves pieces of memory behind."""
        return np.array([os.fsencode(path) for path in self.items["path"]], dtype=np.bytes_)

    @cached_property
    def _views(self) -> NDArray[np.int64]:
        return self.items["view"].to_numpy(dtype=np.int64)


def check_models(features: FeaturesConfig, models: Sequence[ModelConfig]) -> None:
    """Make sure that all models can be loaded and have the layers, before images are looked at.

    A single model is loaded soon enough: for that only the layers are looked up.

    Raises:
        ConfigError: If a layer matches no stage.
        ModelError: If a stage cannot be pooled as asked for.
        WeightsError: If weights are not to be had or do not fit.
    """
    for model in models:
        if len(models) > 1:
            backbone = create_backbone(
                model.model,
                weights=model.weights,
                offline=model.offline,
                input_size=model.input_size,
                in_channels=model.in_channels,
            )
        elif features.layer is not None:
            name = parse_backbone_name(model.model)
            choice = choose_weights(name, model.weights)
            backbone = build_untrained(
                name,
                weights=choice,
                input_size=model.input_size,
                in_channels=model.in_channels,
            )
        else:
            continue
        if features.layer is not None:
            _features_of(backbone.network, backbone, features)


def prepare_extraction(
    config: ExtractConfig,
    model: ModelConfig,
    *,
    images: RunImages,
    workers: Workers,
    folder: Path | None,
    talk: Talk,
) -> ExtractionJob:
    """Build the network and decide what is computed.

    Args:
        config: The options.
        model: The one model that is meant.
        images: Loaded and split.
        workers: Share the reading of the files.
        folder: Where the features go; None is the place in the cache.
        talk: Is told of the model.
    """
    device = workers.device(config.runtime.device)
    runtime = runtime_of(replace(config.runtime, device=device), seed=config.seed)
    runtime.seed_step(0, 0)  # for random weights
    backbone = _load_backbone(model, images=images, is_told=workers.is_first, talk=talk)
    network = backbone.network.eval().requires_grad_(False)
    digests = _body_digests(network, head_names=backbone.head_names)
    classes = len(images.table.classes)
    replace_heads(network, head_names=backbone.head_names, num_classes=classes, spec=HeadSpec())
    extractor = _extractor(config.features, backbone, runtime=runtime, talk=talk)
    dims = extractor.shapes
    key = _key(config.features, backbone, runtime=runtime, digests=digests, names=tuple(dims))
    threads = config.runtime.num_workers or workers.share(available_cores())
    items, ids = _views(config, images, workers=workers, threads=threads)
    preprocessing = backbone.preprocessing
    return ExtractionJob(
        config=config,
        model=model,
        backbone=backbone,
        images=images,
        runtime=runtime,
        digests=digests,
        working_digests=digests_of(extractor.state_dict().items()),
        dims=dims,
        key=key,
        path=folder or _default_path(backbone, config.data.data, key=key),
        embedder=ImageEmbedder(
            extractor=extractor,
            read=ViewReader(
                preprocessing=preprocessing,
                augmentation=train_transform(preprocessing, level=config.features.augment),
                seed=config.seed,
            ),
            runtime=runtime,
        ),
        items=items,
        ids=ids,
        batch_size=config.features.batch_size
        or (_CPU_BATCH if runtime.device.type == "cpu" else _GPU_BATCH),
        threads=threads,
    )


def _load_backbone(model: ModelConfig, *, images: RunImages, is_told: bool, talk: Talk) -> Backbone:
    """Build a network and tell what it makes of the channels of the images."""
    backbone = load_backbone(model, talk=talk)
    channels = backbone.preprocessing.channels
    if is_told:
        tell_of_channels(images.table, channels=channels, talk=talk)
    if channels > 1 and backbone.weights.adapted_layers:
        talk.warn(f"{backbone.stages[0].label} {FROZEN_INPUT} `tlcli finetune` can train it.")
    return backbone


def runtime_of(config: RuntimeConfig, *, seed: int) -> Runtime:
    """Return the device and precision that the options mean."""
    return choose_runtime(
        config.device,
        amp=config.amp,
        amp_dtype=config.amp_dtype,
        channels_last=config.channels_last,
        seed=seed,
    )


def _body_digests(network: nn.Module, *, head_names: Sequence[str]) -> dict[str, str]:
    """Return the digests of all tensors but those of the heads, which features do not pass."""
    return digests_of(
        (name, tensor)
        for name, tensor in network.state_dict().items()
        if not any(name.startswith(f"{head}.") for head in head_names)
    )


def _extractor(
    features: FeaturesConfig, backbone: Backbone, *, runtime: Runtime, talk: Talk
) -> FeatureExtractor:
    height, width = backbone.preprocessing.input_size
    network = backbone.network
    if _is_folded(features, runtime):
        example = torch.zeros(1, backbone.preprocessing.channels, height, width)
        folded = fold_batch_norms(network, example=example)
        network = folded.network
        if folded.folded:
            talk.note(f"Folded {folded.folded} BatchNorms into their convolutions.")
    runtime.place(network)
    return _features_of(network, backbone, features)


def _features_of(
    network: nn.Module, backbone: Backbone, features: FeaturesConfig
) -> FeatureExtractor:
    return FeatureExtractor(
        network,
        head_names=backbone.head_names,
        stages=backbone.stages,
        input_size=backbone.preprocessing.input_size,
        layers=() if features.layer is None else tuple(features.layer.split(",")),
        pool=features.pool,
        in_channels=backbone.preprocessing.channels,
    )


def _is_folded(features: FeaturesConfig, runtime: Runtime) -> bool:
    return features.fold_norm and runtime.amp_dtype is None


def _key(
    features: FeaturesConfig,
    backbone: Backbone,
    *,
    runtime: Runtime,
    digests: Mapping[str, str],
    names: tuple[str, ...],
) -> dict[str, Any]:
    """Return all that decides what a row holds, but for the image itself."""
    source = backbone.name.partition("/")[0]
    library = {"timm": timm, "torchvision": torchvision}[source]
    weights = hashlib.sha256("\n".join(digests.values()).encode()).hexdigest()
    return {
        "format": _FORMAT,
        "model": backbone.name,
        "weights": weights,
        "library": f"{source} {library.__version__}",
        "torch": torch.__version__,
        "device": runtime.device.type,
        "layers": list(names),
        "pool": features.pool or (AVG if features.layer else None),
        "preprocessing": backbone.preprocessing.to_json(),
        "decoder": f"Pillow {PIL.__version__}, torchvision {torchvision.__version__}",
        "dtype": features.dtype,
        "arithmetic": str(runtime.amp_dtype or torch.float32).removeprefix("torch."),
        "batch_norms": "folded" if _is_folded(features, runtime) else "apart",
    }


def _default_path(backbone: Backbone, data: str, *, key: Mapping[str, Any]) -> Path:
    name = backbone.name.partition("/")[2]
    return default_features_path(name, data=data, key_digest=digest_of_key(key))


def _views(
    config: ExtractConfig, images: RunImages, *, workers: Workers, threads: int
) -> tuple[pd.DataFrame, Ids]:
    """Return a row for every view, in the order of the table, and their ids."""
    table = images.table
    names: NDArray[np.object_] = table.items["path"].to_numpy(dtype=object)
    own = content_ids(names[workers.rank :: workers.count], root=table.root, threads=threads)
    plain = workers.gather_rows(own, total=len(names))
    items = table.items.assign(view=PLAIN)
    if not config.features.views:
        return items, plain
    is_train = (table.items["split"] == "train").to_numpy()
    if not is_train.any():
        raise ConfigError("--views are views of train images, and there are none.")
    parts, ids = [items], [plain]
    for view in range(config.features.views):
        parts.append(items[is_train].assign(view=view))
        level = config.features.augment
        ids.append(view_ids(plain[is_train], level=level, seed=config.seed, view=view))
    every = pd.concat(parts, ignore_index=True)
    order = every.sort_values(["split", "label", "path", "view"], kind="stable").index.to_numpy()
    return every.iloc[order].reset_index(drop=True), np.concatenate(ids)[order]
