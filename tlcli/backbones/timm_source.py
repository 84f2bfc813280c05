"""timm's models behind the protocol."""

import math
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.data import infer_imagenet_subset, resolve_data_config
from timm.models import PretrainedCfg
from torch import Tensor, nn

from tlcli.backbones import downloads, imagenet, timm_published
from tlcli.backbones.finite_weights import check_finite
from tlcli.backbones.input_channels import for_channels
from tlcli.backbones.pretraining import pretraining_of
from tlcli.backbones.protocol import PublishedFacts, WeightTag
from tlcli.data.preprocessing import RGB_CHANNELS, Preprocessing
from tlcli.errors import ModelError, WeightsError

_DEFAULT_NUM_CLASSES = 1000
"""For architectures that are published without a head."""
# What a damaged file, or one of another model, can raise in timm's loading.
_LOAD_FAILURES = (
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)


class TimmSource:
    """See `BackboneSource`."""

    def list_names(self) -> Sequence[str]:
        """Return the names of all architectures, sorted."""
        return _architectures()

    def tags(self, name: str) -> tuple[WeightTag, ...]:
        """Return the published weights of an architecture, the default first."""
        default = timm.models.get_pretrained_cfg(name)
        tags = list(_published().get(name, ()))
        if default is not None:
            tags.sort(key=lambda tag: tag != default.tag)
        return tuple(self._weight_tag(name, tag) for tag in tags)

    def facts(self, name: str) -> PublishedFacts:
        """Return parameters and GMACs from timm's own tables."""
        default = timm.models.get_pretrained_cfg(name)
        tag = default.tag if default else None
        return PublishedFacts(
            parameters=timm_published.parameters(name, tag=tag), gmacs=timm_published.gmacs(name)
        )

    def _weight_tag(self, name: str, tag: str) -> WeightTag:
        config = self._config(name, tag)
        return WeightTag(
            name=tag,
            license=config.license,
            top1=timm_published.top1(name, tag=tag),
            input_size=config.input_size[-1],
            pretraining=pretraining_of(tag),
        )

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
        outputs = num_classes or self._config(name, tag).num_classes or _DEFAULT_NUM_CLASSES
        options = {} if in_channels == RGB_CHANNELS else {"in_chans": in_channels}
        return _create(_full_name(name, tag), input_size=input_size, num_classes=outputs, **options)

    def load_published(
        self, name: str, *, tag: str, path: Path, input_size: int | None = None
    ) -> nn.Module:
        """Build an architecture with the published weights of `tag` that lie at `path`."""
        outputs = self._config(name, tag).num_classes or _DEFAULT_NUM_CLASSES
        try:
            network = _create(
                _full_name(name, tag),
                input_size=input_size,
                pretrained=True,
                num_classes=outputs,
                pretrained_cfg_overlay={"file": str(path)},
            )
        except _LOAD_FAILURES as error:
            reason = " ".join(str(error).split())[:160] or "it is cut off"
            raise WeightsError(
                f"{path} does not hold the weights of timm/{name}.{tag} "
                f"({type(error).__name__}: {reason}). "
                "Delete the file and run again to fetch it anew."
            ) from error
        check_finite(network.state_dict(), origin=str(path))
        return network

    def current_keys(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors as they are; timm renames keys of published weights only."""
        return dict(tensors)

    def resampled(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the filter of the architecture's module makes of a file's tensors."""
        module = sys.modules[type(network).__module__]
        fitted: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None
        fitted = getattr(module, "checkpoint_filter_fn", None)
        return dict(tensors) if fitted is None else fitted(dict(tensors), network)

    def head_names(self, network: nn.Module) -> tuple[str, ...]:
        """Return the classifier layers that the model's own config names."""
        names = getattr(network, "pretrained_cfg", {}).get("classifier")
        if not names:
            raise ModelError(
                f"timm does not say which layer of {type(network).__name__} is its head."
            )
        heads = (names,) if isinstance(names, str) else tuple(names)
        modules = dict(network.named_modules())
        if absent := [head for head in heads if head not in modules]:
            raise ModelError(
                f"timm says that the head of {type(network).__name__} is '{absent[0]}', but it has "
                "no such layer: it gives features only, and cannot be fine-tuned by its head."
            )
        return (*heads, *_unnamed_heads(network, modules, named=heads))

    def preprocessing(
        self,
        name: str,
        *,
        tag: str | None,
        input_size: int | None = None,
        in_channels: int = RGB_CHANNELS,
    ) -> Preprocessing:
        """Return `resolve_data_config` as plain values, resized as timm's own evaluation does."""
        config = resolve_data_config(
            {"img_size": input_size}, pretrained_cfg=self._config(name, tag).to_dict()
        )
        _, height, width = config["input_size"]
        crop_pct = config["crop_pct"]
        published = Preprocessing(
            input_size=(height, width),
            resize_size=(math.floor(height / crop_pct), math.floor(width / crop_pct)),
            crop_mode=config["crop_mode"],
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )
        return for_channels(published, in_channels)

    def no_weight_decay(self, network: nn.Module) -> frozenset[str]:
        """Return what the model's own `no_weight_decay()` lists, as full parameter names."""
        ask: Callable[[], Collection[str]] = getattr(network, "no_weight_decay", tuple)
        listed = ask()
        return frozenset(
            name
            for name, _ in network.named_parameters()
            if name in listed or name.rpartition(".")[2] in listed
        )

    def class_names(self, name: str, *, tag: str) -> tuple[str, ...]:
        """Return WordNet ids where the head was trained on a known ImageNet subset."""
        subset = infer_imagenet_subset(self._config(name, tag).to_dict())
        return imagenet.synsets(subset) if subset else ()

    def published_file(self, name: str, *, tag: str) -> downloads.PublishedFile:
        """Return where the file of a tag comes from: the hub first, then a URL."""
        config = self._config(name, tag)
        return downloads.PublishedFile(
            repo_id=_repository(config) if config.hf_hub_id else None,
            filename=config.hf_hub_filename,
            url=config.url or None,
        )

    def cached_weights(self, name: str, *, tag: str) -> Path | None:
        """Return the file of a tag from the hub's cache or torch.hub's folder if it is there."""
        return downloads.cached_file(self.published_file(name, tag=tag))

    def download_weights(self, name: str, *, tag: str) -> Path:
        """Fetch the file of a tag from the Hugging Face hub, or from its URL."""
        config = self._config(name, tag)
        if config.hf_hub_id:
            return downloads.download_hub_file(_repository(config), filename=config.hf_hub_filename)
        if config.url:
            return downloads.download_url(config.url)
        raise WeightsError(f"timm publishes no file for {name}.{tag}.")

    def _config(self, name: str, tag: str | None) -> PretrainedCfg:
        try:
            return timm.models.get_pretrained_cfg(_full_name(name, tag), allow_unregistered=False)
        except RuntimeError as error:
            known = ", ".join(_published().get(name, ())) or "none"
            raise ModelError(
                f"timm/{name} has no weights called '{tag}'. There are: {known}."
            ) from error


def _unnamed_heads(
    network: nn.Module, modules: Mapping[str, nn.Module], *, named: Sequence[str]
) -> Iterator[str]:
    """Yield the classifier layers of distilled models that their config does not name."""
    own: object = getattr(network, "get_classifier", tuple)()
    for classifier in own if isinstance(own, tuple) else ():
        prefix = next(name for name, module in modules.items() if module is classifier)
        below = [name for name in modules if name == prefix or name.startswith(f"{prefix}.")]
        if not set(below) & set(named):
            yield next(name for name in below if isinstance(modules[name], nn.Linear))


@cache
def _architectures() -> tuple[str, ...]:
    return tuple(sorted(timm.list_models()))


@cache
def _published() -> dict[str, list[str]]:
    """Return the tags of every architecture; asking timm for each takes seconds in all."""
    tags: dict[str, list[str]] = {}
    for full_name in timm.list_pretrained():
        name, _, tag = full_name.partition(".")
        if tag:
            tags.setdefault(name, []).append(tag)
    return tags


def _create(full_name: str, *, input_size: int | None, **options: Any) -> nn.Module:
    """Build a model for images of another size; most convolutional ones need not be told."""
    network: nn.Module
    if input_size is not None:
        try:
            network = timm.create_model(full_name, img_size=input_size, **options)
            return network
        except TypeError as error:
            if "img_size" not in str(error):
                raise
    network = timm.create_model(full_name, **options)
    return network


def _full_name(name: str, tag: str | None) -> str:
    return f"{name}.{tag}" if tag else name


def _repository(config: PretrainedCfg) -> str:
    """Return the hub's id; timm writes `timm/` for its own models, followed by name and tag."""
    hub_id: str = config.hf_hub_id
    return f"{hub_id}{config.architecture}.{config.tag}" if hub_id.endswith("/") else hub_id
