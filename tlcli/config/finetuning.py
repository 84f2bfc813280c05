"""Options of `finetune`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlcli.config.flat import from_options
from tlcli.config.parts import (
    DataConfig,
    ModelConfig,
    OutputConfig,
    RuntimeConfig,
    UnfreezeConfig,
)
from tlcli.config.training import TrainConfig
from tlcli.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FreezingConfig(UnfreezeConfig):
    """What of a classifier is trained, and what its head is."""

    head: str = "linear"
    init_head: str | None = None
    freeze_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_head is not None and self.head != "linear":
            raise ConfigError(
                f"--init-head brings a linear head, --head {self.head} asks for another."
            )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """All options of `tlcli finetune`."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    freezing: FreezingConfig = field(default_factory=FreezingConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    @classmethod
    def from_options(cls, values: Mapping[str, Any]) -> "FinetuneConfig":
        """Build from a flat mapping of option names; see `options_of`."""
        return from_options(cls, values)
