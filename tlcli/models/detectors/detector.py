"""What a detector is: a network in torchvision's calling convention, and all that adapts it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from tlcli.backbones.protocol import LoadedWeights
from tlcli.backbones.stages import Stage


@dataclass(frozen=True, kw_only=True)
class DetectorBuild:
    """Everything that a detector's network is built from, but for its classes and weights."""

    model: str
    """`torchvision/fasterrcnn_resnet50_fpn`, or `fasterrcnn`, `retinanet`, `fcos`."""
    image_size: int
    """The short side of the pictures that the network works on, in pixels."""
    max_size: int
    """Where the long side would be longer than this, the picture is made smaller, in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    norm_eps: float | None = None
    """What the body's BatchNorm layers add to the variance; None is what their source sets."""
    sampled_boxes: int | None = None
    """Boxes per image that the box head of a Faster R-CNN is trained on; None is torchvision's."""
    backbone: str | None = None
    """`timm/tf_efficientnet_lite0` for architectures on any backbone; all below is for those."""
    shape_tag: str | None = None
    """Published weights whose variant of the backbone was built; None is the plain one."""
    strides: tuple[int, ...] = ()
    """Pixels per cell of the maps that are taken from the backbone."""
    fpn_channels: int | None = None
    anchor_size: float | None = None
    """Side of the square anchors on the finest map, in pixels of the resized picture."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DetectorBuild":
        """Rebuild from `to_json`, lists back to tuples."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)


@dataclass(frozen=True, kw_only=True)
class BuiltDetector:
    """A detector's network with random or given weights in its body, and the parts of it."""

    network: nn.Module = field(repr=False)
    stages: tuple[Stage, ...]
    body_norms: frozenset[str]
    """Names of the layers of the body that keep running statistics."""
    no_weight_decay: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A detector that can be trained, judged and saved.

    The network takes a list of images (3, H, W) with values in 0..1 and, in train mode, a list of
    `{"boxes": (n, 4) x1 y1 x2 y2 in pixels, "labels": (n,) int64 from 1}`; it returns named losses
    in train mode and a list of `{"boxes", "labels", "scores"}` in eval mode. It resizes and
    normalises by itself.
    """

    build: DetectorBuild
    network: nn.Module = field(repr=False)
    stages: tuple[Stage, ...]
    """Those of the body by the names that `finetune` has for it, then `fpn` (`extra` for SSD) where
    its weights were trained before, then `head`: everything new or on top."""
    norms_to_freeze: frozenset[str]
    """Names of the BatchNorm layers of a pretrained body, whose statistics stand still; statistics
    of random bodies mean nothing and are learned."""
    no_weight_decay: frozenset[str]
    """Parameters that the body itself exempts from weight decay."""
    num_classes: int
    """K, without the background."""
    class_names: tuple[str, ...]
    """What labels 1..K of a loaded head mean; empty if the head is new or nobody says."""
    weights: LoadedWeights
    is_body_pretrained: bool
    is_neck_pretrained: bool
    """The layers on the body's maps came with weights, and are a stage of their own."""
    key_table: str | None = None
    """Where the weights of a detector were loaded: which keys were kept, replaced and missing."""

    @property
    def name(self) -> str:
        """As `--model` takes it."""
        return self.build.model

    @property
    def backbone(self) -> str | None:
        """As `--backbone` takes it; None for torchvision's own detectors."""
        return self.build.backbone

    def record(self) -> dict[str, Any]:
        """Return what `run.json` says of the model."""
        return {
            "name": self.name,
            "backbone": self.backbone,
            "weights": self.weights.tag,
            "weights_path": self.weights.path,
            "sha256": self.weights.sha256,
            "remarks": list(self.weights.remarks),
            "image_size": self.build.image_size,
            "strides": list(self.build.strides),
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "stages": [stage.label for stage in self.stages],
        }
