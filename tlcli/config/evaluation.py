"""Options of `evaluate`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tlcli.config.checks import require, require_seed
from tlcli.config.flat import from_options
from tlcli.config.parts import ModelConfig, OnBadBox, OnBadImage, RuntimeConfig, require_channels
from tlcli.errors import ConfigError

Split = Literal["train", "val", "test", "all"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """All options of `tlcli evaluate`."""

    run: str | None = None
    model: str | None = None
    weights: str | None = None
    offline: bool = False
    mean: str | None = None
    std: str | None = None
    input_size: int | None = None
    in_channels: int | None = None
    data: str | None = None
    split: Split | None = None
    limit: int | None = None
    on_bad_image: OnBadImage = "fail"
    on_bad_box: OnBadBox = "fix"
    classes: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    label_separator: str | None = None
    split_column: str | None = None
    batch_size: int | None = None
    seed: int | None = None
    output: str | None = None
    overwrite: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        size = self.batch_size
        require(size is None or size >= 1, "--batch-size", size, "1 or more")
        limit = self.limit
        require(limit is None or limit >= 0, "--limit", limit, "0 (all images) or more")
        require_seed(self.seed or 0)
        if self.in_channels is not None:
            require_channels(self.in_channels)
        if (self.run is None) == (self.model is None):
            raise ConfigError(
                "evaluate needs either a run folder or --model NAME (a pretrained model as it is)."
            )
        if self.run is None and self.label_separator is not None:
            raise ConfigError(
                f"--label-separator '{self.label_separator}' has no effect on --model: published "
                "classifiers give every image one class."
            )
        if self.run is not None:
            self._refuse_what_a_run_ignores()

    @property
    def pretrained(self) -> ModelConfig:
        """The model that is evaluated as it is."""
        assert self.model is not None
        return ModelConfig(
            model=self.model,
            weights=self.weights or ModelConfig.weights,
            offline=self.offline,
            mean=self.mean,
            std=self.std,
            input_size=self.input_size,
            in_channels=ModelConfig.in_channels if self.in_channels is None else self.in_channels,
        )

    @property
    def image_options(self) -> dict[str, object]:
        """What says which images with one class each, by flag; None where it was not given."""
        return {
            "--classes": self.classes,
            "--path-column": self.path_column,
            "--label-column": self.label_column,
            "--label-separator": self.label_separator,
            "--split-column": self.split_column,
        }

    @property
    def _is_fetched(self) -> bool:
        """Whether the data may have to be downloaded."""
        return (self.data or "").startswith(("torchvision:", "hf:"))

    def _refuse_what_a_run_ignores(self) -> None:
        given: dict[str, object] = {
            "--weights": self.weights,
            "--output": self.output,
            "--offline": (self.offline and not self._is_fetched) or None,
            "--mean": self.mean,
            "--std": self.std,
            "--input-size": self.input_size,
            "--in-channels": self.in_channels,
            "--overwrite": self.overwrite or None,
        }
        if self.data is None:
            given["--on-bad-image"] = self.on_bad_image if self.on_bad_image != "fail" else None
            given["--on-bad-box"] = self.on_bad_box if self.on_bad_box != "fix" else None
            given["--limit"] = self.limit
            given |= self.image_options
        for option, value in given.items():
            if value is not None:
                raise ConfigError(f"{option} has no effect on a run folder and its data: leave it.")

    @classmethod
    def from_options(cls, values: Mapping[str, Any]) -> "EvaluateConfig":
        """Build from a flat mapping of option names; see `options_of`."""
        return from_options(cls, values)
