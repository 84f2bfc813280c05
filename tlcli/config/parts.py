"""Options that several commands share: images, network, what is trained, machine, output."""

from dataclasses import dataclass
from typing import Literal

from tlcli.config.checks import require
from tlcli.errors import ConfigError

OnBadImage = Literal["fail", "skip"]
OnBadBox = Literal["fix", "drop", "fail"]
AmpDtype = Literal["auto", "bfloat16", "float16"]

MAX_SPLIT = 0.9
"""Largest part of the images that may be held out."""
MAX_INPUT_SIZE = 4096
"""Of larger pictures one alone takes gigabytes in the first layers of any network."""
RGB_CHANNELS = 3
IN_CHANNELS = (1, RGB_CHANNELS, 4)
"""What pictures can be read with: gray, RGB, RGB and transparency."""

_IN_WORDS = {3: "three", 4: "four"}
_EXAMPLES = ("0.485", "0.456", "0.406", "0.449")


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """Which images, in every task."""

    data: str = "sample:digits"
    val_split: float = 0.2
    test_split: float = 0.0
    limit: int = 0
    on_bad_image: OnBadImage = "fail"

    def __post_init__(self) -> None:
        for option, part in (("--val-split", self.val_split), ("--test-split", self.test_split)):
            require(0 <= part <= MAX_SPLIT, option, part, f"in 0..{MAX_SPLIT}")
        require(self.limit >= 0, "--limit", self.limit, "0 (all images) or more")


@dataclass(frozen=True, kw_only=True)
class DataConfig(ImagesConfig):
    """Which images, each of one class."""

    fold: str | None = None
    classes: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None

    @property
    def fold_of(self) -> tuple[int, int] | None:
        """Which fold of how many is val, counted from 1; None if there are no folds.

        Raises:
            ConfigError: If `fold` is not of the form 1/5.
        """
        if self.fold is None:
            return None
        number, _, count = self.fold.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)) or (
            int(count) < 2
        ):
            raise ConfigError(
                f"--fold '{self.fold}' is not understood: write 1/5, 2/5 up to 5/5 for each of 5 "
                "folds."
            )
        return int(number), int(count)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fold_of is not None and self.val_split != ImagesConfig.val_split:
            raise ConfigError(
                f"--val-split {self.val_split:g} has no effect with --fold {self.fold}, which "
                "decides how many images are held out."
            )

    @property
    def separator(self) -> str | None:
        """What stands between the labels of an image; None where every image has one class."""
        return None


@dataclass(frozen=True, kw_only=True)
class LabelledDataConfig(DataConfig):
    """Which images, each of one class or of any number of classes."""

    multi_label: bool = False
    label_separator: str = "|"

    def __post_init__(self) -> None:
        super().__post_init__()
        mark = self.label_separator
        if not mark:
            raise ConfigError("--label-separator is empty: write a mark such as '|'.")
        if not self.multi_label and mark != LabelledDataConfig.label_separator:
            raise ConfigError(f"--label-separator '{mark}' has no effect without --multi-label.")

    @property
    def separator(self) -> str | None:
        """What stands between the labels of an image; None where every image has one class."""
        return self.label_separator if self.multi_label else None


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Which weights, and the pixels that they want."""

    weights: str = "default"
    offline: bool = False
    mean: str | None = None
    std: str | None = None

    def __post_init__(self) -> None:
        if any(value == 0 for value in self.stds or ()):
            raise ConfigError(f"--std {self.std} would divide by 0.")

    @property
    def channels(self) -> int:
        """Of the images."""
        return RGB_CHANNELS

    @property
    def means(self) -> tuple[float, ...] | None:
        """Mean of each channel for values in 0..1; None is that of the weights."""
        return channel_values(self.mean, option="--mean", channels=self.channels)

    @property
    def stds(self) -> tuple[float, ...] | None:
        """Standard deviation of each channel for values in 0..1; None is that of the weights."""
        return channel_values(self.std, option="--std", channels=self.channels)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(WeightsConfig):
    """Which network, from which weights."""

    model: str = "resnet50"
    input_size: int | None = None
    in_channels: int = RGB_CHANNELS

    def __post_init__(self) -> None:
        require_channels(self.in_channels)
        super().__post_init__()
        size = self.input_size
        is_fine = size is None or 16 <= size <= MAX_INPUT_SIZE
        require(is_fine, "--input-size", size, f"in 16..{MAX_INPUT_SIZE} (pixels)")

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.in_channels


def require_channels(channels: int) -> None:
    """Refuse a number of channels that pictures cannot be read with.

    Raises:
        ConfigError: If it is none of `IN_CHANNELS`.
    """
    if channels not in IN_CHANNELS:
        raise ConfigError(
            f"--in-channels {channels}: pictures are read with 1 channel (gray), 3 (RGB) or 4 "
            "(RGB and transparency); common image files hold no others."
        )


def channel_values(
    text: str | None, *, option: str, channels: int = RGB_CHANNELS
) -> tuple[float, ...] | None:
    """Read one number for all channels, or one for each with commas.

    Raises:
        ConfigError: If it is something else.
    """
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, channels) or not all(0 <= value <= 1 for value in values):
        example = ",".join(_EXAMPLES[:channels])
        several = f" or {_IN_WORDS[channels]} with commas" if channels > 1 else ""
        such_as = f"such as 0.5 or {example}" if channels > 1 else f"such as {example}"
        raise ConfigError(
            f"{option} '{text}' is not understood: write one number in 0..1{several}, {such_as}."
        )
    return values * channels if len(values) == 1 else values


@dataclass(frozen=True, kw_only=True)
class UnfreezeConfig:
    """Which stages are trained, and from when on."""

    unfreeze: str | None = None
    schedule: str | None = None

    def __post_init__(self) -> None:
        if self.unfreeze is not None and self.schedule is not None:
            raise ConfigError(
                f"--unfreeze '{self.unfreeze}' and --schedule '{self.schedule}' exclude each "
                "other: write the stages trained from the start as '0:…' in --schedule."
            )


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
        require(workers is None or workers >= 0, "--num-workers", workers, "0 or more")
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
