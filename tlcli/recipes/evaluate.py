"""`tlcli evaluate`: a run folder, or a pretrained model as it is, judged on a split."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from tlcli.backbones import imagenet
from tlcli.config import EvaluateConfig, LabelledDataConfig, options_of
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.table import ImageTable
from tlcli.engine.runtime import describe_environment
from tlcli.errors import ConfigError, ModelError
from tlcli.models.detectors.architectures import ARCHITECTURES
from tlcli.models.detectors.torchvision_detectors import NAMED, PREFIX
from tlcli.models.saved_model import load_network
from tlcli.recipes.batch_reader import BatchReader, default_workers
from tlcli.recipes.evaluate_detector import (
    evaluate_detector,
    evaluate_detector_run,
    refuse_box_options,
)
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
from tlcli.recipes.feature_folder import head_run_of
from tlcli.recipes.finetune_job import load_backbone
from tlcli.recipes.image_data import (
    RunImages,
    absolute_spec,
    load_images,
    load_unsplit,
    tell_of_channels,
    write_skipped,
)
from tlcli.recipes.judging import judge, match_classes
from tlcli.recipes.seen_images import warn_of_seen
from tlcli.recipes.talk import Talk
from tlcli.results.records import EvalReport
from tlcli.results.run_dir import RunDirectory, check_free

_BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A model with what its outputs mean."""

    network: nn.Module
    name: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    record: dict[str, Any]
    """What a run folder of its own would say of it."""


def run(config: EvaluateConfig, *, talk: Talk) -> Evaluation:
    """Evaluate a model and return the report and the folder it was written to.

    Raises:
        TlcliError: For everything a user or the machine can get wrong; see `tlcli.errors`.
    """
    runtime_of(config)  # before there are threads, and before anything is read
    if config.run is not None:
        folder = RunDirectory.open(head_run_of(Path(config.run).expanduser(), talk=talk))
        if folder.read_record().get("kind") == "detection":
            return evaluate_detector_run(folder, config, talk=talk)
        refuse_box_options(config)
        return _evaluate_run(folder, config, talk=talk)
    if config.model in ARCHITECTURES:
        raise ConfigError(
            f"--model {config.model} stands on a backbone, and nobody published such a detector. "
            "Train it with `tlcli detect-finetune` and evaluate the run folder."
        )
    if (config.model or "").removeprefix(PREFIX) in NAMED:
        return evaluate_detector(config, talk=talk)
    refuse_box_options(config)
    return _evaluate_pretrained(config, talk=talk)


def _evaluate_run(folder: RunDirectory, config: EvaluateConfig, *, talk: Talk) -> Evaluation:
    record = folder.read_record()
    if record["status"] != "finished":
        talk.warn(f"This run is {record['status']}: its best epoch so far is evaluated.")
    config = as_trained(config, record["config"])
    network, description = load_network(folder.path)
    judged = _Judged(
        network=network,
        name=description.model,
        class_names=description.classes,
        preprocessing=description.preprocessing,
        record={},
    )
    if not description.is_multi_label and config.label_separator is not None:
        raise ConfigError(
            f"--label-separator '{config.label_separator}' has no effect: the classes of this run "
            "exclude each other."
        )
    if config.data is not None:
        is_multi_label = description.is_multi_label
        images, split = _given_data(config.data, config, is_multi_label=is_multi_label, talk=talk)
        warn_of_seen(folder, split, data=images.table, talk=talk)
        # two folders of one name must not overwrite each other's evaluation
        name = f"{data_name(config.data)}-{images.table.fingerprint[:8]}-{split}"
    else:
        images, split = _own_data(folder, config, talk=talk)
        name = split
    target = folder.evaluation_dir(name)
    report = _judge(judged, images, split=split, folder=target, config=config, talk=talk)
    return Evaluation(report=report, folder=target, titles=_titles(images.table, judged))


def _evaluate_pretrained(config: EvaluateConfig, *, talk: Talk) -> Evaluation:
    assert config.model is not None
    path = output_path(config)
    check_free(path, overwrite=config.overwrite)
    judged = _pretrained(config, talk=talk)
    data = config.data or LabelledDataConfig.data
    images, split = _given_data(data, config, talk=talk)
    table = images.table
    match_classes(table.classes, model_classes=judged.class_names)  # before anything is written
    folder = RunDirectory.create(path, overwrite=config.overwrite)
    target = folder.evaluation_dir(split)
    with folder.status_kept():
        report = _judge(judged, images, split=split, folder=target, config=config, talk=talk)
        folder.update(
            kind="classification",
            command="evaluate",
            config=options_of(config),
            **judged.record,
            classes=list(judged.class_names),
            preprocessing=judged.preprocessing.to_json(),
            data={
                "spec": absolute_spec(data),
                "fingerprint": table.fingerprint,
                "counts": table.counts(),
                "skipped": len(images.skipped),
                "class_names": images.class_names and [list(name) for name in images.class_names],
            },
            environment=describe_environment(runtime_of(config)),
            seed=config.seed or 0,
            results={split: report.summary()},
        )
    return Evaluation(report=report, folder=target, titles=_titles(table, judged))


def _pretrained(config: EvaluateConfig, *, talk: Talk) -> _Judged:
    weights = config.pretrained.weights
    if weights == "none":
        raise ConfigError("--weights none: a random head knows no classes to evaluate.")
    backbone = load_backbone(config.pretrained, talk=talk)
    if not backbone.class_names:
        raise ModelError(
            f"What the outputs of {backbone.name} with weights '{weights}' mean is not known, so "
            "labels cannot be matched by name. Fine-tune it and evaluate the run."
        )
    return _Judged(
        network=backbone.network,
        name=backbone.name,
        class_names=backbone.class_names,
        preprocessing=backbone.preprocessing,
        record={"model": backbone.record()},
    )


def _own_data(folder: RunDirectory, config: EvaluateConfig, *, talk: Talk) -> tuple[RunImages, str]:
    """Load the data of a run with the split it was trained with."""
    refuse_mixture(config)
    record = folder.read_record()
    kept = record["config"]
    names = ("path_column", "label_column", "split_column", "group_column")
    data = LabelledDataConfig(
        data=kept["data"],
        limit=kept["limit"],
        on_bad_image=kept["on_bad_image"],
        multi_label=kept.get("multi_label", False),
        label_separator=kept.get("label_separator") or LabelledDataConfig.label_separator,
        **{name: kept.get(name) for name in names},
    )
    images = load_images(data, seed=kept["seed"], former=folder, talk=talk)
    check_own_data(images.whole.fingerprint, record, spec=data.data)
    split = config.split or ("test" if "test" in images.table.splits else "val")
    warn_if_chosen_by(split, talk=talk)
    return images, split


def _given_data(
    spec: str, config: EvaluateConfig, *, is_multi_label: bool = False, talk: Talk
) -> tuple[RunImages, str]:
    """Load other data as it is: its own splits, or all of it where it has none."""
    data = LabelledDataConfig(
        data=spec,
        limit=config.limit or 0,
        on_bad_image=config.on_bad_image,
        classes=config.classes,
        path_column=config.path_column,
        label_column=config.label_column,
        multi_label=is_multi_label,
        label_separator=config.label_separator or LabelledDataConfig.label_separator,
        split_column=config.split_column,
    )
    images = load_unsplit(data, seed=config.seed or 0, offline=config.offline, talk=talk)
    table = images.table
    if config.split == "all":
        table = table.with_items(table.items.assign(split="unsplit"))
    split = choose_split(config.split, present=table.splits)
    table.part(split)  # an error that names the splits there are
    return replace(images, table=table), split


def _judge(
    judged: _Judged,
    images: RunImages,
    *,
    split: str,
    folder: Path,
    config: EvaluateConfig,
    talk: Talk,
) -> EvalReport:
    runtime = runtime_of(config)
    runtime.place(judged.network)
    tell_of_channels(images.table, channels=judged.preprocessing.channels, talk=talk)
    reader = BatchReader(
        table=images.table,
        preprocessing=judged.preprocessing,
        batch_size=config.batch_size or _BATCH_SIZE,
        num_workers=default_workers(config.runtime.num_workers, runtime=runtime),
        runtime=runtime,
        talk=talk,
    )
    report = judge(
        judged.network,
        class_names=judged.class_names,
        titles=_titles(images.table, judged),
        reader=reader,
        split=split,
        folder=folder,
    )
    write_skipped(images, folder)
    return report


def _titles(table: ImageTable, judged: _Judged) -> Mapping[str, str]:
    """Return readable class names: those of the data, else ImageNet's for WordNet ids."""
    if table.class_titles:
        return table.class_titles
    known = imagenet.titles("imagenet-1k")
    return known if set(judged.class_names) <= set(known) else {}
