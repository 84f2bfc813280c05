"""Features of any network of both sources: what its head receives, or what its stages put out.

Nothing is known of families. Hooks listen while the network runs its own forward pass, which ends
as soon as everything wanted has been seen.
"""

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tlcli.backbones.stages import Stage
from tlcli.errors import ModelError
from tlcli.models.feature_taps import Tap, head_taps, stage_taps
from tlcli.models.pooling import AVG, check_pool, pooled
from tlcli.models.unfreezing import match_stages

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
    ) -> None:
        super().__init__()
        check_pool(pool, has_layers=bool(layers))
        self.network = network.eval()
        self._owner = next(_OWNERS)
        if layers:
            names = select_layers(layers, stages=[stage.name for stage in stages])
            chosen = [stage for stage in stages if stage.name in names]
            self._taps = stage_taps(network, chosen, input_size=input_size, pool=pool or AVG)
        else:
            self._taps = head_taps(network, head_names, input_size=input_size)
        for tap in self._taps:
            _listen(network.get_submodule(tap.module), tap, owner=self._owner)

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
            images: Normalised pixels (B, 3, H, W).

        Raises:
            ModelError: If a layer was not called as in the pass that `__init__` made.
        """
        capture = _Capture(owner=self._owner, wanted={tap.name: tap.call for tap in self._taps})
        with _capturing(capture), contextlib.suppress(_AllSeenError):
            self.network(images)
        if missing := [name for name in capture.wanted if name not in capture.seen]:
            raise ModelError(
                f"The network did not call {', '.join(missing)} as it did for blank images, or the "
                "layer was replaced since the extractor was built."
            )
        parts = [capture.seen[tap.name] for tap in self._taps]
        if self._is_embedding:
            return {EMBEDDING: torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]}
        return {tap.name: part for tap, part in zip(self._taps, parts, strict=True)}

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


@dataclass(kw_only=True)
class _Capture:
    """What one forward pass in one thread has shown so far."""

    owner: int
    """The extractor that listens; others may have hooks on the same network."""
    wanted: dict[str, int]
    """Which call of the module of each tap is wanted, counted from 1."""
    calls: dict[str, int] = field(default_factory=dict)
    seen: dict[str, Tensor] = field(default_factory=dict)


class _AllSeenError(Exception):
    """Ends a forward pass that has shown everything wanted."""


_OWNERS = itertools.count()
_THREAD = threading.local()


@contextlib.contextmanager
def _capturing(capture: _Capture) -> Iterator[None]:
    before = getattr(_THREAD, "capture", None)
    _THREAD.capture = capture
    try:
        yield
    finally:
        _THREAD.capture = before


def _listen(module: nn.Module, tap: Tap, *, owner: int) -> None:
    """Take a feature whenever a pass of `owner` in the same thread reaches the module."""

    def take(value: object) -> None:
        capture: _Capture | None = getattr(_THREAD, "capture", None)
        if capture is None or capture.owner != owner:
            return
        capture.calls[tap.name] = capture.calls.get(tap.name, 0) + 1
        if capture.calls[tap.name] == tap.call:
            # Pooled at once: a layer behind it may work in place.
            capture.seen[tap.name] = pooled(tap.value_of(value), layout=tap.layout, pool=tap.pool)
        if len(capture.seen) == len(capture.wanted):
            raise _AllSeenError

    if tap.is_head:
        module.register_forward_pre_hook(lambda _module, inputs: take(inputs))
    else:
        module.register_forward_hook(lambda _module, _inputs, output: take(output))
