"""`tlcli extract-features`."""

from collections.abc import Mapping
from typing import Any

import typer

from tlcli.cli import data_options as d
from tlcli.cli import feature_options as f
from tlcli.cli import options as o
from tlcli.cli import output as out
from tlcli.cli.option_files import chosen_options, is_given
from tlcli.cli.progress import TerminalTalk
from tlcli.config import (
    DataConfig,
    ExtractConfig,
    FeaturesConfig,
    ModelConfig,
    ProbeHeadConfig,
    RuntimeConfig,
)
from tlcli.results.counted import counted

_PARTS = {
    "extract": "features",
    "head": "solving heads",
    "evaluation": "evaluation",
    "few_shot": "few-shot draws",
}
"""What is told of the seconds of a summary, in this order."""


def extract_features(
    ctx: typer.Context,
    data: o.DataOpt = None,
    val_split: o.ValSplitOpt = DataConfig.val_split,
    test_split: o.TestSplitOpt = DataConfig.test_split,
    limit: o.LimitOpt = DataConfig.limit,
    on_bad_image: o.OnBadImageOpt = DataConfig.on_bad_image,
    fold: d.KFoldOpt = DataConfig.fold,
    classes: d.ClassesOpt = DataConfig.classes,
    path_column: d.PathColumnOpt = DataConfig.path_column,
    label_column: d.LabelColumnOpt = DataConfig.label_column,
    split_column: d.SplitColumnOpt = DataConfig.split_column,
    group_column: d.GroupColumnOpt = DataConfig.group_column,
    model: f.ModelsOpt = None,
    weights: f.ModelsWeightsOpt = ModelConfig.weights,
    offline: o.OfflineOpt = ModelConfig.offline,
    mean: o.MeanOpt = ModelConfig.mean,
    std: o.StdOpt = ModelConfig.std,
    input_size: o.InputSizeOpt = ModelConfig.input_size,
    in_channels: o.InChannelsOpt = ModelConfig.in_channels,
    layer: f.LayerOpt = FeaturesConfig.layer,
    pool: f.PoolOpt = FeaturesConfig.pool,
    dtype: f.DtypeOpt = FeaturesConfig.dtype,
    views: f.ViewsOpt = FeaturesConfig.views,
    augment: o.AugmentOpt = FeaturesConfig.augment,
    batch_size: f.ExtractBatchOpt = FeaturesConfig.batch_size,
    fold_norm: f.FoldNormOpt = FeaturesConfig.fold_norm,
    verify: f.VerifyOpt = FeaturesConfig.verify,
    shard: f.ShardOpt = FeaturesConfig.shard,
    head: f.ProbeKindOpt = ProbeHeadConfig.head,
    no_head: f.NoHeadOpt = ExtractConfig.no_head,
    penalties: f.PenaltiesOpt = ProbeHeadConfig.penalties,
    shots: f.ShotsOpt = ProbeHeadConfig.shots,
    repeats: f.RepeatsOpt = ProbeHeadConfig.repeats,
    monitor: f.ProbeMonitorOpt = ProbeHeadConfig.monitor,
    seed: o.SeedOpt = ExtractConfig.seed,
    device: o.DeviceOpt = RuntimeConfig.device,
    num_workers: f.ThreadsOpt = RuntimeConfig.num_workers,
    amp: o.AmpOpt = RuntimeConfig.amp,
    amp_dtype: o.AmpDtypeOpt = RuntimeConfig.amp_dtype,
    channels_last: o.ChannelsLastOpt = RuntimeConfig.channels_last,
    output: f.FeaturesOutputOpt = ExtractConfig.output,
    overwrite: f.FeaturesOverwriteOpt = ExtractConfig.overwrite,
    config: o.ConfigOpt = None,
    json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    verbose: o.VerboseOpt = False,
) -> None:
    """Compute the features of frozen networks once, and solve a head on them.

    Example: tlcli extract-features --data photos/ --model timm/resnet18
    """
    chosen = ExtractConfig.from_options(chosen_options(ctx))
    if verbose:
        out.let_libraries_speak()
    from tlcli.engine.distributed import workers_of_torchrun  # torch is loaded only now
    from tlcli.recipes import extract_features as recipe

    talk = TerminalTalk(quiet=quiet, silent=not workers_of_torchrun().is_first)
    for option, value in (("data", chosen.data.data), ("model", chosen.model.model)):
        if not is_given(ctx, option):
            talk.note(f"No --{option} given: using {value}.")
    summary = recipe.run(chosen, talk=talk)
    if summary is None:
        return
    if json:
        out.document(summary)
    elif "leaderboard" in summary:
        _show_leaderboard(summary)
    else:
        for one in summary.get("runs", [summary]):
            show_probe(one)


def show_probe(summary: Mapping[str, Any]) -> None:
    """Print what came of the features of one model."""
    if summary["status"] == "unfinished":
        missing = summary["missing_shards"]
        verb = "is" if missing == 1 else "are"
        out.line(f"{counted(missing, 'shard')} {verb} missing in {summary['store']}.")
        return
    features, cache = summary["features"], summary["trunk_cache"]
    if summary["best"] is not None:
        best = dict(summary["best"])
        name = next(iter(best))
        out.results(summary["results"], chosen_by=f"{best['metric']} ({name} {best[name]:.3g})")
    if summary.get("few_shot"):
        _show_few_shot(summary["few_shot"])
    dims = ", ".join(f"{name} {'x'.join(map(str, dim))}" for name, dim in features["dims"].items())
    out.line(
        f"Features: {counted(features['rows'], 'row')} ({dims}; {features['dtype']}), "
        f"{cache['bytes'] / 1e6:.1f} MB; {_origins(cache)}. Time: {_times(summary['seconds'])}."
    )
    out.line(f"Store: {summary['store']}")
    if summary["run"]:
        out.line(f"Run folder: {summary['run']}")
    out.line(f"Next: {summary['next']}")


def _origins(cache: Mapping[str, Any]) -> str:
    """Say how many rows were found, were computed, and are those of equal images."""
    copies = cache.get("copies", 0)
    origins = f"{cache['hits'] - copies:,} were there, {cache['misses']:,} computed"
    return origins + (f", {counted(copies, 'exact copy', 'exact copies')}" if copies else "")


def _times(seconds: Mapping[str, float]) -> str:
    """Say what the parts of this command took; those that it left out are not told."""
    return ", ".join(
        f"{name} {seconds[part]:.1f} s" for part, name in _PARTS.items() if seconds.get(part)
    )


def _show_few_shot(curve: list[dict[str, Any]]) -> None:
    out.table(
        f"few-shot, {curve[0]['split']} top-1, {curve[0]['repeats']} draws",
        columns=["images per class ", "top1 ", "95 % interval "],
        rows=[
            [
                str(point["shots"]),
                out.percent(point["top1"]),
                out.interval("top1", {"top1": point["interval"]} if point["interval"] else {}),
            ]
            for point in curve
        ],
    )


def _show_leaderboard(summary: Mapping[str, Any]) -> None:
    rows = summary["leaderboard"]
    out.table(
        "Ranked by validation top-1, with 95 % intervals; behind: the first, on the same images",
        columns=[
            "model",
            "val ",
            "",
            "behind ",
            "test ",
            "",
            "seconds ",
            "parameters ",
            "features ",
        ],
        rows=[
            [
                row["model"],
                *_with_interval(row, "val"),
                _behind(row) if number else "-",
                *_with_interval(row, "test"),
                f"{row['seconds']:.1f}",
                f"{row['parameters']:,}",
                f"{row['feature_dim']:,}",
            ]
            for number, row in enumerate(rows)
        ],
    )
    for row in rows:
        out.line(f"Run folder: {row['run']}")


def _with_interval(row: Mapping[str, Any], split: str) -> tuple[str, str]:
    value = row[f"{split}/top1"]
    if value is None:
        return "-", ""
    low, high = row[f"{split}/low"], row[f"{split}/high"]
    return out.percent(value), f"{100 * low:.1f}..{100 * high:.1f}"


def _behind(row: Mapping[str, Any]) -> str:
    points = [100 * row[name] for name in ("behind", "behind/low", "behind/high")]
    return f"{points[0]:.1f} ({points[1]:.1f}..{points[2]:.1f})"
