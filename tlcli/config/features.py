"""Options of `extract-features` and `probe`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tlcli.config.checks import require, require_seed
from tlcli.config.flat import from_options
from tlcli.config.parts import DataConfig, ModelConfig, RuntimeConfig
from tlcli.config.training import Augment, Monitor
from tlcli.errors import ConfigError

Pool = Literal["avg", "cls", "max", "none"]
FeatureDtype = Literal["float16", "bfloat16", "float32"]
HeadKind = Literal["linear", "ridge", "knn"]


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Which features of a network, and how they are kept."""

    layer: str | None = None
    pool: Pool | None = None
    dtype: FeatureDtype = "float16"
    views: int = 0
    augment: Augment = "light"
    batch_size: int | None = None
    fold_norm: bool = True
    verify: float = 0.0
    shard: str | None = None

    def __post_init__(self) -> None:
        require(self.views >= 0, "--views", self.views, "0 (the plain view only) or more")
        size = self.batch_size
        require(size is None or size >= 1, "--batch-size", size, "1 or more")
        require(0 <= self.verify <= 1, "--verify", self.verify, "a share in 0..1")
        if self.pool is not None and self.layer is None:
            raise ConfigError(
                f"--pool {self.pool} works on --layer: the penultimate embedding is pooled by the "
                "model itself."
            )
        if self.views and self.augment == "none":
            raise ConfigError("--views needs --augment flip, light or more: all views are equal.")
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
        require(self.repeats >= 1, "--repeats", self.repeats, "1 or more")
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
        require_seed(self.seed)
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
        return from_options(cls, values)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """All options of `tlcli probe`."""

    store: str
    probe: ProbeHeadConfig = field(default_factory=ProbeHeadConfig)
    seed: int = 0
    output: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_seed(self.seed)

    @classmethod
    def from_options(cls, values: Mapping[str, Any]) -> "ProbeConfig":
        """Build from a flat mapping of option names; see `options_of`."""
        return from_options(cls, values)
