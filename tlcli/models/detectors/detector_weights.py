"""Weights of whole detectors: found, read, and put into a network whose classes may be others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tlcli.backbones import weight_files
from tlcli.backbones.protocol import LoadedWeights
from tlcli.backbones.weight_files import KeyReport
from tlcli.errors import WeightsError
from tlcli.models.detectors import torchvision_detectors as named
from tlcli.models.detectors.class_heads import class_layers, count_classes
from tlcli.models.detectors.detector import DetectorBuild
from tlcli.models.detectors.saved_detector import read_detector_description
from tlcli.models.saved_model import DETECTION, read_weights, saved_kind
from tlcli.results.counted import counted

BODY_PREFIX = "backbone."
DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class DetectorWeights:
    """The tensors of a trained detector and what is known of it."""

    tensors: Mapping[str, Tensor]
    """By today's key names."""
    loaded: LoadedWeights
    num_classes: int
    class_names: tuple[str, ...]
    """What labels 1..K mean; empty if nobody says."""
    build: DetectorBuild | None = None
    """How it was built, where a run folder says so."""
    tag: str | None = None
    """Published weights that these are."""


def run_folder(weights: str) -> Path | None:
    """Return the run folder that `--weights` names, itself or by the weights in it; None if none.

    Raises:
        WeightsError: If it names a run that trained no detector, or another folder.
    """
    path = Path(weights).expanduser()
    folder = path.parent if path.name == WEIGHTS else path
    if not (folder / DESCRIPTION).is_file():
        if path.is_dir():
            raise WeightsError(
                f"--weights {weights} is a folder without a {DESCRIPTION}. Give a run folder of "
                "detect-finetune, or a weights file."
            )
        return None
    if (kind := saved_kind(folder / DESCRIPTION)) == DETECTION:
        return folder
    if path.is_file():
        return None  # weights of a classifier, which may be the body of a detector
    raise WeightsError(
        f"--weights {weights} is a run for {kind}, not a detector. Give its {WEIGHTS} to start "
        "from the body alone."
    )


def from_run(folder: Path, *, model: str, backbone: str | None) -> DetectorWeights:
    """Read the detector of a run folder.

    Args:
        folder: Of a finished run.
        model: The detector that is wanted.
        backbone: Source and architecture of its backbone, None for torchvision's own detectors.

    Raises:
        DataError: If a file is missing or damaged.
        WeightsError: If the run trained another detector.
    """
    description = read_detector_description(folder / DESCRIPTION)
    build = description.build
    if (build.model, build.backbone) != (model, backbone):
        raise WeightsError(
            f"{folder} holds {_title(build.model, build.backbone)}, not "
            f"{_title(model, backbone)}. Name that model, or other --weights."
        )
    path = folder / WEIGHTS
    sha256 = weight_files.sha256_of(path) if path.is_file() else None
    return DetectorWeights(
        tensors=read_weights(path),
        loaded=LoadedWeights(tag="file", path=str(path), sha256=sha256),
        num_classes=len(description.classes),
        class_names=description.classes,
        build=build,
    )


def published(name: str, tag: str, *, offline: bool) -> DetectorWeights:
    """Read published weights of one of torchvision's detectors.

    Raises:
        WeightsError: If they are not to be had, or damaged.
        MachineError: If they cannot be stored.
    """
    path = named.fetch_file(name, tag, offline=offline)
    file = weight_files.read_state_dict(path)
    return _of_named(name, file.tensors, tag=tag, loaded_tag=tag, file=file)


def from_file(path: Path, *, model: str) -> DetectorWeights | None:
    """Read a file; None if it holds no detector (but a classification network, for instance).

    Args:
        path: A weights file.
        model: The detector that is wanted.

    Raises:
        WeightsError: If the file is missing, damaged or without a class head of the detector.
    """
    file = weight_files.read_state_dict(path)
    if not any(key.startswith(BODY_PREFIX) for key in file.tensors):
        return None
    if model.startswith(named.PREFIX):
        name = model.removeprefix(named.PREFIX)
        tag = named.tag_of_file(name, file.sha256)
        return _of_named(name, file.tensors, tag=tag, loaded_tag="file", file=file)
    remark = f"{path.name} does not say what its classes are called."
    return DetectorWeights(
        tensors=file.tensors,
        loaded=_loaded("file", file, remark),
        num_classes=count_classes(model, file.tensors, origin=str(path)),
        class_names=(),
    )


def put_in(
    network: nn.Module, weights: DetectorWeights, *, model: str, is_head_kept: bool
) -> KeyReport:
    """Copy weights into a detector in place: all, or all but the layers that make classes.

    Raises:
        WeightsError: If anything else does not fit; the network is then unchanged.
    """
    layers = class_layers(model)
    tensors = {
        key: tensor
        for key, tensor in weights.tensors.items()
        if is_head_kept or not any(key.startswith(f"{layer}.") for layer in layers)
    }
    origin = weights.loaded.path or weights.loaded.tag
    return weight_files.load_state(
        network, tensors, head_names=() if is_head_kept else layers, origin=origin
    )


def key_table(report: KeyReport) -> str:
    """Return plain lines: how many tensors were kept, by part, and which were replaced."""
    parts = {"body": 0, "neck": 0, "heads": 0}
    for key in report.matched:
        is_neck = key.startswith(("backbone.fpn.", "backbone.extra.", "backbone.scale_weight"))
        part = "neck" if is_neck else "body" if key.startswith(BODY_PREFIX) else "heads"
        parts[part] += 1
    counts = ", ".join(f"{part} {count}" for part, count in parts.items())
    lines = [f"kept: {len(report.matched)} ({counts})"]
    for title, keys in (
        ("replaced (class head, new)", report.head_keys),
        ("missing (in the model, not in the file)", report.missing),
        ("unexpected (in the file, not in the model)", report.unexpected),
    ):
        shown = [f"  {key}" for key in keys if not key.endswith("num_batches_tracked")]
        counters = len(keys) - len(shown)
        batch_counters = (
            [f"  {counted(counters, 'batch counter')} of BatchNorm"] if counters else []
        )
        lines += [f"{title}: {len(keys)}", *shown, *batch_counters]
    return "\n".join(lines)


def _of_named(
    name: str,
    tensors: Mapping[str, Tensor],
    *,
    tag: str | None,
    loaded_tag: str,
    file: weight_files.WeightFile,
) -> DetectorWeights:
    current = named.current_keys(name, tensors)
    count = count_classes(name, current, origin=str(file.path))
    coco = named.coco_names(name)
    has_coco_head = count == len(coco)
    assumed: Sequence[str] = ()
    if tag is None:
        what = "those of COCO are assumed" if has_coco_head else "they have no names"
        assumed = (f"{file.path.name} does not say what its {count} classes are called: {what}.",)
    return DetectorWeights(
        tensors=current,
        loaded=_loaded(loaded_tag, file, *assumed),
        num_classes=count,
        class_names=coco if has_coco_head else (),
        tag=tag,
    )


def _loaded(tag: str, file: weight_files.WeightFile, *remarks: str) -> LoadedWeights:
    return LoadedWeights(
        tag=tag, path=str(file.path), sha256=file.sha256, remarks=(*file.remarks, *remarks)
    )


def _title(model: str, backbone: str | None) -> str:
    return f"{model} on {backbone}" if backbone else model
