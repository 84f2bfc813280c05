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
    sampled_boxes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        size, boxes = self.image_size, self.sampled_boxes
        require(size is None or size >= 32, "--image-size", size, "32 pixels or more")
        require(boxes is None or boxes >= 1, "--sampled-boxes", boxes, "1 or more")


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
