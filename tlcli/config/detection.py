"""Options of `detect-finetune`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlcli.config.checks import require
from tlcli.config.flat import from_options
from tlcli.config.parts import (
    DataConfig,
    OnBadBox,
    OutputConfig,
    RuntimeConfig,
    UnfreezeConfig,
    WeightsConfig,
)
from tlcli.config.training import BoxTrainConfig
from tlcli.errors import ConfigError

_STRIDES = (2, 4, 8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class BoxDataConfig(DataConfig):
    """Which images with boxes."""

    on_bad_box: OnBadBox = "fix"


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(WeightsConfig):
    """Which detector, on which backbone, from which weights."""

    model: str = "fasterrcnn"
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
        for option, value, least in (
            ("--image-size", self.image_size, 32),
            ("--fpn-channels", self.fpn_channels, 1),
            ("--anchor-size", self.anchor_size, 1),
            ("--sampled-boxes", self.sampled_boxes, 1),
        ):
            require(value is None or value >= least, option, value, f"{least} or more")
        _ = self.stride_values  # refused now rather than when they are used


@dataclass(frozen=True, kw_only=True)
class DetectFinetuneConfig:
    """All options of `tlcli detect-finetune`."""

    data: BoxDataConfig = field(default_factory=BoxDataConfig)
    model: DetectorConfig = field(default_factory=DetectorConfig)
    freezing: UnfreezeConfig = field(default_factory=UnfreezeConfig)
    train: BoxTrainConfig = field(default_factory=BoxTrainConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    @classmethod
    def from_options(cls, values: Mapping[str, Any]) -> "DetectFinetuneConfig":
        """Build from a flat mapping of option names; see `options_of`."""
        return from_options(cls, values)
