"""Maps at several strides from any backbone of both sources, joined by a feature pyramid.

Nothing is known of families: stages are those that `finetune` freezes, and what they put out is
found by watching one pass. The backbone keeps its source's own module names; what lies behind the
last map (the classification head above all) is taken out, because it could never be trained.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from tlcli.backbones.protocol import Backbone
from tlcli.backbones.stages import HEAD, Stage
from tlcli.errors import ConfigError, ModelError
from tlcli.models.detectors.detector_stages import holds_any
from tlcli.models.feature_taps import Tap, stage_taps
from tlcli.models.pooling import NONE
from tlcli.models.watched_pass import WatchedPass

STRIDES = (4, 8, 16, 32, 64)
DEFAULT_STRIDES = (8, 16, 32, 64)
_MIN_LEVELS = 2
_MAX_SHARE_BEHIND = 0.5
"""Of the body's weights behind the last map; with more, most of it would be thrown away."""
_SIZE_DIVISOR = 32
"""Detectors pad pictures to multiples of this, in pixels."""
_OTHER_SIZE = (32, 96)
"""Height and width added to the input in the pass that shows whether other sizes are taken."""
_FIXED_GRIDS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_LISTS = (nn.ModuleList, nn.ModuleDict)
# What networks of both sources raise for images of a size they were not built for.
_SIZE_FAILURES = (AssertionError, RuntimeError, ValueError, TypeError, IndexError)


@dataclass(frozen=True, kw_only=True)
class PyramidLevel:
    """One map of a backbone."""

    stride: int
    """Pixels of the image per cell, along both axes."""
    channels: int
    tap: Tap


class FeaturePyramid(nn.Module):
    """A backbone and a feature pyramid network on its maps, as torchvision's detectors want it.

    Reference: Lin et al., Feature Pyramid Networks for Object Detection, CVPR 2017.

    Args:
        body: The network of a source; hooks are put on it.
        levels: Its maps that are used, finest first.
        channels: Of every map of the pyramid.
        extra: Makes coarser maps beyond the last one.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        levels: Sequence[PyramidLevel],
        channels: int,
        extra: ExtraFPNBlock,
    ) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            [level.channels for level in levels], channels, extra_blocks=extra
        )
        self.out_channels = channels
        self.levels = tuple(levels)
        self._pass = WatchedPass(body, [level.tap for level in levels])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return maps (B, C, H, W) by name, finest first.

        Args:
            images: Normalised pixels (B, 3, H, W).
        """
        named = OrderedDict((str(place), one) for place, one in enumerate(self.maps(images)))
        pyramid: dict[str, Tensor] = self.fpn(named)
        return pyramid

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return what the backbone itself puts out, (B, C, H, W) each; the pass ends there."""
        return [
            seen.movedim(tap.layout.channel_axis, 1)
            for tap, seen in zip(self._pass.taps, self._pass.run(self.body, images), strict=True)
        ]


def pyramid_levels(
    backbone: Backbone, *, strides: Sequence[int] | None = None
) -> tuple[PyramidLevel, ...]:
    """Find the maps of a backbone: at each stride, what the last stage there puts out.

    A last stage that only widens (one convolution of 1x1 before the classifier) is passed over.

    Args:
        backbone: Its network is changed in nothing.
        strides: Those wanted, some of 4, 8, 16, 32, 64; None means all from 8 on that there are.

    Returns:
        Finest first.

    Raises:
        ConfigError: If a wanted stride is none that the backbone has.
        ModelError: If the backbone gives no maps.
    """
    found = _levels_by_stride(backbone)
    if len(found) < _MIN_LEVELS:
        raise ModelError(
            f"{backbone.name} gives no pyramid of feature maps (strides found: "
            f"{', '.join(map(str, found)) or 'none'}). Take a network whose stages halve the "
            "picture step by step, such as a ResNet, EfficientNet or ConvNeXt."
        )
    chosen = tuple(found.keys() & set(DEFAULT_STRIDES)) if strides is None else strides
    if unknown := [stride for stride in chosen if stride not in found]:
        raise ConfigError(
            f"{backbone.name} has no map of stride {', '.join(map(str, unknown))}. "
            f"Its strides: {', '.join(map(str, found))}."
        )
    return tuple(found[stride] for stride in sorted(set(chosen)))


def make_pyramid(
    backbone: Backbone, *, levels: Sequence[PyramidLevel], channels: int, extra: ExtraFPNBlock
) -> FeaturePyramid:
    """Put a new feature pyramid on a backbone; its network is changed in place.

    Modules that are not called before the last map is there are replaced by the identity.

    Args:
        backbone: A network of a source with its head.
        levels: From `pyramid_levels`.
        channels: Of every map of the pyramid.
        extra: Makes coarser maps beyond the last one.

    Raises:
        ModelError: If the backbone takes images of one size only.
    """
    body = backbone.network
    was_training = body.training
    body.eval()  # the passes below must leave statistics alone
    pyramid = FeaturePyramid(body, levels=levels, channels=channels, extra=extra)
    _check_other_sizes(pyramid, backbone)
    for name in _unused_modules(pyramid, input_size=backbone.preprocessing.input_size):
        body.set_submodule(name, nn.Identity())
    body.train(was_training)
    return pyramid


def body_stages(backbone: Backbone, *, prefix: str) -> tuple[Stage, ...]:
    """Return the stages of a backbone that still hold weights, under their old names.

    Args:
        backbone: After `make_pyramid`.
        prefix: Where the backbone lies in the detector, such as `backbone.body.`.
    """
    named = [name for name, _ in backbone.network.named_parameters()]
    stages = []
    for stage in backbone.stages:
        if stage.name == HEAD or not any(stage.owns(name) for name in named):
            continue
        stages.append(
            Stage(
                name=stage.name,
                members=tuple(f"{prefix}{member}" for member in stage.members),
                companions=tuple(c for c in stage.companions if holds_any(c, named)),
            )
        )
    return tuple(stages)


def _levels_by_stride(backbone: Backbone) -> dict[int, PyramidLevel]:
    """Return the last map at every stride, none if most of the network works on tokens."""
    input_size = backbone.preprocessing.input_size
    network = backbone.network
    was_training = network.training
    stages = [_before_pooling(s, network) for s in backbone.stages if s.name != HEAD]
    taps = stage_taps(network.eval(), stages, input_size=input_size, pool=NONE)
    network.train(was_training)
    found: dict[int, PyramidLevel] = {}
    weights = weights_behind = 0
    for stage, tap in zip(stages, taps, strict=True):
        if _count_cells(tap) <= 1:
            continue  # behind the pooling
        stride = _stride(tap, input_size=input_size)
        if stride in found and _only_widens(network, stage):
            continue
        parameters = sum(p.numel() for key, p in network.named_parameters() if stage.owns(key))
        weights += parameters
        weights_behind += parameters
        if stride in STRIDES:
            channels = tap.shape[tap.layout.channel_axis - 1]
            found[stride] = PyramidLevel(stride=stride, channels=channels, tap=tap)
            weights_behind = 0
    if weights_behind > _MAX_SHARE_BEHIND * weights:
        return {}
    return dict(sorted(found.items()))


def _count_cells(tap: Tap) -> int:
    return math.prod(tap.shape[axis - 1] for axis in tap.layout.positions)


def _before_pooling(stage: Stage, network: nn.Module) -> Stage:
    """Leave out what pools to a fixed grid, whatever the size of the picture (VGG, AlexNet)."""
    modules = dict(network.named_modules())
    members = tuple(m for m in stage.members if not isinstance(modules.get(m), _FIXED_GRIDS))
    return replace(stage, members=members)


def _stride(tap: Tap, *, input_size: tuple[int, int]) -> int | None:
    """Return the power of two by which a map is smaller than the image, None if it is no map."""
    axes = tap.layout.positions
    if len(axes) != 2:
        return None
    cells = (tap.shape[axis - 1] for axis in axes)
    strides = {_power(pixels, count) for pixels, count in zip(input_size, cells, strict=True)}
    return strides.pop() if len(strides) == 1 else None


def _power(pixels: int, cells: int) -> int:
    """Return pixels per cell as the nearest power of two.

    Convolutions without padding lose a cell or two at the rim, so the ratio is seldom exact.
    """
    return int(2 ** round(math.log2(pixels / cells)))


def _only_widens(network: nn.Module, stage: Stage) -> bool:
    """Say whether a stage is a single 1x1 convolution to more channels."""
    layers = [
        module
        for name, module in network.named_modules()
        if stage.owns(name) and any(p.ndim > 1 for p in module.parameters(recurse=False))
    ]
    (layer, *others) = layers or [None]
    return (
        not others
        and isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.out_channels > layer.in_channels
    )


def _check_other_sizes(pyramid: FeaturePyramid, backbone: Backbone) -> None:
    """Run an image of another size and shape: a detector's pictures have every shape."""
    size = tuple(
        math.ceil(side / _SIZE_DIVISOR) * _SIZE_DIVISOR + more
        for side, more in zip(backbone.preprocessing.input_size, _OTHER_SIZE, strict=True)
    )
    first = next(pyramid.body.parameters())
    expected = "x".join(map(str, backbone.preprocessing.input_size))
    remedy = "A detector's pictures have every shape: take a convolutional network as --backbone."
    try:
        with torch.no_grad():
            maps = pyramid.maps(torch.zeros(1, 3, *size).to(first))
    except _SIZE_FAILURES as error:
        reason = " ".join(str(error).split())[:120]
        raise ModelError(
            f"{backbone.name} takes images of {expected} pixels only ({reason}). {remedy}"
        ) from error
    strides = [
        tuple(_power(s, n) for s, n in zip(size, one.shape[2:], strict=True)) for one in maps
    ]
    if strides != [(level.stride, level.stride) for level in pyramid.levels]:
        raise ModelError(
            f"The maps of {backbone.name} do not grow with the picture: their strides are "
            f"{strides} for {size[0]}x{size[1]} pixels, but "
            f"{[level.stride for level in pyramid.levels]} for {expected}. {remedy}"
        )


def _unused_modules(pyramid: FeaturePyramid, *, input_size: tuple[int, int]) -> list[str]:
    """Return the outermost modules with weights that are neither called nor looked into."""
    body = pyramid.body
    named = dict(body.named_parameters())
    called: set[nn.Module] = set()
    handles = [m.register_forward_pre_hook(lambda m, _: called.add(m)) for m in body.modules()]
    try:
        with torch.enable_grad():
            maps = pyramid.maps(torch.zeros(1, 3, *input_size).to(next(iter(named.values()))))
            total = torch.stack([one.sum() for one in maps]).sum()
            gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    # Attention, for one, takes the weights of layers that it does not call.
    used = {name for name, grad in zip(named, gradients, strict=True) if grad is not None}
    found: list[str] = []
    for name, module in body.named_modules():
        mine = {f"{name}.{key}" for key, _ in module.named_parameters()}
        # Lists are never called, and gone through all the same.
        is_inside = any(name.startswith(f"{outer}.") for outer in found)
        if module in called or isinstance(module, _LISTS) or is_inside:
            continue
        if mine and not mine & used:
            found.append(name)
    return found
