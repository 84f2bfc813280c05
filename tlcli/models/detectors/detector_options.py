"""What a user may say of a detector's sizes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tlcli.errors import ConfigError
from tlcli.models.detectors.detector import DetectorBuild


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Sizes of a detector; None leaves one open."""

    image_size: int | None = None
    """Short side of the pictures in pixels. Left open it is torchvision's own; on backbones 320 for
    light ones (see `LIGHT_BODY_PARAMETERS`), 800 for others."""
    strides: Sequence[int] | None = None
    """Of the backbone's maps; left open all from 8 on. Only with a backbone."""
    fpn_channels: int | None = None
    """Of the pyramid's maps; left open 128 for light bodies, else 256. Only with a backbone."""
    sampled_boxes: int | None = None
    """Boxes per image that a Faster R-CNN's box head is trained on; left open 128 on light bodies,
    else 512. Proposals are four times as many, twice in evaluation."""
    anchor_size: float | None = None
    """Of the anchors on the finest map, in pixels of the resized picture; they grow with the
    stride. Left open 32. Only with a backbone."""
    mean: tuple[float, ...] | None = None
    """Of each channel for values in 0..1, instead of what is known of the weights."""
    std: tuple[float, ...] | None = None
    """The same for the standard deviation."""

    def check(self, architecture: str) -> None:
        """Check the options for `fasterrcnn`, `retinanet`, `fcos` or another architecture.

        Raises:
            ConfigError: If one can have no effect.
        """
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
            ("--strides", self.strides and _listed(self.strides), _listed(build.strides)),
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


def _listed(strides: Sequence[int]) -> str:
    return ",".join(map(str, strides))


def longest_side(image_size: int) -> int:
    """Return how long the long side may be, in pixels: as 1333 to 800 in torchvision."""
    return round(image_size * 1333 / 800)
