"""The pixels a backbone wants to see, decided by its weights and stored with every run."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tlcli.config.parts import RGB_CHANNELS as RGB_CHANNELS

CropMode = Literal["center", "squash", "border"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes the input of one particular backbone.

    Sizes are (height, width) in pixels; mean and std are per channel for values in 0..1.
    """

    input_size: tuple[int, int]
    """What the backbone sees."""
    resize_size: tuple[int, int]
    """What a picture is resized to before the crop, see `crop_mode`."""
    crop_mode: CropMode = "center"
    """`center`: short side to `resize_size`, then the middle; `squash`: both sides exactly,
    then the middle; `border`: long side to `resize_size`, then the middle, padded."""
    interpolation: str = "bilinear"
    """Pillow's filter: nearest, bilinear, bicubic, lanczos, box or hamming."""
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) >= 1:
            raise ValueError(f"means {self.mean} and stds {self.std} of differently many channels")

    @property
    def channels(self) -> int:
        """How many channels the picture has: 1 is gray, 3 RGB, 4 RGB and transparency."""
        return len(self.mean)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `model.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":
        """Rebuild from `to_json`, lists back to tuples."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)
