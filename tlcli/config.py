"""What a user can ask for, with defaults and range checks. Field names are the names of options.

The defaults here are the only ones: the command line shows them and never repeats them.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from tlcli.errors import ConfigError

Augment = Literal["none", "flip", "light", "medium"]
Monitor = Literal["top1", "top5", "macro_f1", "loss"]
OnBadImage = Literal["fail", "skip"]
Optimizer = Literal["adamw", "sgd"]
LrSchedule = Literal["cosine", "linear", "step", "constant"]
AmpDtype = Literal["auto", "bfloat16", "float16"]
Split = Literal["train", "val", "test", "all"]
Pool = Literal["avg", "cls", "max", "none"]
FeatureDtype = Literal["float16", "bfloat16", "float32"]
HeadKind = Literal["linear", "ridge", "knn"]

MAX_SPLIT = 0.9
"""Largest part of the images that may be held out."""
BACKBONE_LR_SHARE = 0.1
"""Of --lr, for the backbone, where --backbone-lr is not given."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images."""

    data: str = "sample:digits"
    val_split: float = 0.2
    test_split: float = 0.0
    limit: int = 0
    on_bad_image: OnBadImage = "fail"

    def __post_init__(self) -> None:
        for option, part in (("--val-split", self.val_split), ("--test-split", self.test_split)):
            _require(0 <= part <= MAX_SPLIT, option, part, f"in 0..{MAX_SPLIT}")
        _require(self.limit >= 0, "--limit", self.limit, "0 (all images) or more")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, from which weights."""

    model: str = "resnet50"
    weights: str = "default"
    offline: bool = False


@dataclass(frozen=True, kw_only=True)
class FreezingConfig:
    """What is trained, and from when on."""

    unfreeze: str | None = None
    schedule: str | None = None
    head: str = "linear"
    init_head: str | None = None
    freeze_norm: bool = False

    def __post_init__(self) -> None:
        if self.unfreeze is not None and self.schedule is not None:
            raise ConfigError(
                f"--unfreeze '{self.unfreeze}' and --schedule '{self.schedule}' exclude each "
                "other: write the stages trained from the start as '0:…' in --schedule."
            )
        if self.init_head is not None and self.head != "linear":
            raise ConfigError(
                f"--init-head brings a linear head, --head {self.head} asks for another."
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the weights are moved."""

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
    label_smoothing: float = 0.0
    ema: float = 0.0
    clip_grad: float = 0.0
    grad_accum_steps: int = 1
    patience: int = 0
    monitor: Monitor = "top1"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            is_finite = not isinstance(value, float) or math.isfinite(value)
            _require(is_finite, f"--{name.replace('_', '-')}", value, "a finite number")
        _require(self.epochs >= 1, "--epochs", self.epochs, "1 or more")
        _require(self.batch_size >= 1, "--batch-size", self.batch_size, "1 or more")
        for option, rate in (("--lr", self.lr), ("--backbone-lr", self.backbone_lr)):
            _require(rate is None or rate > 0, option, rate, "above 0")
        _require(0 < self.layer_decay <= 1, "--layer-decay", self.layer_decay, "above 0, at most 1")
        decay = self.weight_decay
        _require(decay is None or decay >= 0, "--weight-decay", decay, "0 or more")
        _require(
            0 <= self.label_smoothing < 1, "--label-smoothing", self.label_smoothing, "in [0, 1)"
        )
        _require(0 <= self.ema < 1, "--ema", self.ema, "0 (off) or a decay below 1, such as 0.999")
        _require(self.clip_grad >= 0, "--clip-grad", self.clip_grad, "0 (off) or more")
        _require(self.grad_accum_steps >= 1, "--grad-accum-steps", self.grad_accum_steps, ">= 1")
        _require(self.patience >= 0, "--patience", self.patience, "0 (never stops) or more")
        _require(self.seed >= 0, "--seed", self.seed, "0 or more")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ConfigError(
                f"--warmup-epochs ({self.warmup_epochs:g}) must be at least 0 and less than "
                f"--epochs ({self.epochs})."
            )

    @property
    def head_lr(self) -> float:
        """Peak learning rate of the head."""
        return self.lr or {"adamw": 1e-3, "sgd": 1e-2}[self.opt]

    @property
    def last_stage_lr(self) -> float:
        """Peak learning rate of the stage before the head."""
        return self.backbone_lr or self.head_lr * BACKBONE_LR_SHARE

    @property
    def matrix_decay(self) -> float:
        """Weight decay of weight matrices; in SGD it acts on the gradient and is far smaller."""
        if self.weight_decay is not None:
            return self.weight_decay
        return {"adamw": 0.05, "sgd": 1e-4}[self.opt]


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Where and in which precision it runs; none of it changes what is computed on one device."""

    device: str = "auto"
    num_workers: int | None = None
    amp: bool | None = None
    amp_dtype: AmpDtype = "auto"
    channels_last: bool = True

    def __post_init__(self) -> None:
        workers = self.num_workers
        _require(workers is None or workers >= 0, "--num-workers", workers, "0 or more")
        if self.amp is False and self.amp_dtype != "auto":
            raise ConfigError(f"--amp-dtype {self.amp_dtype} has no effect with --no-amp.")


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Where the run goes."""

    output: str | None = None
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if self.overwrite and self.resume:
            raise ConfigError("--overwrite and --resume exclude each other.")
        if self.resume and self.output is None:
            raise ConfigError("--resume needs --output RUN, the folder of the run to go on with.")


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
        return _from_flat(cls, values)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """All options of `tlcli evaluate`."""

    run: str | None = None
    model: str | None = None
    weights: str | None = None
    offline: bool = False
    data: str | None = None
    split: Split | None = None
    limit: int = 0
    on_bad_image: OnBadImage = "fail"
    batch_size: int = 64
    seed: int | None = None
    output: str | None = None
    overwrite: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "--batch-size", self.batch_size, "1 or more")
        _require(self.limit >= 0, "--limit", self.limit, "0 (all images) or more")
        _require(self.seed is None or self.seed >= 0, "--seed", self.seed, "0 or more")
        if (self.run is None) == (self.model is None):
            raise ConfigError(
                "evaluate needs either a run folder or --model NAME (a pretrained model as it is)."
            )
        if self.run is not None:
            self._refuse_what_a_run_ignores()

    def _refuse_what_a_run_ignores(self) -> None:
        given: dict[str, object] = {
            "--weights": self.weights,
            "--output": self.output,
            "--offline": self.offline or None,
            "--overwrite": self.overwrite or None,
        }
        if self.data is None:
            given["--on-bad-image"] = self.on_bad_image if self.on_bad_image != "fail" else None
            given["--limit"] = self.limit or None
        for option, value in given.items():
            if value is not None:
                raise ConfigError(f"{option} has no effect on a run folder and its data: leave it.")

    @classmethod
    def from_options(cls, values: Mapping[str, Any]) -> "EvaluateConfig":
        """Build from a flat mapping of option names; see `options_of`."""
        return _from_flat(cls, values)


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Which features of a network, and how they are kept."""

    layer: str | None = None
    pool: Pool | None = None
    dtype: FeatureDtype = "float16"
    views: int = 0
    augment: Augment = "light"
    batch_size: int | None = None
    fold: bool = True
    verify: float = 0.0
    shard: str | None = None

    def __post_init__(self) -> None:
        _require(self.views >= 0, "--views", self.views, "0 (the plain view only) or more")
        size = self.batch_size
        _require(size is None or size >= 1, "--batch-size", size, "1 or more")
        _require(0 <= self.verify <= 1, "--verify", self.verify, "a share in 0..1")
        if self.pool is not None and self.layer is None:
            raise ConfigError(
                f"--pool {self.pool} works on --layer: the penultimate embedding is pooled by the "
                "model itself."
            )
        if self.views and self.augment == "none":
            raise ConfigError("--views needs --augment flip, light or medium: all views are equal.")
        if not self.views and self.augment != FeaturesConfig.augment:
            raise ConfigError(f"--augment {self.augment} has no effect without --views.")


@dataclass(frozen=True, kw_only=True)
class ProbeHeadConfig:
    """Which heads are solved on features."""

    head: HeadKind = "linear"
    penalties: str | None = None
    shots: str | None = None
    repeats: int = 5
    monitor: Monitor = "top1"

    def __post_init__(self) -> None:
        _require(self.repeats >= 1, "--repeats", self.repeats, "1 or more")
        if self.shots is None and self.repeats != ProbeHeadConfig.repeats:
            raise ConfigError(f"--repeats {self.repeats} has no effect without --shots.")


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """All options of `tlcli extract-features`."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    probe: ProbeHeadConfig = field(default_factory=ProbeHeadConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    no_head: bool = False
    seed: int = 0
    output: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "--seed", self.seed, "0 or more")
        if self.features.pool == "none" and not self.no_head:
            raise ConfigError("--pool none keeps whole maps, a head needs vectors: add --no-head.")
        if self.runtime.num_workers == 0:
            raise ConfigError("--num-workers 0 would read and embed nothing: give 1 or more.")
        if self.overwrite and self.features.shard is not None:
            raise ConfigError("--overwrite with --shard would delete what other jobs computed.")
        if self.features.shard is not None and self.probe != ProbeHeadConfig():
            raise ConfigError(
                "--head, --penalties, --shots and --monitor have no effect with --shard: solve the "
                "head with 'tlcli probe' when all jobs are done."
            )
        if self.no_head and self.probe != ProbeHeadConfig():
            raise ConfigError(
                "--head, --penalties, --shots and --monitor have no effect with --no-head."
            )

    @classmethod
    def from_options(cls, values: Mapping[str, Any]) -> "ExtractConfig":
        """Build from a flat mapping of option names; see `options_of`."""
        return _from_flat(cls, values)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """All options of `tlcli probe`."""

    store: str
    probe: ProbeHeadConfig = field(default_factory=ProbeHeadConfig)
    seed: int = 0
    output: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "--seed", self.seed, "0 or more")

    @classmethod
    def from_options(cls, values: Mapping[str, Any]) -> "ProbeConfig":
        """Build from a flat mapping of option names; see `options_of`."""
        return _from_flat(cls, values)


def options_of(config: "AnyConfig") -> dict[str, Any]:
    """Return every option by its name, the inverse of `from_options`."""
    flat: dict[str, Any] = {}
    for part in dataclasses.fields(config):
        value = getattr(config, part.name)
        is_part = isinstance(part.default_factory, type)
        flat |= dataclasses.asdict(value) if is_part else {part.name: value}
    return flat


AnyConfig = FinetuneConfig | EvaluateConfig | ExtractConfig | ProbeConfig
_C = TypeVar("_C", FinetuneConfig, EvaluateConfig, ExtractConfig, ProbeConfig)


def _from_flat(cls: type[_C], values: Mapping[str, Any]) -> _C:
    """Sort options into the parts of a config; every option must belong to one."""
    left = dict(values)
    parts: dict[str, Any] = {}
    for part in dataclasses.fields(cls):
        if isinstance(part.default_factory, type):
            names = [option.name for option in dataclasses.fields(part.default_factory)]
            chosen = {name: left.pop(name) for name in names if name in left}
            parts[part.name] = part.default_factory(**chosen)
        elif part.name in left:
            parts[part.name] = left.pop(part.name)
    if left:
        raise TypeError(f"no option of {cls.__name__}: {', '.join(sorted(left))}")
    return cls(**parts)


def _require(is_fine: bool, option: str, value: object, wanted: str) -> None:
    if not is_fine:
        raise ConfigError(f"{option} must be {wanted}, not {value}.")
