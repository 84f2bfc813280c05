"""Where in a network its features are taken, found by watching one forward pass."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tlcli.backbones.stages import Stage
from tlcli.data.preprocessing import RGB_CHANNELS
from tlcli.errors import ModelError
from tlcli.models.pooling import AVG, CLS, Layout, layout_of, pooled_shape

_TRACED_IMAGES = 2
"""More than one, so that tensors without one row per image show."""
_CLASS_TOKENS = ("cls_token", "class_token")
"""Names of the parameter that is a network's first token, but for a number behind (CoaT)."""


@dataclass(frozen=True, kw_only=True)
class Tap:
    """Where one feature is taken."""

    name: str
    """Of a stage, or of a head."""
    module: str
    """Dotted name of the module whose output, or input for a head, it is."""
    call: int
    """Which of the module's calls in one pass, counted from 1."""
    part: int | None
    """Place in the module's output where that is a tuple."""
    layout: Layout
    pool: str
    shape: tuple[int, ...]
    """Of the features of one image."""
    is_head: bool = False

    def value_of(self, output: Any) -> Tensor:
        """Return the tensor in what the module took or put out."""
        value: Tensor = output if self.part is None else output[self.part]
        return value


@dataclass(frozen=True)
class _Call:
    """What one call of a module showed."""

    module: str
    number: int
    """Counted from 1, of this module."""
    part: int | None
    shape: tuple[int, ...]
    """Empty where nothing has one row per image."""


@dataclass(frozen=True)
class _Reading:
    """How the outputs of a network are to be read."""

    input_size: tuple[int, int]
    prefix_tokens: int
    has_class_token: bool
    is_nhwc: bool

    def layout(self, call: _Call) -> Layout:
        """Return how the output of a call is laid out: maps, tokens or vectors."""
        return layout_of(
            call.shape,
            input_size=self.input_size,
            prefix_tokens=self.prefix_tokens,
            is_nhwc=self.is_nhwc,
        )


def stage_taps(
    network: nn.Module,
    stages: Sequence[Stage],
    *,
    input_size: tuple[int, int],
    pool: str,
    in_channels: int = RGB_CHANNELS,
) -> tuple[Tap, ...]:
    """Find the outputs of stages.

    Args:
        network: In eval mode.
        stages: Those wanted.
        input_size: Height and width of the images in pixels.
        pool: See `pooling.pooled`.
        in_channels: Of the images.

    Raises:
        ModelError: If a stage has no output that can be pooled so.
    """
    inside = [name for name, _ in network.named_modules() if any(s.owns(name) for s in stages)]
    images = _blank_images(network, input_size=input_size, in_channels=in_channels)
    calls = _trace(network, inside, images=images, of_inputs=False)
    reading = _reading(network, input_size=input_size)
    return tuple(
        _stage_tap(stage, _outermost(network, stage, calls), reading=reading, pool=pool)
        for stage in stages
    )


def head_taps(
    network: nn.Module,
    head_names: Sequence[str],
    *,
    input_size: tuple[int, int],
    in_channels: int = RGB_CHANNELS,
) -> tuple[Tap, ...]:
    """Find what the heads receive; arguments as in `stage_taps`.

    Heads over tokens beside heads over vectors are auxiliary and left out.

    Raises:
        ModelError: If a head is never called.
    """
    images = _blank_images(network, input_size=input_size, in_channels=in_channels)
    calls = _trace(network, head_names, images=images, of_inputs=True)
    last = {call.module: call for call in calls if call.shape}
    if missing := [name for name in head_names if name not in last]:
        raise ModelError(
            f"The head {', '.join(missing)} of this network is not called with one row per image, "
            "so there is no embedding. Use --layer."
        )
    taps = tuple(_head_tap(network, last[name]) for name in head_names)
    vectors = tuple(tap for tap in taps if not tap.layout.positions)
    is_linear = isinstance(network.get_submodule(head_names[0]), nn.Linear)
    return vectors if vectors and is_linear else taps


def _stage_tap(stage: Stage, calls: Sequence[_Call], *, reading: _Reading, pool: str) -> Tap:
    outputs = [(call, reading.layout(call)) for call in calls]
    if not outputs:
        raise ModelError(
            f"--layer {stage.name} puts out no tensor with one row per image. Choose another layer."
        )
    with_positions = [(call, la) for call, la in outputs if _count_positions(call.shape, la) > 1]
    call, layout = (with_positions or outputs)[-1]
    if pool == CLS and not (layout.prefix_tokens and reading.has_class_token):
        raise ModelError(
            f"--pool cls: the output of {stage.name} has no class token. Use --pool avg or max."
        )
    return Tap(
        name=stage.name,
        module=call.module,
        call=call.number,
        part=call.part,
        layout=layout,
        pool=pool,
        shape=pooled_shape(call.shape, layout=layout, pool=pool),
    )


def _head_tap(network: nn.Module, call: _Call) -> Tap:
    """A linear head maps the last axis, a convolution the second; all others are positions."""
    axes = range(len(call.shape))
    channel_axis = 1 if isinstance(network.get_submodule(call.module), nn.Conv2d) else axes[-1]
    layout = Layout(
        channel_axis=channel_axis,
        positions=tuple(axis for axis in axes[1:] if axis != channel_axis),
    )
    return Tap(
        name=call.module,
        module=call.module,
        call=call.number,
        part=call.part,
        layout=layout,
        pool=AVG,
        shape=pooled_shape(call.shape, layout=layout, pool=AVG),
        is_head=True,
    )


def _blank_images(network: nn.Module, *, input_size: tuple[int, int], in_channels: int) -> Tensor:
    return torch.zeros(_TRACED_IMAGES, in_channels, *input_size).to(next(network.parameters()))


def _trace(
    network: nn.Module, names: Iterable[str], *, images: Tensor, of_inputs: bool
) -> list[_Call]:
    """Run images and return the calls of the named modules in the order they ended."""
    calls: list[_Call] = []
    counts: dict[str, int] = {}

    def remember(name: str, value: Any) -> None:
        counts[name] = counts.get(name, 0) + 1
        calls.append(_Call(name, counts[name], *_rows_in(value)))

    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, inputs, output, name=name: remember(
                name, inputs if of_inputs else output
            )
        )
        for name in names
    ]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _rows_in(value: Any) -> tuple[int | None, tuple[int, ...]]:
    """Return place and shape of the first tensor with one row per image; (None, ()) if none."""
    is_series = isinstance(value, tuple | list)
    for place, item in enumerate(value if is_series else [value]):
        if isinstance(item, Tensor) and item.ndim >= 2 and item.shape[0] == _TRACED_IMAGES:
            return place if is_series else None, tuple(item.shape)
    return None, ()


def _outermost(network: nn.Module, stage: Stage, calls: Sequence[_Call]) -> list[_Call]:
    """Return the calls of the stage's members; of what lies in them where they are mere lists."""
    usable = [call for call in calls if call.shape]
    called = {call.module for call in usable}
    names = set(_called_parts(network, stage.members, called=called))
    return [call for call in usable if call.module in names]


def _called_parts(
    network: nn.Module, names: Iterable[str], *, called: Collection[str]
) -> Iterator[str]:
    modules = dict(network.named_modules())
    for name in names:
        if name in called:
            yield name
        elif name in modules:
            children = (f"{name}.{child}" for child, _ in modules[name].named_children())
            yield from _called_parts(network, children, called=called)


def _count_positions(shape: Sequence[int], layout: Layout) -> int:
    return torch.Size(shape[axis] for axis in layout.positions).numel() if layout.positions else 0


def _reading(network: nn.Module, *, input_size: tuple[int, int]) -> _Reading:
    """Ask the network how it lays out its outputs; timm's say it, torchvision's ViT has a token."""
    names = [
        name.rpartition(".")[2].rstrip("_0123456789") for name, _ in network.named_parameters()
    ]
    has_class_token = any(name in _CLASS_TOKENS for name in names)
    return _Reading(
        input_size=input_size,
        prefix_tokens=getattr(network, "num_prefix_tokens", int(has_class_token)),
        has_class_token=has_class_token,
        is_nhwc=getattr(network, "output_fmt", None) == "NHWC",
    )
