"""From a picture to the pixels a backbone was trained to see, as the two libraries do it.

Everything works on Pillow images: resizing tensors gives other values (TRAPS 31).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from tlcli.data.preprocessing import Preprocessing
from tlcli.errors import ConfigError


@dataclass(frozen=True)
class EvalTransform:
    """The fixed view of a picture: resize, crop, no normalisation; see `eval_transform`."""

    preprocessing: Preprocessing

    def __call__(self, image: Image.Image) -> Tensor:
        """Return uint8 (C, H, W) of an image with the channels of the preprocessing."""
        return to_pixels(crop_to_input(image, self.preprocessing))


def eval_transform(preprocessing: Preprocessing) -> EvalTransform:
    """Return the transform of evaluation: image -> uint8 tensor (C, H, W).

    Followed by `normalize` it equals, bit for bit, torchvision's `weights.transforms()` and timm's
    `create_transform(**resolve_data_config(...), is_training=False)`.

    Raises:
        ConfigError: an interpolation or crop mode that is not known.
    """
    pillow_filter(preprocessing.interpolation)
    if preprocessing.crop_mode not in ("center", "squash", "border"):
        raise ConfigError(
            f"Unknown crop mode '{preprocessing.crop_mode}'; use center, squash or border."
        )
    return EvalTransform(preprocessing)


def pillow_filter(name: str) -> InterpolationMode:
    """Return torchvision's name of a Pillow filter.

    Raises:
        ConfigError: no filter has this name.
    """
    known = {mode.value: mode for mode in InterpolationMode if mode.value != "nearest-exact"}
    if name not in known:
        raise ConfigError(f"Unknown interpolation '{name}'; use {', '.join(known)}.")
    return known[name]


def crop_to_input(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize and crop an image to `preprocessing.input_size` as its crop mode says."""
    size = list(preprocessing.resize_size)
    mode = pillow_filter(preprocessing.interpolation)
    if preprocessing.crop_mode == "squash":
        resized = F.resize(image, size, mode)
    elif preprocessing.crop_mode == "center" and size[0] == size[1]:
        resized = F.resize(image, size[:1], mode)
    else:
        whole = preprocessing.crop_mode == "border"
        resized = F.resize(image, _fitted_size(image, size, whole=whole), mode)
    if preprocessing.crop_mode == "border":
        return _center_crop_or_pad(resized, preprocessing)
    cropped: Image.Image = F.center_crop(resized, list(preprocessing.input_size))
    return cropped


def to_pixels(image: Image.Image) -> Tensor:
    """Return an image as uint8 (C, H, W)."""
    pixels: Tensor = F.pil_to_tensor(image)
    return pixels


def normalize(images: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return float32 `(images / 255 - mean) / std` on the device of `images`.

    Equals torchvision's ToTensor and Normalize bit for bit.

    Args:
        images: uint8 (B, C, H, W).
        mean: Per channel, for values in 0..1.
        std: Per channel, for values in 0..1.
    """
    # torchvision's own normalize asks `(std == 0).any()`, for which the device must be waited for
    values = images.to(torch.float32)
    is_last = not values.is_contiguous()
    size = (values.shape[2], values.shape[3]) if is_last else (1, 1)
    divisor, means, stds = _constants(tuple(mean), tuple(std), size=size, device=images.device)
    return values.div_(divisor).sub_(means).div_(stds)


@functools.lru_cache(maxsize=8)
def _constants(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    size: tuple[int, int],
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return 255, mean and std on a device, copied there once and not for every batch.

    The divisor too is a tensor: CUDA would multiply by the reciprocal of a Python number. For
    images in channels-last format mean and std are spelt out for every pixel: the CPU would take
    them three values at a time.
    """
    with torch.inference_mode(False):
        means, stds = (
            torch.tensor(values, device=device).expand(*size, len(values)).contiguous()
            for values in (mean, std)
        )
        return torch.tensor(255.0, device=device), means.permute(2, 0, 1), stds.permute(2, 0, 1)


def _fitted_size(image: Image.Image, size: list[int], *, whole: bool) -> list[int]:
    """Return (height, width) that keep the ratio and just fit into `size`, or just cover it.

    As in timm's ResizeKeepRatio, rounding included.
    """
    ratios = image.height / size[0], image.width / size[1]
    ratio = max(ratios) if whole else min(ratios)
    return [round(image.height / ratio), round(image.width / ratio)]


def _center_crop_or_pad(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Cut the middle, with the mean colour around what is too small (timm's CenterCropOrPad)."""
    height, width = preprocessing.input_size
    missing_h, missing_w = max(height - image.height, 0), max(width - image.width, 0)
    sides = [missing_w // 2, missing_h // 2, (missing_w + 1) // 2, (missing_h + 1) // 2]
    padded = F.pad(image, sides, fill=tuple(round(255 * value) for value in preprocessing.mean))
    top = round((padded.height - height) / 2.0)
    left = round((padded.width - width) / 2.0)
    cropped: Image.Image = F.crop(padded, top, left, height, width)
    return cropped
