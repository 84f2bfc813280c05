"""A classifier on features that its network's own head could not be put on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tlcli.backbones.stages import Stage
from tlcli.data.preprocessing import RGB_CHANNELS
from tlcli.models.features import FeatureExtractor
from tlcli.models.head import HeadSpec, replace_heads
from tlcli.models.knn_head import KnnHead


class FeatureClassifier(nn.Module):
    """A linear head on outputs of stages, or a k-NN head on any features.

    Features are flattened and laid side by side in the order of `extractor.names`. The state dict
    holds `extractor.network.*` with the keys of the source, and `head.*`. The network's own heads
    are not used and become one zero each, in place.

    Args:
        network: The bare network of a source, its own heads (linear or 1x1 convolutions) in place.
        head_names: Dotted names of the network's own heads.
        stages: All stages of the network.
        input_size: Height and width of the images in pixels.
        layers: See `FeatureExtractor`; none means the embedding.
        pool: See `FeatureExtractor`.
        spec: A linear or a k-NN head.
        num_classes: Outputs K; the head is blank, `head` is there to be filled or replaced.
        in_channels: Of the images.

    Raises:
        ConfigError: See `FeatureExtractor`.
        ModelError: See `FeatureExtractor`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        head_names: Sequence[str],
        stages: Sequence[Stage],
        input_size: tuple[int, int],
        layers: Sequence[str] = (),
        pool: str | None = None,
        spec: HeadSpec,
        num_classes: int,
        in_channels: int = RGB_CHANNELS,
    ) -> None:
        super().__init__()
        replace_heads(network, head_names=head_names, num_classes=1, spec=HeadSpec())
        self.extractor = FeatureExtractor(
            network,
            head_names=head_names,
            stages=stages,
            input_size=input_size,
            layers=layers,
            pool=pool,
            in_channels=in_channels,
        )
        width = self.extractor.feature_dim
        self.head = _blank_head(spec, width=width, num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of normalised pixels (B, `in_channels`, H, W)."""
        features = self.extractor(images)
        flat = [features[name].flatten(1) for name in self.extractor.names]
        logits: Tensor = self.head(torch.cat(flat, dim=1))
        return logits


def _blank_head(spec: HeadSpec, *, width: int, num_classes: int) -> nn.Linear | KnnHead:
    if spec.neighbours is not None and spec.bank is not None:
        return KnnHead.empty(
            rows=spec.bank, width=width, num_classes=num_classes, neighbours=spec.neighbours
        )
    if spec.kind != "linear":
        raise TypeError(f"a head of kind {spec.kind} cannot be put on stored features")
    head = nn.Linear(width, num_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
