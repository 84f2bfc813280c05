"""`tlcli finetune`: from a pretrained network and a user's images to a run folder."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from tlcli.backbones.catalog import parse_backbone_name
from tlcli.backbones.pretrained import (
    NO_WEIGHTS,
    WeightsChoice,
    build_untrained,
    choose_weights,
    find_weights,
    with_pixels,
)
from tlcli.backbones.protocol import Backbone, LoadedWeights
from tlcli.config import FinetuneConfig, options_of
from tlcli.data.preprocessing import RGB_CHANNELS
from tlcli.data.split_file import write_split
from tlcli.engine.interrupts import StopRequested, StopSignals
from tlcli.engine.runtime import choose_runtime, describe_environment
from tlcli.models.saved_model import write_description
from tlcli.recipes.classifier_training import prepare_training, train_loss_differences
from tlcli.recipes.feature_places import find_features
from tlcli.recipes.finetune_job import (
    Job,
    load_backbone,
    plan_job,
    prepare_job,
    resolved_options,
    warn_of_frozen_input,
    with_default_stages,
    with_new_head,
)
from tlcli.recipes.head_in_network import find_starting_head, start_from_head
from tlcli.recipes.image_data import (
    RunImages,
    absolute_weights,
    load_images,
    require_parts,
    tell_of_channels,
    with_absolute_paths,
    write_copies,
    write_skipped,
)
from tlcli.recipes.judging import judge
from tlcli.recipes.learning_remarks import learning_remark
from tlcli.recipes.lr_search import with_found_rate
from tlcli.recipes.run_records import (
    is_finished,
    keep_time_budget,
    phases_json,
    record_end,
    record_proof,
    run_path,
    run_summary,
    run_to_resume,
    write_options,
)
from tlcli.recipes.seen_images import check_held_out
from tlcli.recipes.talk import Talk
from tlcli.recipes.training_plan import PlanReport, describe_plan
from tlcli.recipes.trunk_training import TrunkTraining
from tlcli.results.figures import draw_training_curves
from tlcli.results.records import EvalReport, Row
from tlcli.results.run_dir import RunDirectory, check_free


def dry_run(config: FinetuneConfig, *, talk: Talk) -> PlanReport:
    """Return what `run` would train, without weights, without a step, without writing anything."""
    config = _with_absolute_paths(config)
    name = parse_backbone_name(config.model.model)
    choice = choose_weights(name, config.model.weights)
    backbone = _planned_backbone(config, choice, talk=talk)
    config = with_default_stages(config, backbone=backbone, former=None, talk=talk)
    images = load_images(
        config.data, seed=config.train.seed, offline=config.model.offline, talk=talk
    )
    require_parts(images.table)
    classes = len(images.table.classes)
    model = with_new_head(backbone, config, num_classes=classes)
    _check_init_head(config, model.network, backbone, images=images, talk=talk)
    plan = plan_job(model, config, backbone=backbone, talk=talk)
    warn_of_frozen_input(plan, model=model, backbone=backbone, talk=talk)
    tell_of_channels(images.table, channels=config.model.in_channels, talk=talk)
    if config.train.lr == "auto":
        talk.note("--lr auto: the rates below are those of the default; a run looks for its own.")
    return describe_plan(
        plan, model=model, train=config.train, name=str(name), weights=str(choice), classes=classes
    )


def _planned_backbone(config: FinetuneConfig, choice: WeightsChoice, *, talk: Talk) -> Backbone:
    """Build the network of a run; its weights are read only where they could prove a mistake."""
    name, own = parse_backbone_name(config.model.model), config.model
    is_here = choice.tag is None or find_weights(name, choice.tag) is not None
    if not is_here:
        then = "and --offline forbids to fetch them" if own.offline else "a run fetches them"
        talk.note(f"Weights {choice.tag} of {name} are not on this machine; {then}.")
    runtime = choose_runtime(
        "cpu", amp=None, amp_dtype="auto", channels_last=True, seed=config.train.seed
    )
    runtime.seed_step(0, 0)  # random weights are those of the run
    if choice.path or (_starts_from_head(config) and is_here):
        return load_backbone(replace(own, offline=True), talk=talk)
    untrained = build_untrained(
        name, weights=choice, input_size=own.input_size, in_channels=own.in_channels
    )
    is_adapted = choice.tag is not None and own.in_channels != RGB_CHANNELS  # published for RGB
    adapted = (untrained.stages[0].name,) if is_adapted else ()
    loaded = LoadedWeights(tag=choice.tag or NO_WEIGHTS, adapted_layers=adapted)
    named = replace(untrained, weights=loaded)
    return with_pixels(named, mean=own.means, std=own.stds)


def _check_init_head(
    config: FinetuneConfig,
    network: nn.Module,
    backbone: Backbone,
    *,
    images: RunImages,
    talk: Talk,
) -> None:
    """Refuse the head that a run would refuse; without weights only their name is compared."""
    if not _starts_from_head(config):
        return
    start, classes = Path(config.freezing.init_head or ""), images.table.classes
    if backbone.weights.sha256 or backbone.weights.tag == NO_WEIGHTS:
        head = start_from_head(network, start, backbone=backbone, classes=classes, talk=talk)
    else:
        head = find_starting_head(start, backbone=backbone, classes=classes, talk=talk).path
    check_held_out(head, images.whole, config=config)


def _starts_from_head(config: FinetuneConfig) -> bool:
    """Say whether a head is to be taken over now: a run that goes on took it when it began."""
    return config.freezing.init_head is not None and not config.output.resume


def run(config: FinetuneConfig, *, talk: Talk) -> dict[str, Any]:
    """Fine-tune a network and return what `finetune --json` prints.

    Raises:
        TlcliError: For everything a user or the machine can get wrong; see `tlcli.errors`.
    """
    config = _with_absolute_paths(config)
    path = run_path(config.output, name=_default_name(config))
    former = run_to_resume(config.output, path, talk=talk)
    budget = config.train.max_time
    if former is not None and is_finished(former, max_time=budget, talk=talk):
        return run_summary(former)
    if former is None:
        check_free(path, overwrite=config.output.overwrite)
    job = prepare_job(config, former=former, talk=talk)
    folder = former or RunDirectory.create(path, overwrite=config.output.overwrite)
    with folder.status_kept():
        if former is None:
            job = with_found_rate(folder, job, talk=talk)
            _write_start(folder, job, given=config)
        else:
            keep_time_budget(folder, max_time=budget)
        _train_and_judge(folder, job, is_resumed=former is not None, talk=talk)
    return run_summary(folder)


def _with_absolute_paths(config: FinetuneConfig) -> FinetuneConfig:
    """Let the options mean the same from any folder, as `config.toml` has to."""
    head = config.freezing.init_head
    if head is not None and not config.output.resume:  # what a run began with may be gone since
        head = str(find_features(head).resolve())
    return replace(
        config,
        data=with_absolute_paths(config.data),
        model=replace(config.model, weights=absolute_weights(config.model.weights)),
        freezing=replace(config.freezing, init_head=head),
    )


def _default_name(config: FinetuneConfig) -> str:
    architecture = parse_backbone_name(config.model.model).architecture
    return f"finetune-{architecture}-{Path(config.data.data.rpartition(':')[2]).stem}"


def _write_start(folder: RunDirectory, job: Job, *, given: FinetuneConfig) -> None:
    """Write all that is known before the first step; `given` lacks what followed from it."""
    write_split(job.images.whole, folder.splits_path)
    write_description(job.description, folder.model_json_path)
    write_options(folder, options_of(given))
    write_skipped(job.images, folder.path)
    write_copies(job.images.copies, folder.path)
    folder.update(
        kind="multi-label" if job.images.table.is_multi_label else "classification",
        command="finetune",
        config=resolved_options(job),
        model=job.backbone.record(),
        classes=list(job.images.table.classes),
        preprocessing=job.backbone.preprocessing.to_json(),
        data=job.images.to_json(),
        environment=describe_environment(job.runtime),
        seed=job.config.train.seed,
        phases=phases_json(job.plan.phases),
    )


def _train_and_judge(folder: RunDirectory, job: Job, *, is_resumed: bool, talk: Talk) -> None:
    with StopSignals() as signals:
        training, images = prepare_training(folder, job, signals=signals, talk=talk)
        history = training.go_on() if is_resumed else training.start(job.seconds_search)
        try:
            with training.saved_if_stopped(history, signals):
                if job.config.freezing.init_head:
                    training.judge_start(history)
                training.train(history, signals=signals)
            record_proof(folder, training.finish(history))
            if rows := folder.read_metrics():
                curve = "val/map" if job.images.table.is_multi_label else "val/top1"
                path = folder.path / "training_curves.png"
                draw_training_curves(path, rows=rows, metric=curve)
            started = time.perf_counter()
            reports = _judge_best(folder, job, images=images, signals=signals)
        except StopRequested as error:
            raise training.interrupted(signals) from error
        finally:
            images.close()
    record_end(
        folder,
        best=history.best_json(job.config.monitor),
        stopped=history.stopped,
        reports=reports,
        trunk_cache=images.record(),
        seconds={
            "prepare": job.seconds_prepare,
            "train": history.seconds_train,
            "eval": history.seconds_eval,
            "final_eval": time.perf_counter() - started,
        },
    )
    _tell_of_learning(folder.read_metrics(), job, talk=talk)


def _tell_of_learning(rows: Sequence[Row], job: Job, *, talk: Talk) -> None:
    table = job.images.table
    remark = learning_remark(
        rows,
        num_classes=0 if table.is_multi_label else len(table.classes),
        is_plain_loss=not train_loss_differences(job.config),
        is_partly_frozen=len(job.plan.phases[-1].trained) < len(job.model.stages),
    )
    if remark:
        talk.note(remark)


def _judge_best(
    folder: RunDirectory, job: Job, *, images: TrunkTraining, signals: StopSignals
) -> dict[str, EvalReport]:
    """Judge the best epoch on the part that chose it and on the one that was kept for the end."""
    return {
        split: judge(
            images.judged,
            class_names=job.images.table.classes,
            titles=job.images.table.class_titles,
            reader=images,
            split=split,
            folder=folder.evaluation_dir(split),
            check_stop=signals.check,
        )
        for split in ("val", "test")
        if split in job.images.table.splits
    }
