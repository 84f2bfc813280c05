"""What a user may say of a detector's sizes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tlcli.errors import ConfigError
from tlcli.models.detectors.detector import DetectorBuild

_MIN_IMAGE_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Sizes of a detector; None leaves one open. They mean what `create_detector` says."""

    image_size: int | None = None
    strides: Sequence[int] | None = None
    fpn_channels: int | None = None
    sampled_boxes: int | None = None
    anchor_size: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def check(self, architecture: str) -> None:
        """Check the values for `fasterrcnn`, `retinanet`, `fcos` or another architecture.

        Raises:
            ConfigError: If one is out of range or can have no effect.
        """
        for option, value, least in (
            ("--image-size", self.image_size, _MIN_IMAGE_SIZE),
            ("--fpn-channels", self.fpn_channels, 1),
            ("--sampled-boxes", self.sampled_boxes, 1),
            ("--anchor-size", self.anchor_size, 1),
        ):
            if value is not None and value < least:
                raise ConfigError(f"{option} {value} is too small. Give at least {least}.")
        if self.sampled_boxes is not None and architecture != "fasterrcnn":
            raise ConfigError(
                f"--sampled-boxes has no effect on {architecture}, which samples none. Leave it "
                "out, or use fasterrcnn."
            )
        if self.anchor_size is not None and architecture == "fcos":
            raise ConfigError("--anchor-size has no effect on fcos, which has no anchors.")

    def normalized(self, build: DetectorBuild) -> DetectorBuild:
        """Return the same detector for pixels of the given mean and deviation."""
        return replace(build, mean=self.mean or build.mean, std=self.std or build.std)

    def of_trained(self, build: DetectorBuild) -> DetectorBuild:
        """Return how to build a trained detector anew: pictures and samples may be others.

        Raises:
            ConfigError: If another option disagrees with how it was built.
        """
        for option, wanted, built in (
            ("--strides", self.strides and tuple(self.strides), build.strides),
            ("--fpn-channels", self.fpn_channels, build.fpn_channels),
            ("--anchor-size", self.anchor_size, build.anchor_size),
        ):
            if wanted is not None and wanted != built:
                raise ConfigError(
                    f"{option} {wanted} is not what the detector of --weights was built with "
                    f"({built}). Leave it out, or start from other weights."
                )
        if self.sampled_boxes is not None:
            build = replace(build, sampled_boxes=self.sampled_boxes)
        if self.image_size is None or self.image_size == build.image_size:
            return build
        max_size = longest_side(self.image_size)
        return replace(build, image_size=self.image_size, max_size=max_size)


def longest_side(image_size: int) -> int:
    """Return how long the long side may be, in pixels: as 1333 to 800 in torchvision."""
    return round(image_size * 1333 / 800)
