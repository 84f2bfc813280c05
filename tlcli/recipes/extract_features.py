"""`tlcli extract-features`: embeddings computed once, and a head solved on them."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tlcli.backbones.catalog import parse_backbone_name
from tlcli.backbones.pretrained import choose_weights
from tlcli.config import ExtractConfig, ModelConfig, options_of
from tlcli.data.content_ids import equal_rows
from tlcli.data.exact_copies import copies_in
from tlcli.data.split_file import write_split
from tlcli.data.store.tensor_store import ShardPlan, TensorStore
from tlcli.engine.cpu_memory import return_freed_memory
from tlcli.engine.distributed import Workers, together, workers_of_torchrun
from tlcli.engine.extraction import PLAIN
from tlcli.engine.interrupts import StopRequested, StopSignals
from tlcli.engine.runtime import describe_environment
from tlcli.errors import ConfigError, FrozenMovedError, InterruptedRunError
from tlcli.models.frozen_proof import FrozenReport, check_frozen, digests_of
from tlcli.models.saved_model import save_weights, write_description
from tlcli.recipes.extraction_job import ExtractionJob, check_models, prepare_extraction
from tlcli.recipes.feature_folder import (
    BACKBONE,
    FeatureFolder,
    check_free_for_features,
    head_path,
)
from tlcli.recipes.image_data import (
    absolute_weights,
    load_images,
    require_parts,
    warn_of_copies,
    with_absolute_paths,
    write_copies,
    write_skipped,
)
from tlcli.recipes.leaderboard import assumed_preprocessing, leaderboard
from tlcli.recipes.next_command import next_after_features
from tlcli.recipes.probing import check_probe, probe_features
from tlcli.recipes.store_filling import (
    EVERYTHING,
    Share,
    compute_shards,
    plan_shards,
    rest_of,
    rows_of,
    share_of,
    verify_rows,
)
from tlcli.recipes.talk import Talk
from tlcli.results.atomic import TEXT_ERRORS, exclusive, make_folder
from tlcli.results.counted import counted
from tlcli.results.records import SCHEMA_VERSION
from tlcli.results.run_dir import RunDirectory


def run(config: ExtractConfig, *, talk: Talk) -> dict[str, Any] | None:
    """Extract features with every model of `--model` and solve a head on each.

    Returns:
        What `extract-features --json` prints: the summary of the one model, or the leaderboard of
        several; None in all but the first process of torchrun, and while shards are missing.

    Raises:
        TlcliError: For everything a user or the machine can get wrong; see `tlcli.errors`.
    """
    check_probe(config.probe)
    config = replace(config, data=with_absolute_paths(config.data))
    models = split_models(config.model)
    folders = _folders(config, models)
    workers = workers_of_torchrun()
    shard = parse_shard(config.features.shard)
    share = share_of(shard, workers=workers)
    check_models(config.features, models)
    with together(workers):
        images = load_images(
            config.data,
            seed=config.seed,
            find_copies=False,
            offline=config.model.offline,
            talk=talk,
        )
        if not config.no_head:
            require_parts(images.table)
        summaries = []
        for model, folder in zip(models, folders, strict=True):
            job = prepare_extraction(
                config, model, images=images, workers=workers, folder=folder, talk=talk
            )
            return_freed_memory()
            summary = _extract(job, share, workers=workers, in_array=shard is not None, talk=talk)
            summaries += [summary] if summary else []
    if len(summaries) < len(models):
        return None
    if len(models) == 1:
        return summaries[0]
    if config.no_head or shard is not None:
        return {"schema_version": SCHEMA_VERSION, "runs": summaries}
    above = Path(config.output).expanduser() if config.output else None
    if remark := assumed_preprocessing(summaries):
        talk.note(remark)
    return leaderboard(summaries, seed=config.seed, folder=above)


def split_models(model: ModelConfig) -> list[ModelConfig]:
    """Return one entry per model of `--model A,B,C`, each with its own `--weights`.

    Raises:
        ConfigError: If the numbers of models and weights do not fit, or a model is named twice.
        TlcliError: If a model or its weights do not exist, before anything is computed.
    """
    names = model.model.split(",")
    if len(names) > 1 and (model.mean, model.std) != (None, None):
        raise ConfigError(
            f"--mean and --std are those of one network, --model names {len(names)}: extract with "
            "them one by one and compare."
        )
    weights = model.weights.split(",") if len(names) > 1 else [model.weights]
    if len(weights) not in (1, len(names)):
        raise ConfigError(
            f"--weights names {len(weights)} weights for {len(names)} models: give one for all, "
            "or one for each in the same order."
        )
    each = weights * len(names) if len(weights) == 1 else weights
    models = [
        replace(model, model=name.strip(), weights=tag.strip())
        for name, tag in zip(names, each, strict=True)
    ]
    meant = [parse_backbone_name(one.model) for one in models]
    if len(set(meant)) < len(meant):
        raise ConfigError(f"--model {model.model} names a model twice.")
    kinds = [
        choose_weights(name, one.weights).kind for one, name in zip(models, meant, strict=True)
    ]
    if "file" in kinds and len(weights) < len(models):
        raise ConfigError(
            f"--weights names 1 weights file for {len(models)} models: give one for each, in the "
            "same order."
        )
    return [replace(one, weights=absolute_weights(one.weights)) for one in models]


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Read `--shard i/n`, i counted from 1.

    Raises:
        ConfigError: If it is not of that form.
    """
    if text is None:
        return None
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"--shard '{text}' is not understood: write 1/8, 2/8 up to 8/8.")
    return int(number), int(count)


def _folders(config: ExtractConfig, models: Sequence[ModelConfig]) -> list[Path | None]:
    """Return where the features of each model go; None is the place in the cache.

    Raises:
        ConfigError: If something else lies there.
    """
    if config.output is None:
        return [None] * len(models)
    path = Path(config.output).expanduser()
    if len(models) == 1:
        folders = [path]
    else:
        names = [str(parse_backbone_name(one.model)) for one in models]
        short = [one.model.rpartition("/")[2] for one in models]
        folders = [
            path / (name if short.count(name) == 1 else full.replace("/", "-"))
            for name, full in zip(short, names, strict=True)
        ]
    for folder in folders:
        check_free_for_features(folder)
    return list(folders)


def _extract(
    job: ExtractionJob, share: Share, *, workers: Workers, in_array: bool, talk: Talk
) -> dict[str, Any] | None:
    """Fill the store of one model; the first process closes it and solves the head."""
    started = time.perf_counter()
    if job.config.overwrite and workers.is_first:
        RunDirectory(path=job.path).record_path.unlink(missing_ok=True)
        TensorStore.delete(job.path)
    workers.wait()
    store = TensorStore.open_or_create(job.path, key=job.key)
    if workers.is_first:
        store.adopt(plan_shards(job, store))
        for remark in store.remarks:
            talk.warn(remark)
    workers.wait()
    store = TensorStore.open(job.path)
    plans = plan_shards(job, store)
    lacking = rows_of(rest_of(plans, store, share=EVERYTHING))
    workers.wait()  # until all have counted what is there
    rest = rest_of(plans, store, share=share)
    rows = rows_of(rest)
    talk.note(f"Store: {job.path}: {rows:,} of {counted(len(job.ids), 'row')} to compute.")
    _compute(job, store, plans, rest=rest, talk=talk)
    workers.wait()
    seconds = time.perf_counter() - started
    if rows:
        talk.note(
            f"Computed {counted(rows, 'row')} in {seconds:.1f} s ({rows / seconds:.1f} images/s)."
        )
    if not workers.is_first:
        return None
    missing = sum(not store.is_written(plan) for plan in plans)
    if missing:
        verb = "is" if missing == 1 else "are"
        whole = counted(len(plans), "shard")
        talk.note(f"{missing} of {whole} {verb} still to be written by other jobs.")
        return _unfinished(job.path, missing=missing)
    with exclusive(job.path):
        store.seal(plans)
        folder = _close(job, store, computed=lacking, seconds=seconds, talk=talk)
    if job.config.no_head or in_array:
        return summary_of(job.path)
    return _solve_head(job, folder, talk=talk)


def _solve_head(job: ExtractionJob, folder: FeatureFolder, *, talk: Talk) -> dict[str, Any]:
    """Solve the head of the options; heads of other options stay beside it."""
    path = head_path(folder, job.config.probe)
    summary = probe_features(
        folder,
        job.config.probe,
        seed=job.config.seed,
        path=path,
        overwrite=True,
        command="extract-features",
        talk=talk,
    )
    RunDirectory(path=job.path).update(head=path.name)
    return summary


def _unfinished(path: Path, *, missing: int) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "unfinished",
        "run": None,
        "store": str(path),
        "missing_shards": missing,
    }


def _compute(
    job: ExtractionJob,
    store: TensorStore,
    plans: Sequence[ShardPlan],
    *,
    rest: Sequence[ShardPlan],
    talk: Talk,
) -> None:
    with StopSignals() as signals:
        try:
            compute_shards(job, store, rest, talk=talk, check_stop=signals.check)
        except StopRequested as error:
            total = len(job.ids) - job.copies
            kept = total - rows_of(rest_of(plans, store, share=EVERYTHING))
            raise InterruptedRunError(
                f"Stopped; {kept:,} of {counted(total, 'row')} are kept in {job.path}. The same "
                "command goes on from there.",
                signal_number=signals.received or 0,
            ) from error


def _close(
    job: ExtractionJob, store: TensorStore, *, computed: int, seconds: float, talk: Talk
) -> FeatureFolder:
    """Write everything beside the shards; `run.json` last, it says that all is there."""
    run = RunDirectory(path=job.path)
    all_seconds = seconds if computed else _former_seconds(run)
    frozen = _prove_frozen(job)
    run.record_path.unlink(missing_ok=True)
    if job.config.features.verify:
        verify_rows(job, store, share=job.config.features.verify, talk=talk)
    store.write_items(job.items, ids=job.ids)
    table = job.images.table
    write_split(job.images.whole, job.path / "splits.csv")
    write_skipped(job.images, job.path)
    make_folder(job.path / BACKBONE)
    save_weights(job.backbone.network, job.path / BACKBONE / "model.safetensors")
    write_description(job.description, job.path / BACKBONE / "model.json")
    plain = (job.items["view"] == PLAIN).to_numpy()
    groups, items = equal_rows(job.ids[plain]), table.items
    copies = copies_in(groups, paths=list(items["path"]), splits=list(items["split"]))
    warn_of_copies(copies, talk=talk)
    write_copies(copies, job.path)
    images = replace(job.images, copies=copies)
    run.write_config_toml(_lasting_options(job))
    run.write_record(
        {
            "status": "finished",
            "kind": "features",
            "command": "extract-features",
            "config": {**options_of(job.config), **vars(job.model)},
            "model": job.backbone.record(),
            "classes": list(table.classes),
            "preprocessing": job.backbone.preprocessing.to_json(),
            "data": images.to_json(),
            "environment": describe_environment(job.runtime),
            "seed": job.config.seed,
            "features": {**_features_json(job), "seconds": all_seconds},
            "frozen": frozen.to_json(),
            "trunk_cache": {
                "hits": len(job.ids) - computed,
                "misses": computed,
                "copies": job.copies,
                "bytes": store.size(),
            },
            "seconds": {"extract": seconds, "total": seconds},
        }
    )
    places = store.locate(job.ids)
    return FeatureFolder(
        path=job.path,
        store=store,
        items=job.items.assign(shard=places[:, 0], row=places[:, 1]),
        splits=run.splits_path.read_text(encoding="utf-8", errors=TEXT_ERRORS),
        record=run.read_record(),
    )


def _features_json(job: ExtractionJob) -> dict[str, Any]:
    return {
        "layers": list(job.dims) if job.config.features.layer else [],
        "pool": job.config.features.pool,
        "dims": {name: list(shape) for name, shape in job.dims.items()},
        "dtype": job.config.features.dtype,
        "rows": len(job.ids),
        "threads": job.threads,
        "batch_size": job.batch_size,
    }


def _former_seconds(run: RunDirectory) -> float:
    """Return what the last run took that computed rows, for one that computes none."""
    if not run.record_path.exists():
        return 0.0
    record = run.read_record()
    return float(record["features"].get("seconds", record["seconds"]["extract"]))


def _lasting_options(job: ExtractionJob) -> dict[str, Any]:
    """Return what `--config` reads, for the one model: where it went and who shared it is left."""
    options = {**options_of(job.config), **vars(job.model)}
    left_out = ("output", "overwrite", "shard")
    return {k: v for k, v in options.items() if v is not None and k not in left_out}


def _prove_frozen(job: ExtractionJob) -> FrozenReport:
    network = job.backbone.network
    report = check_frozen(
        job.digests,
        after=digests_of(network.state_dict().items()),
        parameters=[name for name, _ in network.named_parameters()],
    )
    # the extractor may work on a folded copy of the network
    after = digests_of(job.embedder.extractor.state_dict().items())
    moved = check_frozen(job.working_digests, after=after, parameters=()).changed
    if moved or report.changed:
        names = [*moved, *report.changed]
        raise FrozenMovedError(
            f"{counted(len(names), 'tensor')} moved during extraction, the first is '{names[0]}'. "
            "Please report this with the model's name."
        )
    return report


def summary_of(path: Path) -> dict[str, Any]:
    """Return what `--json` prints of features without a head."""
    record = RunDirectory.open(path).read_record()
    keys = ("status", "model", "features", "frozen", "trunk_cache", "seconds")
    return {
        "schema_version": SCHEMA_VERSION,
        "run": None,
        "store": str(path),
        "best": None,
        "results": {},
        **{key: record[key] for key in keys},
        "next": next_after_features(record, store=path),
    }
