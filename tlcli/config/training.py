"""How the weights are moved."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from tlcli.config.checks import require, require_seed, seconds_of
from tlcli.errors import ConfigError

Augment = Literal["none", "flip", "light", "medium", "strong", "randaugment", "trivialaugment"]
BoxAugment = Literal["none", "flip", "light", "medium"]
ClassWeights = Literal["none", "balanced"]
Loss = Literal["cross-entropy", "focal", "bce"]
Sampler = Literal["shuffle", "balanced"]
Monitor = Literal["top1", "top5", "macro_f1", "loss"]
TrainMonitor = Literal["top1", "top5", "map", "micro_f1", "macro_f1", "loss"]
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
    lr: float | Literal["auto"] | None = None
    backbone_lr: float | None = None
    layer_decay: float = 1.0
    opt: Optimizer = "adamw"
    lr_schedule: LrSchedule = "cosine"
    warmup_epochs: float = 0.5
    weight_decay: float | None = None
    ema: float = 0.0
    clip_grad: float = 0.0
    grad_accum_steps: int = 1
    patience: int = 0
    max_time: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            is_finite = not isinstance(value, float) or math.isfinite(value)
            require(is_finite, f"--{name.replace('_', '-')}", value, "a finite number")
        require(self.epochs >= 1, "--epochs", self.epochs, "1 or more")
        require(self.batch_size >= 1, "--batch-size", self.batch_size, "1 or more")
        lr = None if self.lr == "auto" else self.lr
        for option, rate in (("--lr", lr), ("--backbone-lr", self.backbone_lr)):
            require(rate is None or rate > 0, option, rate, "above 0")
        require(0 < self.layer_decay <= 1, "--layer-decay", self.layer_decay, "above 0, at most 1")
        decay = self.weight_decay
        require(decay is None or decay >= 0, "--weight-decay", decay, "0 or more")
        require(0 <= self.ema < 1, "--ema", self.ema, "0 (off) or a decay below 1, such as 0.999")
        require(self.clip_grad >= 0, "--clip-grad", self.clip_grad, "0 (off) or more")
        require(self.grad_accum_steps >= 1, "--grad-accum-steps", self.grad_accum_steps, ">= 1")
        require(self.patience >= 0, "--patience", self.patience, "0 (never stops) or more")
        require_seed(self.seed)
        _ = self.max_seconds  # refused now rather than when it is used
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ConfigError(
                f"--warmup-epochs ({self.warmup_epochs:g}) must be at least 0 and less than "
                f"--epochs ({self.epochs})."
            )

    @property
    def head_lr(self) -> float:
        """Peak learning rate of the head; the default where it is still to be found."""
        return self.DEFAULT_LR[self.opt] if self.lr in (None, "auto") else float(self.lr)

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

    @property
    def max_seconds(self) -> float | None:
        """Budget of the training in seconds; None is none."""
        return None if self.max_time is None else seconds_of(self.max_time, option="--max-time")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(OptimConfig):
    """How a classifier is trained."""

    augment: Augment = "light"
    crop_scale: float | None = None
    color_jitter: float | None = None
    random_erasing: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float | None = None
    head_dropout: float | None = None
    class_weights: ClassWeights = "none"
    sampler: Sampler = "shuffle"
    loss: Loss | None = None
    focal_gamma: float = 2.0
    label_smoothing: float = 0.0
    monitor: TrainMonitor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_pixels()
        for option, share in (
            ("--label-smoothing", self.label_smoothing),
            ("--drop-path", self.drop_path or 0.0),
            ("--head-dropout", self.head_dropout or 0.0),
        ):
            require(0 <= share < 1, option, share, "in [0, 1)")
        self._check_loss()
        if self.class_weights == "balanced" and self.sampler == "balanced":
            raise ConfigError(
                "--class-weights balanced and --sampler balanced would both make up for rare "
                "classes: use one of them."
            )

    @property
    def has_random_views(self) -> bool:
        """Whether two views of a picture differ at all."""
        own = (self.crop_scale, self.color_jitter, self.random_erasing)
        return self.augment != "none" or any(value is not None for value in own)

    def _check_pixels(self) -> None:
        crop, jitter, erasing = self.crop_scale, self.color_jitter, self.random_erasing
        require(crop is None or 0 < crop <= 1, "--crop-scale", crop, "above 0, at most 1")
        require(jitter is None or 0 <= jitter <= 1, "--color-jitter", jitter, "in 0..1")
        require(erasing is None or 0 <= erasing <= 1, "--random-erasing", erasing, "in 0..1")
        for option, alpha in (("--mixup", self.mixup), ("--cutmix", self.cutmix)):
            require(alpha >= 0, option, alpha, "0 (off) or more")
            if alpha and self.batch_size == 1:
                raise ConfigError(f"{option} mixes images of a batch: it needs --batch-size 2.")

    def _check_loss(self) -> None:
        require(self.focal_gamma >= 0, "--focal-gamma", self.focal_gamma, "0 or more")
        if self.loss != "focal" and self.focal_gamma != TrainConfig.focal_gamma:
            raise ConfigError(
                f"--focal-gamma {self.focal_gamma:g} has no effect without --loss focal."
            )
        if self.loss == "focal" and self.label_smoothing:
            raise ConfigError(
                f"--label-smoothing {self.label_smoothing:g} and --loss focal exclude each other: "
                "one asks for less certain answers, the other looks away from certain ones."
            )


@dataclass(frozen=True, kw_only=True)
class BoxTrainConfig(OptimConfig):
    """How a detector is trained."""

    DEFAULT_LR: ClassVar[Mapping[str, float]] = {"adamw": 5e-4, "sgd": 5e-3}
    BACKBONE_LR_SHARE: ClassVar[float] = 0.2

    epochs: int = 12
    batch_size: int = 4
    lr: float | None = None
    augment: BoxAugment = "light"
    clip_grad: float = 10.0
    monitor: BoxMonitor = "map"
