"""How the weights are moved."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from tlcli.config.checks import require
from tlcli.errors import ConfigError

Augment = Literal["none", "flip", "light", "medium"]
Monitor = Literal["top1", "top5", "macro_f1", "loss"]
BoxMonitor = Literal["map", "map50", "map75", "mar_100"]
Optimizer = Literal["adamw", "sgd"]
LrSchedule = Literal["cosine", "linear", "step", "constant"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights are moved, in every task."""

    DEFAULT_LR: ClassVar[Mapping[str, float]] = {"adamw": 1e-3, "sgd": 1e-2}
    """Of the head, by optimizer, where --lr is not given."""
    BACKBONE_LR_SHARE: ClassVar[float] = 0.1
    """Of --lr, for the backbone, where --backbone-lr is not given."""

    epochs: int = 10
    batch_size: int = 32
    lr: float | None = None
    backbone_lr: float | None = None
    layer_decay: float = 1.0
    opt: Optimizer = "adamw"
    lr_schedule: LrSchedule = "cosine"
    warmup_epochs: float = 0.5
    weight_decay: float | None = None
    augment: Augment = "light"
    ema: float = 0.0
    clip_grad: float = 0.0
    grad_accum_steps: int = 1
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            is_finite = not isinstance(value, float) or math.isfinite(value)
            require(is_finite, f"--{name.replace('_', '-')}", value, "a finite number")
        require(self.epochs >= 1, "--epochs", self.epochs, "1 or more")
        require(self.batch_size >= 1, "--batch-size", self.batch_size, "1 or more")
        for option, rate in (("--lr", self.lr), ("--backbone-lr", self.backbone_lr)):
            require(rate is None or rate > 0, option, rate, "above 0")
        require(0 < self.layer_decay <= 1, "--layer-decay", self.layer_decay, "above 0, at most 1")
        decay = self.weight_decay
        require(decay is None or decay >= 0, "--weight-decay", decay, "0 or more")
        require(0 <= self.ema < 1, "--ema", self.ema, "0 (off) or a decay below 1, such as 0.999")
        require(self.clip_grad >= 0, "--clip-grad", self.clip_grad, "0 (off) or more")
        require(self.grad_accum_steps >= 1, "--grad-accum-steps", self.grad_accum_steps, ">= 1")
        require(self.patience >= 0, "--patience", self.patience, "0 (never stops) or more")
        require(self.seed >= 0, "--seed", self.seed, "0 or more")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ConfigError(
                f"--warmup-epochs ({self.warmup_epochs:g}) must be at least 0 and less than "
                f"--epochs ({self.epochs})."
            )

    @property
    def head_lr(self) -> float:
        """Peak learning rate of the head."""
        return self.lr or self.DEFAULT_LR[self.opt]

    @property
    def last_stage_lr(self) -> float:
        """Peak learning rate of the stage before the head."""
        return self.backbone_lr or self.head_lr * self.BACKBONE_LR_SHARE

    @property
    def matrix_decay(self) -> float:
        """Weight decay of weight matrices; in SGD it acts on the gradient and is far smaller."""
        if self.weight_decay is not None:
            return self.weight_decay
        return {"adamw": 0.05, "sgd": 1e-4}[self.opt]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(OptimConfig):
    """How a classifier is trained."""

    label_smoothing: float = 0.0
    monitor: Monitor = "top1"

    def __post_init__(self) -> None:
        super().__post_init__()
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, "--label-smoothing", smoothing, "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class BoxTrainConfig(OptimConfig):
    """How a detector is trained."""

    DEFAULT_LR: ClassVar[Mapping[str, float]] = {"adamw": 5e-4, "sgd": 5e-3}
    BACKBONE_LR_SHARE: ClassVar[float] = 0.2

    epochs: int = 12
    batch_size: int = 4
    clip_grad: float = 10.0
    monitor: BoxMonitor = "map"
