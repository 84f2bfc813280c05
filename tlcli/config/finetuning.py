"""Options of `finetune`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlcli.config.flat import from_options
from tlcli.config.parts import (
    LabelledDataConfig,
    ModelConfig,
    OutputConfig,
    RuntimeConfig,
    UnfreezeConfig,
)
from tlcli.config.training import Loss, TrainConfig, TrainMonitor
from tlcli.config.trunk import TrunkConfig
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

    data: LabelledDataConfig = field(default_factory=LabelledDataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    freezing: FreezingConfig = field(default_factory=FreezingConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    @property
    def loss(self) -> Loss:
        """What is trained on, also where it was not given."""
        return self.train.loss or ("bce" if self.data.multi_label else "cross-entropy")

    @property
    def monitor(self) -> TrainMonitor:
        """What picks the best epoch, also where it was not given."""
        return self.train.monitor or ("map" if self.data.multi_label else "top1")

    def __post_init__(self) -> None:
        trunk = self.trunk
        for option, value in (("--views", trunk.views), ("--view-seed", trunk.view_seed)):
            if value and not self.train.has_random_views:
                raise ConfigError(
                    f"{option} {value} has no effect with --augment none: all views of a picture "
                    f"are the same. Leave {option} out, or choose another --augment."
                )
        if self.data.multi_label:
            self._refuse_what_is_of_one_class()
        elif self.loss == "bce":
            raise ConfigError(
                "--loss bce lets an image have several classes: it needs --multi-label."
            )
        elif self.monitor in ("map", "micro_f1"):
            raise ConfigError(f"--monitor {self.monitor} is measured with --multi-label only.")

    def _refuse_what_is_of_one_class(self) -> None:
        """Refuse options that take it that every image has one class."""
        if self.loss == "cross-entropy":
            raise ConfigError(
                "--loss cross-entropy lets classes exclude each other, --multi-label does not: "
                "use bce, which is what it takes without --loss, or focal."
            )
        if self.monitor in ("top1", "top5"):
            raise ConfigError(
                f"--monitor {self.monitor} is of images with one class each; with --multi-label "
                "there are map, micro_f1, macro_f1 and loss."
            )
        if self.train.sampler == "balanced":
            raise ConfigError(
                "--sampler balanced draws images by their one class, which --multi-label images "
                "do not have: use --class-weights balanced."
            )
        if self.freezing.init_head is not None:
            raise ConfigError(
                f"--init-head {self.freezing.init_head} brings a head that was solved for one "
                "class per image, which is no start for --multi-label: leave it out."
            )

    @classmethod
    def from_options(cls, values: Mapping[str, Any]) -> "FinetuneConfig":
        """Build from a flat mapping of option names; see `options_of`."""
        return from_options(cls, values)
