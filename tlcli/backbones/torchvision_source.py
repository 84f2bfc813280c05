"""torchvision's classification models behind the protocol."""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torchvision import models as zoo
from torchvision.models import VisionTransformer, Weights, WeightsEnum
from torchvision.models.vision_transformer import interpolate_embeddings

from tlcli.backbones import downloads, imagenet, weight_files
from tlcli.backbones.input_channels import for_channels, set_input_channels
from tlcli.backbones.protocol import PublishedFacts, WeightTag
from tlcli.data.preprocessing import RGB_CHANNELS, Preprocessing
from tlcli.errors import ModelError

DEFAULT_LICENSE = "BSD-3-Clause"
"""Of weights that say nothing else."""

# Their auxiliary classifiers exist in train mode only and are no part of what is fine-tuned. Their
# published weights expect inputs shifted from ImageNet's statistics to a mean and std of one half.
_AUXILIARY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"inception_v3": ("AuxLogits.",), "googlenet": ("aux1.", "aux2.")}
)
_SHIFTED = (0.5, 0.5, 0.5)
# Published files keep the names that layers had when they were trained; torchvision renames them
# while loading: `_load_state_dict` in its densenet.py, `MLPBlock` in its vision_transformer.py.
_RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)
_NO_WEIGHT_DECAY = ("class_token", "pos_embedding", "relative_position_bias_table")
"""Last parts of names; torchvision's training references exempt the same ones."""
_POSITIONS = "encoder.pos_embedding"


class TorchvisionSource:
    """See `BackboneSource`."""

    def list_names(self) -> Sequence[str]:
        """Return the names of all classification architectures, sorted."""
        return sorted(zoo.list_models(module=zoo))

    def tags(self, name: str) -> tuple[WeightTag, ...]:
        """Return the published weights of an architecture, the default first."""
        enum = zoo.get_model_weights(name)
        ordered = sorted(enum, key=lambda entry: entry is not enum.DEFAULT)
        return tuple(_tag(entry) for entry in ordered)

    def facts(self, name: str) -> PublishedFacts:
        """Return what the metadata of the default weights say."""
        meta = self._entry(name, None).meta
        return PublishedFacts(parameters=meta["num_params"], gmacs=meta["_ops"])

    def build(
        self,
        name: str,
        *,
        tag: str | None,
        num_classes: int | None,
        input_size: int | None = None,
        in_channels: int = RGB_CHANNELS,
    ) -> nn.Module:
        """Build an architecture with random weights, in the shape that `tag` was trained in."""
        options: dict[str, Any] = {"weights": None, "num_classes": num_classes or 1000}
        is_rgb = in_channels == RGB_CHANNELS
        if name in _AUXILIARY:  # what shifts their inputs knows three channels only
            options |= {"aux_logits": False, "transform_input": is_rgb, "init_weights": True}
        if name.startswith("vit_"):
            options["image_size"] = input_size or min(self._entry(name, tag).meta["min_size"])
        if name.startswith("maxvit_") and input_size is not None:
            options["input_size"] = (input_size, input_size)
        network: nn.Module = zoo.get_model(name, **options)
        if not is_rgb:
            set_input_channels(network, in_channels)
        return network

    def load_published(
        self, name: str, *, tag: str, path: Path, input_size: int | None = None
    ) -> nn.Module:
        """Build an architecture with the published weights of `tag` that lie at `path`."""
        num_outputs = len(self._entry(name, tag).meta["categories"])
        network = self.build(name, tag=tag, num_classes=num_outputs, input_size=input_size)
        tensors = self.current_keys(name, weight_files.read_state_dict(path).tensors)
        if input_size is not None:
            tensors = self.resampled(network, tensors)
        weight_files.load_state(network, tensors, head_names=(), origin=f"{name} {tag}")
        return network

    def current_keys(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename what torchvision renamed since, and leave out auxiliary classifiers."""
        auxiliary = _AUXILIARY.get(name, ())
        return {
            _current_key(key): tensor
            for key, tensor in tensors.items()
            if not key.startswith(auxiliary)
        }

    def resampled(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a ViT's tensors with its position embedding interpolated; others need nothing."""
        if not isinstance(network, VisionTransformer) or _POSITIONS not in tensors:
            return dict(tensors)
        return dict(
            interpolate_embeddings(network.image_size, network.patch_size, OrderedDict(tensors))
        )

    def head_names(self, network: nn.Module) -> tuple[str, ...]:
        """Return the last linear layer, or the last 1x1 convolution of SqueezeNet."""
        candidates = [
            layer_name
            for layer_name, layer in network.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d)
        ]
        return (candidates[-1],)

    def preprocessing(
        self,
        name: str,
        *,
        tag: str | None,
        input_size: int | None = None,
        in_channels: int = RGB_CHANNELS,
    ) -> Preprocessing:
        """Return `weights.transforms()` as plain values.

        For other than three channels also the shift that some networks then do without.
        """
        preset = self._entry(name, tag).transforms()
        (crop,), (resize,) = preset.crop_size, preset.resize_size
        if input_size is not None:
            crop, resize = input_size, round(input_size * resize / crop)
        is_shifted = name in _AUXILIARY and in_channels != RGB_CHANNELS
        published = Preprocessing(
            input_size=(crop, crop),
            resize_size=(resize, resize),
            interpolation=preset.interpolation.value,
            mean=_SHIFTED if is_shifted else tuple(preset.mean),
            std=_SHIFTED if is_shifted else tuple(preset.std),
        )
        return for_channels(published, in_channels)

    def no_weight_decay(self, network: nn.Module) -> frozenset[str]:
        """Return tokens, position embeddings and relative position biases."""
        return frozenset(
            name
            for name, _ in network.named_parameters()
            if name.rpartition(".")[2] in _NO_WEIGHT_DECAY
        )

    def class_names(self, name: str, *, tag: str) -> tuple[str, ...]:
        """Return ImageNet's WordNet ids; every published head of torchvision is ImageNet-1k."""
        num_outputs = len(self._entry(name, tag).meta["categories"])
        return imagenet.synsets("imagenet-1k") if num_outputs == 1000 else ()

    def published_file(self, name: str, *, tag: str) -> downloads.PublishedFile:
        """Return where the file of a tag comes from."""
        return downloads.PublishedFile(url=self._entry(name, tag).url)

    def cached_weights(self, name: str, *, tag: str) -> Path | None:
        """Return the file of a tag from torch.hub's folder if it is there."""
        return downloads.cached_file(self.published_file(name, tag=tag))

    def download_weights(self, name: str, *, tag: str) -> Path:
        """Fetch the file of a tag into torch.hub's folder, its hash checked."""
        return downloads.download_url(self._entry(name, tag).url)

    def _entry(self, name: str, tag: str | None) -> Weights:
        enum: type[WeightsEnum] = zoo.get_model_weights(name)
        try:
            return enum[tag or "DEFAULT"]
        except KeyError as error:
            known = ", ".join(entry.name for entry in enum)
            raise ModelError(
                f"torchvision/{name} has no weights called '{tag}'. There are: {known}."
            ) from error


def _tag(entry: WeightsEnum) -> WeightTag:
    scores = entry.meta["_metrics"].get("ImageNet-1K", {})
    top1 = scores.get("acc@1")
    return WeightTag(
        name=entry.name,
        license=entry.meta.get("license", DEFAULT_LICENSE),
        top1=None if top1 is None else top1 / 100,
        input_size=entry.transforms().crop_size[0],
        pretraining="swag+in1k" if "SWAG" in entry.name else "in1k",
    )


def _current_key(key: str) -> str:
    for pattern, replacement in _RENAMED:
        key = pattern.sub(replacement, key)
    return key
