"""`tlcli evaluate`: a run folder, or a pretrained model as it is, judged on a split."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from tlcli.backbones import imagenet
from tlcli.backbones.pretrained import create_backbone
from tlcli.config import DataConfig, EvaluateConfig, options_of
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.table import ImageTable
from tlcli.engine.runtime import Runtime, choose_runtime, describe_environment
from tlcli.errors import ConfigError, DataError, ModelError
from tlcli.models.saved_model import load_network
from tlcli.recipes.feature_folder import head_run_of
from tlcli.recipes.image_data import (
    BatchReader,
    RunImages,
    absolute_spec,
    default_workers,
    load_images,
    load_unsplit,
    write_skipped,
)
from tlcli.recipes.judging import judge, match_classes
from tlcli.recipes.talk import Talk
from tlcli.results.records import EvalReport
from tlcli.results.run_dir import RunDirectory, check_free, default_run_path

RUNS = Path("runs")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was found, and where the files are."""

    report: EvalReport
    folder: Path
    titles: Mapping[str, str]
    """Readable names of classes, possibly of none."""


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
    if config.run is not None:
        return _evaluate_run(
            RunDirectory.open(head_run_of(Path(config.run).expanduser())), config, talk=talk
        )
    return _evaluate_pretrained(config, talk=talk)


def _evaluate_run(folder: RunDirectory, config: EvaluateConfig, *, talk: Talk) -> Evaluation:
    record = folder.read_record()
    if record["status"] != "finished":
        talk.warn(f"This run is {record['status']}: its best epoch so far is evaluated.")
    config = _as_trained(config, record["config"])
    network, description = load_network(folder.path)
    judged = _Judged(
        network=network,
        name=description.model,
        class_names=description.classes,
        preprocessing=description.preprocessing,
        record={},
    )
    if config.data is not None:
        images, split = _given_data(config.data, config, talk=talk)
        # two folders of one name must not overwrite each other's evaluation
        name = f"{_data_name(config.data)}-{images.table.fingerprint[:8]}-{split}"
    else:
        images, split = _own_data(folder, config, talk=talk)
        name = split
    target = folder.evaluation_dir(name)
    report = _judge(judged, images, split=split, folder=target, config=config, talk=talk)
    return Evaluation(report=report, folder=target, titles=_titles(images.table, judged))


def _as_trained(config: EvaluateConfig, kept: Mapping[str, Any]) -> EvaluateConfig:
    """Fill what was not given with the run's own precision and seed, as it judged itself."""
    runtime = replace(
        config.runtime,
        amp=kept["amp"] if config.runtime.amp is None else config.runtime.amp,
        channels_last=config.runtime.channels_last and kept["channels_last"],
    )
    if runtime.amp_dtype == "auto" and runtime.amp is not False:
        runtime = replace(runtime, amp_dtype=kept["amp_dtype"])
    return replace(config, runtime=runtime, seed=config.seed or kept["seed"])


def _evaluate_pretrained(config: EvaluateConfig, *, talk: Talk) -> Evaluation:
    assert config.model is not None
    path = _output_path(config)
    check_free(path, overwrite=config.overwrite)
    judged = _pretrained(config, talk=talk)
    data = config.data or DataConfig.data
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
            },
            environment=describe_environment(_runtime(config)),
            seed=config.seed or 0,
            results={split: report.summary()},
        )
    return Evaluation(report=report, folder=target, titles=_titles(table, judged))


def _pretrained(config: EvaluateConfig, *, talk: Talk) -> _Judged:
    weights = config.weights or "default"
    if weights == "none":
        raise ConfigError("--weights none: a random head knows no classes to evaluate.")
    backbone = create_backbone(config.model or "", weights=weights, offline=config.offline)
    talk.note(f"Model: {backbone.name}, weights {backbone.weights.path}.")
    for remark in backbone.weights.remarks:
        talk.note(f"Weights: {remark}")
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
    kept = folder.read_record()["config"]
    data = DataConfig(
        data=kept["data"],
        val_split=kept["val_split"],
        test_split=kept["test_split"],
        limit=kept["limit"],
        on_bad_image=kept["on_bad_image"],
    )
    images = load_images(data, seed=kept["seed"], saved_split=folder.splits_path, talk=talk)
    split = config.split or ("test" if "test" in images.table.splits else "val")
    if split == "all":
        raise ConfigError("--split all would mix images trained on with others; name one split.")
    if config.limit:
        raise ConfigError("--limit has no effect on a run's own data: its limit is kept.")
    if split == "val":
        talk.warn("val chose this model among others: as an estimate it is flattering.")
    return images, split


def _given_data(spec: str, config: EvaluateConfig, *, talk: Talk) -> tuple[RunImages, str]:
    """Load other data as it is: its own splits, or all of it where it has none."""
    images = load_unsplit(
        spec, limit=config.limit, on_bad_image=config.on_bad_image, seed=config.seed or 0, talk=talk
    )
    table = images.table
    if config.split == "all":
        table = table.with_items(table.items.assign(split="unsplit"))
    parts = [split for split in ("test", "val", "unsplit", "train") if split in table.splits]
    split = config.split if config.split and config.split != "all" else parts[0]
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
    runtime = _runtime(config)
    runtime.place(judged.network)
    reader = BatchReader(
        table=images.table,
        preprocessing=judged.preprocessing,
        batch_size=config.batch_size,
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


def _runtime(config: EvaluateConfig) -> Runtime:
    return choose_runtime(
        config.runtime.device,
        amp=config.runtime.amp,
        amp_dtype=config.runtime.amp_dtype,
        channels_last=config.runtime.channels_last,
        seed=config.seed or 0,
    )


def _output_path(config: EvaluateConfig) -> Path:
    if config.output is not None:
        return Path(config.output).expanduser()
    architecture = (config.model or "").rpartition("/")[2]
    return default_run_path(
        RUNS, f"evaluate-{architecture}-{_data_name(config.data or DataConfig.data)}"
    )


def _data_name(spec: str) -> str:
    name = Path(absolute_spec(spec).rpartition(":")[2]).stem
    if not name:
        raise DataError(f"--data '{spec}' has no name of its own; give --output.")
    return name
