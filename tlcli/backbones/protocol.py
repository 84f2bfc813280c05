"""What a source of models offers, and what it hands out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from tlcli.backbones.downloads import PublishedFile
from tlcli.backbones.stages import Stage
from tlcli.data.preprocessing import RGB_CHANNELS, Preprocessing


@dataclass(frozen=True, kw_only=True)
class WeightTag:
    """Published weights of one architecture."""

    name: str
    """As `--weights` takes it: `IMAGENET1K_V2`, `a1_in1k`."""
    license: str | None = None
    top1: float | None = None
    """ImageNet top-1 as a fraction, where the source publishes it."""
    input_size: int | None = None
    """Side of the images in pixels."""
    pretraining: str | None = None
    """Data it was trained on, the first first: `in22k+in1k`; None if the tag does not say."""


@dataclass(frozen=True, kw_only=True)
class PublishedFacts:
    """What a source says of the size of an architecture, without building it."""

    parameters: int | None
    gmacs: float | None
    """Billions of multiply-adds for one image."""


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """Which weights a network started from."""

    tag: str
    """A published tag, `none`, or `file`."""
    path: str | None = None
    sha256: str | None = None
    remarks: tuple[str, ...] = ()
    """What the user should know of the loading: keys left out, preprocessing assumed."""
    adapted_layers: tuple[str, ...] = ()
    """First layers whose weights were trained on RGB and adapted to other channels."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network of one source with all that is needed to adapt it.

    The pretrained head is still in place; `models.head` puts a new one on.
    """

    name: str
    """Source and architecture: `timm/resnet18`."""
    network: nn.Module = field(repr=False)
    head_names: tuple[str, ...]
    feature_dim: int
    stages: tuple[Stage, ...]
    preprocessing: Preprocessing
    no_weight_decay: frozenset[str]
    """Parameters that the architecture itself exempts from weight decay."""
    class_names: tuple[str, ...] = ()
    """What the outputs of the pretrained head mean (WordNet ids for ImageNet); empty if unknown."""
    weights: LoadedWeights
    shape_tag: str | None = None
    """Published weights whose variant of the architecture was built; None is the plain one."""
    input_size: int | None = None
    """Side of the images in pixels if the user chose it; None is that of the weights."""

    def record(self) -> dict[str, Any]:
        """Return what `run.json` says of the model."""
        return {
            "source": self.name.partition("/")[0],
            "name": self.name,
            "weights": self.weights.tag,
            "weights_path": self.weights.path,
            "sha256": self.weights.sha256,
            "remarks": list(self.weights.remarks),
            "feature_dim": self.feature_dim,
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "stages": [stage.label for stage in self.stages],
        }


class BackboneSource(Protocol):
    """A library of architectures with published weights."""

    def list_names(self) -> Sequence[str]:
        """Return the names of all classification architectures, sorted."""

    def tags(self, name: str) -> tuple[WeightTag, ...]:
        """Return the published weights of an architecture, the default first."""

    def facts(self, name: str) -> PublishedFacts:
        """Return what is published of an architecture's size."""

    def build(
        self,
        name: str,
        *,
        tag: str | None,
        num_classes: int | None,
        input_size: int | None = None,
        in_channels: int = RGB_CHANNELS,
    ) -> nn.Module:
        """Build an architecture with random weights, in the shape that `tag` was trained in.

        `num_classes` of None keeps the head that the published weights have, `input_size` of None
        their images; another one (side in pixels) may need other position embeddings. Pictures
        of other than three channels need other first layers.
        """

    def load_published(
        self, name: str, *, tag: str, path: Path, input_size: int | None = None
    ) -> nn.Module:
        """Build an architecture with the published weights of `tag` that lie at `path`."""

    def resampled(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a file's tensors with position embeddings for the images of `network`."""

    def current_keys(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a file's tensors by today's key names, without parts that are never built."""

    def head_names(self, network: nn.Module) -> tuple[str, ...]:
        """Return the dotted names of the layers that map features to classes."""

    def preprocessing(
        self,
        name: str,
        *,
        tag: str | None,
        input_size: int | None = None,
        in_channels: int = RGB_CHANNELS,
    ) -> Preprocessing:
        """Return what the published weights want to see; `tag` None means the default ones.

        With another `input_size` the same share of the picture is cut out.
        """

    def no_weight_decay(self, network: nn.Module) -> frozenset[str]:
        """Return the names of parameters that the architecture exempts from weight decay."""

    def class_names(self, name: str, *, tag: str) -> tuple[str, ...]:
        """Return what the outputs of the published head mean, or nothing if unknown."""

    def published_file(self, name: str, *, tag: str) -> PublishedFile:
        """Return where the file of a tag comes from."""

    def cached_weights(self, name: str, *, tag: str) -> Path | None:
        """Return the file of a tag if this machine has it; opens no socket."""

    def download_weights(self, name: str, *, tag: str) -> Path:
        """Fetch the file of a tag as the source's own users do; raises WeightsError."""


def head_width(layer: Any) -> int:
    """Return how many features a linear or 1x1-convolution head takes."""
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)
