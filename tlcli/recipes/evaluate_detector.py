"""`tlcli evaluate` on detectors: a run folder, or torchvision's own weights as they are."""

from pathlib import Path

from tlcli.config import BoxDataConfig, EvaluateConfig, options_of
from tlcli.data.boxes.box_table import check_judgeable
from tlcli.engine.runtime import describe_environment
from tlcli.errors import ConfigError, ModelError
from tlcli.models.detectors.detector import Detector
from tlcli.models.detectors.detector_catalog import create_detector
from tlcli.models.detectors.saved_detector import load_detector
from tlcli.recipes.box_data import (
    BoxReader,
    RunBoxes,
    as_one_part,
    load_boxes_unsplit,
    load_run_boxes,
    write_repairs,
)
from tlcli.recipes.detection_job import detection_threads
from tlcli.recipes.detection_judging import BoxJudge, category_ids_of_labels, judge_boxes
from tlcli.recipes.evaluation_setup import (
    Evaluation,
    as_trained,
    check_own_data,
    choose_split,
    data_name,
    output_path,
    refuse_mixture,
    runtime_of,
    warn_if_chosen_by,
)
from tlcli.recipes.image_data import write_skipped_paths
from tlcli.recipes.seen_images import warn_of_seen
from tlcli.recipes.talk import Talk
from tlcli.results.records import EvalReport
from tlcli.results.run_dir import RunDirectory, check_free


def refuse_box_options(config: EvaluateConfig) -> None:
    """Refuse what only detectors understand.

    Raises:
        ConfigError: If such an option was given.
    """
    if config.on_bad_box != EvaluateConfig.on_bad_box:
        raise ConfigError(f"--on-bad-box {config.on_bad_box} has no effect on a classifier.")


def evaluate_detector_run(
    folder: RunDirectory, config: EvaluateConfig, *, talk: Talk
) -> Evaluation:
    """Evaluate the detector of a run folder, on its own data or on other."""
    _refuse_classifier_options(config)
    record = folder.read_record()
    if record["status"] != "finished":
        talk.warn(f"This run is {record['status']}: its best epoch so far is evaluated.")
    config = as_trained(config, record["config"])
    detector, _ = load_detector(folder.path)
    if config.data is not None:
        boxes, split = _given_data(config.data, config, talk=talk)
        warn_of_seen(folder, split, data=boxes.table, talk=talk)
        name = f"{data_name(config.data)}-{boxes.table.fingerprint[:8]}-{split}"
    else:
        boxes, split = _own_data(folder, config, talk=talk)
        name = split
    target = folder.evaluation_dir(name)
    report = _judge(detector, boxes, split=split, folder=target, config=config, talk=talk)
    return Evaluation(report=report, folder=target, titles={})


def evaluate_detector(config: EvaluateConfig, *, talk: Talk) -> Evaluation:
    """Evaluate one of torchvision's detectors with the classes it was trained on."""
    _refuse_classifier_options(config)
    path = output_path(config)
    check_free(path, overwrite=config.overwrite)
    model = config.pretrained
    if model.weights == "none":
        raise ConfigError("--weights none: a random head knows no classes to evaluate.")
    detector = create_detector(
        model.model,
        weights=model.weights,
        mean=model.means,
        std=model.stds,
        offline=model.offline,
    )
    talk.note(f"Model: {detector.name}, weights {detector.weights.path}.")
    for remark in detector.weights.remarks:
        talk.note(f"Weights: {remark}")
    if not detector.class_names:
        raise ModelError(
            f"What the outputs of {detector.name} with weights '{model.weights}' mean is not "
            "known, so categories cannot be matched by name. Fine-tune it and evaluate the run."
        )
    data = config.data or BoxDataConfig.data
    boxes, split = _given_data(data, config, talk=talk)
    category_ids_of_labels(
        boxes.table, split, class_names=detector.class_names
    )  # before any writing
    folder = RunDirectory.create(path, overwrite=config.overwrite)
    target = folder.evaluation_dir(split)
    with folder.status_kept():
        report = _judge(detector, boxes, split=split, folder=target, config=config, talk=talk)
        folder.update(
            kind="detection",
            command="evaluate",
            config=options_of(config),
            model=detector.record(),
            classes=list(detector.class_names),
            preprocessing=vars(detector.build),
            data=boxes.to_json(),
            environment=describe_environment(runtime_of(config)),
            seed=config.seed or 0,
            results={split: report.summary()},
        )
    return Evaluation(report=report, folder=target, titles={})


def _refuse_classifier_options(config: EvaluateConfig) -> None:
    if config.batch_size is not None:
        raise ConfigError(
            f"--batch-size {config.batch_size} has no effect on a detector, which looks at one "
            "image per thread: set --num-workers, or leave it."
        )
    if config.input_size is not None:
        raise ConfigError(
            f"--input-size {config.input_size} has no effect on a detector, which takes pictures "
            "of any size: leave it."
        )
    if config.in_channels is not None:
        raise ConfigError(
            f"--in-channels {config.in_channels} has no effect on a detector, which takes RGB "
            "pictures: leave it."
        )
    for option, value in config.image_options.items():
        if value is not None:
            raise ConfigError(f"{option} {value} has no effect on a detector and its boxes.")


def _own_data(folder: RunDirectory, config: EvaluateConfig, *, talk: Talk) -> tuple[RunBoxes, str]:
    """Load the data of a run with the split it was trained with."""
    refuse_mixture(config)
    record = folder.read_record()
    kept = record["config"]
    names = ("data", "val_split", "test_split", "limit", "on_bad_image", "on_bad_box")
    data = BoxDataConfig(**{name: kept[name] for name in names})
    boxes = load_run_boxes(data, seed=kept["seed"], saved_split=folder.splits_path, talk=talk)
    check_own_data(boxes.whole.fingerprint, record, spec=data.data)
    split = config.split or ("test" if "test" in boxes.table.splits else "val")
    warn_if_chosen_by(split, talk=talk)
    return boxes, split


def _given_data(spec: str, config: EvaluateConfig, *, talk: Talk) -> tuple[RunBoxes, str]:
    """Load other data as it is: its own splits, or all of it where it has none."""
    data = BoxDataConfig(
        data=spec,
        limit=config.limit or 0,
        on_bad_image=config.on_bad_image,
        on_bad_box=config.on_bad_box,
    )
    boxes = load_boxes_unsplit(data, seed=config.seed or 0, talk=talk)
    if config.split == "all":
        boxes = as_one_part(boxes)
    split = choose_split(config.split, present=boxes.table.splits)
    check_judgeable(boxes.table, split)
    return boxes, split


def _judge(
    detector: Detector,
    boxes: RunBoxes,
    *,
    split: str,
    folder: Path,
    config: EvaluateConfig,
    talk: Talk,
) -> EvalReport:
    runtime = runtime_of(config)
    runtime.place(detector.network)
    reader = BoxReader(
        table=boxes.table,
        batch_size=1,
        num_workers=0,
        runtime=runtime,
        talk=talk,
    )
    judge = BoxJudge(
        reader=reader,
        class_names=detector.class_names,
        threads=detection_threads(
            config.runtime.num_workers, build=detector.build, runtime=runtime
        ),
    )
    report = judge_boxes(judge, detector.network, split=split, folder=folder)
    write_skipped_paths(boxes.skipped, folder)
    write_repairs(boxes.table.repairs_of(split), folder)
    return report
