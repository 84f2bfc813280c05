"""The fine-tuning of a detector before its first step: boxes, network, plan and optimizer."""

import time
from dataclasses import dataclass, replace
from typing import Any

from tlcli.backbones.pretrained import NO_WEIGHTS
from tlcli.config import DetectFinetuneConfig, DetectorConfig, options_of
from tlcli.engine.cpu_memory import available_cores, available_memory
from tlcli.engine.runtime import Runtime, choose_runtime
from tlcli.errors import ConfigError
from tlcli.models.detectors.architectures import ARCHITECTURES, FASTER_RCNN
from tlcli.models.detectors.detector import Detector, DetectorBuild
from tlcli.models.detectors.detector_catalog import create_detector, find_published
from tlcli.models.detectors.detector_weights import DESCRIPTION, run_folder
from tlcli.models.detectors.saved_detector import (
    DetectorDescription,
    build_detector,
    describe_detector,
    read_detector_description,
)
from tlcli.models.staged import StagedModel
from tlcli.recipes.batch_reader import default_workers
from tlcli.recipes.box_data import BoxReader, RunBoxes, load_run_boxes, require_box_parts
from tlcli.recipes.finetune_job import check_unchanged, warn_of_holes
from tlcli.recipes.memory_format import place_for_training
from tlcli.recipes.seen_images import warn_of_seen_weights
from tlcli.recipes.talk import Talk
from tlcli.recipes.training_plan import TrainingPlan, decided_options, plan_training
from tlcli.results.run_dir import RunDirectory

DEFAULT_MODEL = FASTER_RCNN
DEFAULT_BACKBONE = "timm/tf_efficientnet_lite0"
"""Of the architectures that work on any: light enough for a laptop, and it has real weights."""
_GPU_THREADS = 4
_BYTES_PER_PIXEL = 1000
"""Of the padded picture, while a ResNet-50 with a pyramid looks at it."""


@dataclass(frozen=True, kw_only=True)
class DetectionJob:
    """A run before its first step."""

    config: DetectFinetuneConfig
    runtime: Runtime
    boxes: RunBoxes
    detector: Detector
    model: StagedModel
    plan: TrainingPlan
    reader: BoxReader
    seconds_prepare: float

    @property
    def description(self) -> DetectorDescription:
        """What `model.json` will hold."""
        table = self.boxes.table
        return describe_detector(
            self.detector,
            classes=table.classes,
            category_ids=tuple(category.id for category in table.categories),
        )


def runtime_of(config: DetectFinetuneConfig) -> Runtime:
    """Pick device and precision."""
    return choose_runtime(
        config.runtime.device,
        amp=config.runtime.amp,
        amp_dtype=config.runtime.amp_dtype,
        channels_last=config.runtime.channels_last,
        seed=config.train.seed,
    )


def prepare_detection(
    config: DetectFinetuneConfig, *, former: RunDirectory | None, talk: Talk
) -> DetectionJob:
    """Load boxes and weights and decide what is trained.

    Args:
        config: All options.
        former: A run to go on with.
        talk: Is told where the weights come from.
    """
    started = time.perf_counter()
    runtime = runtime_of(config)
    boxes = load_run_boxes(
        config.data,
        seed=config.train.seed,
        saved_split=former.splits_path if former else None,
        talk=talk,
    )
    require_box_parts(boxes.table)
    if former:
        check_unchanged(
            boxes.whole.fingerprint, former.read_record(), spec=boxes.table.spec, runtime=runtime
        )
    runtime.seed_step(0, 0)  # for random weights, and the layers of a new head
    detector = (
        build_detector(read_detector_description(former.model_json_path))
        if former
        else load_detector_of(config.model, classes=boxes.table.classes, talk=talk)
    )
    start = None if former else run_folder(config.model.weights)
    if start is not None:
        warn_of_seen_weights(RunDirectory(path=start), boxes.whole, talk=talk)
    model, plan = planned(detector, config, talk=talk)
    runtime = place_for_training(runtime, model, phases=plan.phases, talk=talk)
    reader = BoxReader(
        table=boxes.table,
        batch_size=config.train.batch_size,
        num_workers=default_workers(config.runtime.num_workers, runtime=runtime),
        runtime=runtime,
        talk=talk,
    )
    return DetectionJob(
        config=config,
        runtime=runtime,
        boxes=boxes,
        detector=detector,
        model=model,
        plan=plan,
        reader=reader,
        seconds_prepare=time.perf_counter() - started,
    )


def planned(
    detector: Detector, config: DetectFinetuneConfig, *, talk: Talk
) -> tuple[StagedModel, TrainingPlan]:
    """Make the stages of a detector freezable and decide which are trained when.

    BatchNorm of a pretrained body keeps its statistics in trained stages too.
    """
    model = StagedModel(
        detector.network, stages=detector.stages, kept_norms=detector.norms_to_freeze
    )
    plan = plan_training(
        model,
        no_weight_decay=detector.no_weight_decay,
        freezing=config.freezing,
        train=config.train,
    )
    warn_of_holes(plan, model=model, talk=talk)
    return model, plan


def with_model(model: DetectorConfig, *, talk: Talk) -> DetectorConfig:
    """Fill in the detector where none is named: that of the run in `--weights`, or the default."""
    if model.model is not None:
        return model
    folder = None if model.backbone else run_folder(model.weights)
    if folder is None:
        talk.note(f"No --model given: using {DEFAULT_MODEL}.")
        return replace(model, model=DEFAULT_MODEL)
    build = read_detector_description(folder / DESCRIPTION).build
    on = f" on {build.backbone}" if build.backbone else ""
    talk.note(f"No --model given: using {build.model}{on}, as {folder} does.")
    return replace(model, model=build.model, backbone=build.backbone)


def name_of(model: DetectorConfig) -> str:
    """Return the detector that is meant, after `with_model`."""
    assert model.model is not None
    return model.model


def backbone_of(model: DetectorConfig) -> str | None:
    """Return the backbone that is meant; None for torchvision's own detectors.

    Raises:
        ConfigError: If one is given for a detector that has its own.
    """
    name = name_of(model)
    if name in ARCHITECTURES:
        return model.backbone or DEFAULT_BACKBONE
    if model.backbone is not None:
        raise ConfigError(
            f"--backbone {model.backbone} has no effect on {name}, which has its own: use "
            f"--model {', '.join(ARCHITECTURES)} with any backbone."
        )
    return None


def load_detector_of(model: DetectorConfig, *, classes: tuple[str, ...], talk: Talk) -> Detector:
    """Build a detector for these classes with its weights and tell where they came from."""
    detector = _create(model, classes=classes, weights=model.weights)
    on = f" on {detector.backbone}" if detector.backbone else ""
    origin = f" from {detector.weights.path}" if detector.weights.path else ""
    build, maps = detector.build, ""
    if build.strides:
        maps = f", strides {','.join(map(str, build.strides))}"
    if build.anchor_size is not None:
        maps += f", anchors from {build.anchor_size:g} px"
    talk.note(
        f"Model: {detector.name}{on}, {build.image_size} px{maps}, weights "
        f"{detector.weights.tag}{origin}."
    )
    for remark in detector.weights.remarks:
        talk.note(f"Weights: {remark}")
    if detector.key_table:
        talk.note(detector.key_table)
    return detector


def untrained_detector(model: DetectorConfig, *, classes: tuple[str, ...], talk: Talk) -> Detector:
    """Build what `load_detector_of` would return, without fetching published weights.

    Files and runs are read, so that one that does not fit is told now.

    Raises:
        WeightsError: If there are no such weights.
    """
    backbone = backbone_of(model)
    published = find_published(name_of(model), backbone=backbone, weights=model.weights)
    if published is None:
        return _create(model, classes=classes, weights=model.weights)
    if published.path is None:
        then = "and --offline forbids to fetch them" if model.offline else "a run fetches them"
        talk.note(f"Weights {published.tag} of {published.model} are not on this machine; {then}.")
    detector = _create(model, classes=classes, weights=NO_WEIGHTS)
    numbers = tuple(range(len(classes)))
    description = describe_detector(detector, classes=classes, category_ids=numbers)
    has_own_body = detector.backbone is None
    return build_detector(
        replace(description, is_body_pretrained=True, is_neck_pretrained=has_own_body)
    )


def _create(model: DetectorConfig, *, classes: tuple[str, ...], weights: str) -> Detector:
    return create_detector(
        name_of(model),
        backbone=backbone_of(model),
        weights=weights,
        class_names=classes,
        image_size=model.image_size,
        strides=model.stride_values,
        fpn_channels=model.fpn_channels,
        anchor_size=model.anchor_size,
        sampled_boxes=model.sampled_boxes,
        mean=model.means,
        std=model.stds,
        offline=model.offline,
    )


def detection_threads(num_workers: int | None, *, build: DetectorBuild, runtime: Runtime) -> int:
    """Return how many images are detected in at once.

    Args:
        num_workers: What the user says; 0 is one at a time.
        build: Of the detector; large pictures need memory.
        runtime: On the CPU all cores are used, a few threads where a GPU computes.
    """
    if num_workers is not None:
        return max(1, num_workers)
    if runtime.device.type != "cpu":
        return _GPU_THREADS
    per_image = _BYTES_PER_PIXEL * build.image_size * build.max_size
    return max(1, min(available_cores(), available_memory() // 2 // per_image))


def resolved_options(job: DetectionJob) -> dict[str, Any]:
    """Return every option with the value that was used where none was given."""
    decided = decided_options(job.plan, train=job.config.train, freezing=job.config.freezing)
    options = options_of(job.config) | decided
    options["model"] = name_of(job.config.model)
    options["backbone"] = backbone_of(job.config.model)
    build = job.detector.build
    options["image_size"] = build.image_size
    options["strides"] = ",".join(map(str, build.strides)) or None
    options["fpn_channels"] = build.fpn_channels
    options["anchor_size"] = build.anchor_size
    options["sampled_boxes"] = build.sampled_boxes
    return options
