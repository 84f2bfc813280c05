"""A trained detector on disk: weights, and all that is needed to build it anywhere."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.backbones import weight_files
from tlcli.backbones.protocol import LoadedWeights
from tlcli.errors import DataError
from tlcli.models.detectors.detector import Detector, DetectorBuild
from tlcli.models.detectors.detector_building import assemble
from tlcli.models.saved_model import DETECTION, read_weights, saved_kind
from tlcli.results.atomic import write_text
from tlcli.results.json_text import to_json_text
from tlcli.results.records import SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class DetectorDescription:
    """What `model.json` of a detector holds; the weights beside it have torchvision's key names."""

    build: DetectorBuild
    weights: str
    """Tag of the pretrained weights it started from, `none`, or `file`."""
    weights_sha256: str | None
    classes: tuple[str, ...]
    """Label i + 1 of the network means `classes[i]`; label 0 is the background."""
    category_ids: tuple[int, ...]
    """The user's own number of each class."""
    is_body_pretrained: bool
    """The statistics of its BatchNorm layers stood still."""
    is_neck_pretrained: bool
    """The layers on the body's maps were a stage of their own."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": DETECTION,
            **vars(self),
            "build": self.build.to_json(),
            "labels": {str(i): name for i, name in enumerate(self.classes, start=1)},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DetectorDescription":
        """Rebuild from `to_json`."""
        left_out = ("schema_version", "kind", "labels")
        fields = {key: value for key, value in values.items() if key not in left_out}
        fields["build"] = DetectorBuild.from_json(fields["build"])
        fields["classes"] = tuple(fields["classes"])
        fields["category_ids"] = tuple(fields["category_ids"])
        return cls(**fields)


def describe_detector(
    detector: Detector, *, classes: tuple[str, ...], category_ids: tuple[int, ...]
) -> DetectorDescription:
    """Return what `model.json` will hold once a detector was trained.

    Args:
        detector: As `create_detector` returned it.
        classes: What labels 1..K mean.
        category_ids: The user's own number of each class.
    """
    return DetectorDescription(
        build=detector.build,
        weights=detector.weights.tag,
        weights_sha256=detector.weights.sha256,
        classes=classes,
        category_ids=category_ids,
        is_body_pretrained=detector.is_body_pretrained,
        is_neck_pretrained=detector.is_neck_pretrained,
    )


def build_detector(description: DetectorDescription) -> Detector:
    """Build the described detector with random weights and the stages that it was trained with.

    Raises:
        ModelError: If the installed libraries do not have its parts.
    """
    built = assemble(
        description.build,
        num_classes=len(description.classes),
        is_neck_pretrained=description.is_neck_pretrained,
    )
    return Detector(
        build=description.build,
        network=built.network,
        stages=built.stages,
        norms_to_freeze=built.body_norms if description.is_body_pretrained else frozenset(),
        no_weight_decay=built.no_weight_decay,
        num_classes=len(description.classes),
        class_names=description.classes,
        weights=LoadedWeights(tag=description.weights, sha256=description.weights_sha256),
        is_body_pretrained=description.is_body_pretrained,
        is_neck_pretrained=description.is_neck_pretrained,
    )


def load_detector(folder: Path) -> tuple[Detector, DetectorDescription]:
    """Rebuild the trained detector of a run folder.

    Raises:
        DataError: If a file is missing or damaged, or the run trained no detector.
        ModelError: If the installed libraries do not have its parts.
        WeightsError: If weights and description do not belong together.
    """
    description = read_detector_description(folder / "model.json")
    detector = build_detector(description)
    path = folder / "model.safetensors"
    weight_files.load_state(detector.network, read_weights(path), head_names=(), origin=str(path))
    return detector, description


def write_detector_description(description: DetectorDescription, path: Path) -> None:
    """Write `model.json`."""
    write_text(path, to_json_text(description.to_json()))


def read_detector_description(path: Path) -> DetectorDescription:
    """Read `model.json`.

    Raises:
        DataError: If it is missing, damaged, or not of a detector.
    """
    if (kind := saved_kind(path)) != DETECTION:
        raise DataError(f"{path} describes a model for {kind}, not a detector. Give another run.")
    try:
        return DetectorDescription.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}): is this a finished run?") from error
