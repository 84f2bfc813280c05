"""Options of `detect-finetune`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlcli.config.checks import require
from tlcli.config.flat import from_options
from tlcli.config.parts import (
    MAX_INPUT_SIZE,
    ImagesConfig,
    OnBadBox,
    OutputConfig,
    RuntimeConfig,
    UnfreezeConfig,
    WeightsConfig,
)
from tlcli.config.training import BoxTrainConfig
from tlcli.config.trunk import ImageCacheConfig
from tlcli.errors import ConfigError

_STRIDES = (2, 4, 8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class BoxDataConfig(ImagesConfig):
    """Which images with boxes."""

    on_bad_box: OnBadBox = "fix"


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(WeightsConfig):
    """Which detector, on which backbone, from which weights."""

    model: str | None = None
    """None is that of `weights` if they are a run, else Faster R-CNN."""
    backbone: str | None = None
    image_size: int | None = None
    strides: str | None = None
    fpn_channels: int | None = None
    anchor_size: float | None = None
    sampled_boxes: int | None = None

    @property
    def stride_values(self) -> tuple[int, ...] | None:
        """Pixels per cell of each map of the pyramid; None leaves them open.

        Raises:
            ConfigError: If they are no growing powers of two.
        """
        if self.strides is None:
            return None
        parts = self.strides.split(",")
        values = tuple(int(part) for part in parts if part.strip().isdecimal())
        allowed = [value for value in _STRIDES if value in values]
        if len(values) != len(parts) or list(values) != allowed:
            raise ConfigError(
                f"--strides '{self.strides}' is not understood: write some of 2, 4, 8, 16 and 32 "
                "in growing order with commas, such as 4,8,16,32."
            )
        return values

    def __post_init__(self) -> None:
        super().__post_init__()
        size, most = self.image_size, MAX_INPUT_SIZE
        is_fine = size is None or 32 <= size <= most
        require(is_fine, "--image-size", size, f"in 32..{most} (pixels)")
        for option, value in (
            ("--fpn-channels", self.fpn_channels),
            ("--anchor-size", self.anchor_size),
            ("--sampled-boxes", self.sampled_boxes),
        ):
            require(value is None or value >= 1, option, value, "1 or more")
        _ = self.stride_values  # refused now rather than when they are used


@dataclass(frozen=True, kw_only=True)
class DetectFinetuneConfig:
    """All options of `tlcli detect-finetune`."""

    data: BoxDataConfig = field(default_factory=BoxDataConfig)
    model: DetectorConfig = field(default_factory=DetectorConfig)
    freezing: UnfreezeConfig = field(default_factory=UnfreezeConfig)
    train: BoxTrainConfig = field(default_factory=BoxTrainConfig)
    cache: ImageCacheConfig = field(default_factory=ImageCacheConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    @classmethod
    def from_options(cls, values: Mapping[str, Any]) -> "DetectFinetuneConfig":
        """Build from a flat mapping of option names; see `options_of`."""
        return from_options(cls, values)
