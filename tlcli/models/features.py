"""Features of any network of both sources: what its head receives, or what its stages put out.

Nothing is known of families. Hooks listen while the network runs its own forward pass, which ends
as soon as everything wanted has been seen.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tlcli.backbones.stages import Stage
from tlcli.data.preprocessing import RGB_CHANNELS
from tlcli.models.feature_taps import Tap, head_taps, stage_taps
from tlcli.models.pooling import AVG, check_pool
from tlcli.models.unfreezing import match_stages
from tlcli.models.watched_pass import WatchedPass

EMBEDDING = "embedding"


class FeatureExtractor(nn.Module):
    """Penultimate embedding, or outputs of stages, of any network of both sources.

    The embedding is what the network's own head receives, so that a linear head on it is the same
    function as that head in the network, to rounding: the mean over positions where the head works
    on a map or on tokens, side by side where several heads are averaged (distilled models).
    A head over tokens beside one over a vector (VOLO) is auxiliary and is left out.

    The output of a stage is that of its module called last which still has positions: a norm
    behind the pooling that belongs to the stage is passed over.

    The network is in eval mode and stays so. Several threads may call one extractor at once, each
    under its own `torch.inference_mode`; its layers must not be replaced any more.

    Args:
        network: The bare network of a source, its own heads in place. Hooks are put on it.
        head_names: Dotted names of the layers that map features to classes.
        stages: All stages of the network.
        input_size: Height and width of the images in pixels; a pass of blank ones shows shapes.
        layers: Stage names, globs or `last:2`; none means the embedding.
        pool: How stage outputs become vectors, see `pooling.pooled`; None means `avg`.
        in_channels: Of the images.

    Raises:
        ConfigError: If a layer matches no stage, or `pool` is unknown or given without layers.
        ModelError: If a layer has no output that can be pooled so, or a head is never called.
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
        in_channels: int = RGB_CHANNELS,
    ) -> None:
        super().__init__()
        check_pool(pool, has_layers=bool(layers))
        self.network = network.eval()
        if layers:
            names = select_layers(layers, stages=[stage.name for stage in stages])
            chosen = [stage for stage in stages if stage.name in names]
            taps = stage_taps(
                network,
                chosen,
                input_size=input_size,
                pool=pool or AVG,
                in_channels=in_channels,
            )
        else:
            taps = head_taps(network, head_names, input_size=input_size, in_channels=in_channels)
        self._pass = WatchedPass(network, taps)

    @property
    def names(self) -> tuple[str, ...]:
        """`("embedding",)`, or the names of the stages from the input on."""
        return tuple(self.shapes)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of the features of one image by name; maps are (C, H, W) or (H, W, C)."""
        if self._is_embedding:
            return {EMBEDDING: (sum(tap.shape[0] for tap in self._taps),)}
        return {tap.name: tap.shape for tap in self._taps}

    @property
    def feature_dim(self) -> int:
        """Length of all features of one image, flattened and side by side."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stay in eval mode: features come from frozen networks only."""
        return super().train(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return features by name, each (B, D), or maps (B, ...) with `pool="none"`.

        Args:
            images: Normalised pixels (B, `in_channels`, H, W).

        Raises:
            ModelError: If a layer was not called as in the pass that `__init__` made.
        """
        parts = self._pass.run(self.network, images)
        if self._is_embedding:
            return {EMBEDDING: torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]}
        return {tap.name: part for tap, part in zip(self._taps, parts, strict=True)}

    @property
    def _taps(self) -> tuple[Tap, ...]:
        return self._pass.taps

    @property
    def _is_embedding(self) -> bool:
        return self._taps[0].is_head


def select_layers(patterns: Sequence[str], *, stages: Sequence[str]) -> tuple[str, ...]:
    """Return the stages that `--layer` names, from the input on.

    Args:
        patterns: Stage names, globs, `last:2` or `all`; the head is no layer.
        stages: All stage names from the input to the head.

    Raises:
        ConfigError: If a pattern matches none.
    """
    body = stages[:-1]
    chosen = match_stages(patterns, stages=stages, choices=body, option="--layer")
    return tuple(name for name in body if name in chosen)
