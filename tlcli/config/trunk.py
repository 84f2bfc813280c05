"""What is done about the part of a network that no training changes."""

from dataclasses import dataclass
from typing import Literal

from tlcli.config.checks import bytes_of, require
from tlcli.errors import ConfigError

TrunkCache = Literal["auto", "off", "ram", "disk"]
CacheDtype = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """Whether what the frozen part makes of the images is kept, how, and of how many views."""

    trunk_cache: TrunkCache = "auto"
    cache_limit: str = "20GB"
    cache_dtype: CacheDtype = "float16"
    views: int | None = None
    fold_norm: bool = True

    def __post_init__(self) -> None:
        _ = self.limit_bytes  # refused now rather than when it is used
        require(self.views is None or self.views >= 0, "--views", self.views, "0 or more")
        if self.views == 0 and self.trunk_cache in ("ram", "disk"):
            raise ConfigError(
                f"--views 0 shows every image anew in each epoch, so that --trunk-cache "
                f"{self.trunk_cache} would be used for val and test only: give --views 1 or more, "
                "or --trunk-cache auto."
            )

        if self.trunk_cache == "off":
            for option, value, default in (
                ("--cache-dtype", self.cache_dtype, TrunkConfig.cache_dtype),
                ("--cache-limit", self.cache_limit, TrunkConfig.cache_limit),
            ):
                if value != default:
                    raise ConfigError(
                        f"{option} {value} has no effect with --trunk-cache off, which keeps "
                        "nothing: leave one of them out."
                    )

    @property
    def limit_bytes(self) -> int:
        """Most bytes that the cache of all runs may take.

        Raises:
            ConfigError: If it is no size.
        """
        return bytes_of(self.cache_limit, option="--cache-limit")
