"""What is done about the part of a network that no training changes."""

from dataclasses import dataclass
from typing import Literal

from tlcli.config.checks import bytes_of, require, require_seed
from tlcli.errors import ConfigError

TrunkCache = Literal["auto", "off", "ram", "disk"]
ImageCache = Literal["off", "ram", "disk"]
CacheDtype = Literal["auto", "float16", "bfloat16", "float32"]


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Whether decoded images are kept, and room for all that is kept."""

    image_cache: ImageCache = "off"
    cache_limit: str = "20GB"

    def __post_init__(self) -> None:
        _ = self.limit_bytes  # refused now rather than when it is used

    @property
    def limit_bytes(self) -> int:
        """Most bytes that the cache of all runs may take.

        Raises:
            ConfigError: If it is no size.
        """
        return bytes_of(self.cache_limit, option="--cache-limit")


@dataclass(frozen=True, kw_only=True)
class ImageCacheConfig(CacheConfig):
    """What is kept where no part of a network is kept apart."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_cache == "off" and self.cache_limit != CacheConfig.cache_limit:
            raise ConfigError(
                f"--cache-limit {self.cache_limit} has no effect with --image-cache off, which "
                "keeps nothing: leave it out, or give --image-cache disk."
            )


@dataclass(frozen=True, kw_only=True)
class TrunkConfig(CacheConfig):
    """What is kept of the images: what the frozen part makes of them, or their pixels."""

    trunk_cache: TrunkCache = "auto"
    cache_dtype: CacheDtype = "auto"
    views: int | None = None
    view_seed: int = 0
    fold_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.views is None or self.views >= 0, "--views", self.views, "0 or more")
        require_seed(self.view_seed, option="--view-seed")
        asked = {"--trunk-cache": self.trunk_cache, "--image-cache": self.image_cache}
        for option, tier in asked.items():
            if self.views == 0 and tier in ("ram", "disk"):
                raise ConfigError(
                    f"--views 0 shows every image anew in each epoch, so that {option} {tier} "
                    f"would be used for val and test only: give --views 1 or more, or {option} off."
                )
        keeps_pixels = self.image_cache != "off"
        for option, value, default, has_effect in (
            ("--cache-dtype", self.cache_dtype, TrunkConfig.cache_dtype, False),
            ("--cache-limit", self.cache_limit, TrunkConfig.cache_limit, keeps_pixels),
        ):
            if self.trunk_cache == "off" and value != default and not has_effect:
                raise ConfigError(
                    f"{option} {value} has no effect with --trunk-cache off, which keeps "
                    "nothing: leave one of them out."
                )
