"""From the output of a layer to one vector per image: where its channels and positions lie."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tlcli.errors import ConfigError, ModelError

AVG, CLS, MAX, NONE = POOLS = ("avg", "cls", "max", "none")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which axes of a tensor (B, ...) mean what."""

    channel_axis: int
    positions: tuple[int, ...]
    """Axes of rows and columns, or of tokens; none for vectors (B, D)."""
    prefix_tokens: int = 0
    """Class, distillation and register tokens before those of the image."""


def layout_of(
    shape: Sequence[int], *, input_size: tuple[int, int], prefix_tokens: int, is_nhwc: bool = False
) -> Layout:
    """Read the layout of a layer's output from its shape.

    Vectors are (B, C) and tokens (B, N, C). Maps are (B, C, H, W) or (B, H, W, C): those two axes
    are rows and columns whose ratio is nearer to that of the input.

    Args:
        shape: Of the output, the batch axis included.
        input_size: Height and width of the network's input in pixels.
        prefix_tokens: How many the network says it puts before those of the image. They count
            where what remains fits a grid of the input's shape, or where all tokens do not.
        is_nhwc: What to assume of maps (B, n, n, n).

    Raises:
        ModelError: If it is none of these.
    """
    match len(shape):
        case 2:
            return Layout(channel_axis=1, positions=())
        case 3:
            count = shape[1]
            has_prefix = prefix_tokens < count and (
                _is_grid(count - prefix_tokens, input_size) or not _is_grid(count, input_size)
            )
            prefix = prefix_tokens if has_prefix else 0
            return Layout(channel_axis=2, positions=(1,), prefix_tokens=prefix)
        case 4:
            first = _distortion(shape[2], shape[3], input_size)
            last = _distortion(shape[1], shape[2], input_size)
            if last < first or (last == first and is_nhwc):
                return Layout(channel_axis=3, positions=(1, 2))
            return Layout(channel_axis=1, positions=(2, 3))
    raise ModelError(
        f"A layer's output of shape {tuple(shape)} is neither a map, nor tokens, nor vectors. "
        "Choose another --layer."
    )


def pooled(tensor: Tensor, *, layout: Layout, pool: str) -> Tensor:
    """Return a new tensor with one vector per image, (B, C); with `none` a copy as it is.

    Vectors stay as they are under `avg` and `max`.

    Args:
        tensor: A layer's output.
        layout: Of that tensor.
        pool: `avg` or `max` over the image's positions, `cls` for the first token, or `none`.
    """
    if pool == NONE or not layout.positions:
        return tensor.clone()
    if pool == CLS:
        return tensor[:, 0].clone()
    image = tensor[:, layout.prefix_tokens :] if layout.prefix_tokens else tensor
    return image.mean(layout.positions) if pool == AVG else image.amax(layout.positions)


def check_pool(pool: str | None, *, has_layers: bool) -> None:
    """Check a way of pooling; None means the default.

    Raises:
        ConfigError: If it is none of `POOLS`, or there is no layer that it could work on.
    """
    if pool is not None and pool not in POOLS:
        raise ConfigError(f"--pool '{pool}' is not known. Use {', '.join(POOLS)}.")
    if pool is not None and not has_layers:
        raise ConfigError(
            f"--pool {pool} works on --layer: the penultimate embedding is pooled by the model "
            "itself."
        )


def pooled_shape(shape: Sequence[int], *, layout: Layout, pool: str) -> tuple[int, ...]:
    """Return the shape of `pooled` without the batch axis."""
    result = pooled(torch.empty(tuple(shape), device="meta"), layout=layout, pool=pool)
    return tuple(result.shape[1:])


def _distortion(rows: int, columns: int, input_size: tuple[int, int]) -> float:
    """Return by what factor (as a logarithm) a grid is wider or narrower than the input."""
    height, width = input_size
    return abs(math.log(rows / columns) - math.log(height / width))


def _is_grid(count: int, input_size: tuple[int, int]) -> bool:
    """Say whether so many tokens can be a grid with the input's ratio of height to width."""
    ratio = input_size[0] / input_size[1]
    return any(
        count % rows == 0 and abs(rows - count // rows * ratio) < 1 for rows in range(1, count + 1)
    )
