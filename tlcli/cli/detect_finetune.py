"""`tlcli detect-finetune`."""

import typer

from tlcli.cli import box_options as b
from tlcli.cli import options as o
from tlcli.cli import output as out
from tlcli.cli import training_options as t
from tlcli.cli import trunk_options as u
from tlcli.cli.option_files import chosen_options, is_given, is_resumed
from tlcli.cli.progress import TerminalTalk
from tlcli.cli.training_output import show_plan, show_training
from tlcli.config import (
    BoxDataConfig,
    BoxTrainConfig,
    DetectFinetuneConfig,
    DetectorConfig,
    ImageCacheConfig,
    OutputConfig,
    RuntimeConfig,
    UnfreezeConfig,
)


def detect_finetune(
    ctx: typer.Context,
    data: b.BoxDataOpt = None,
    val_split: o.ValSplitOpt = BoxDataConfig.val_split,
    test_split: o.TestSplitOpt = BoxDataConfig.test_split,
    limit: o.LimitOpt = BoxDataConfig.limit,
    on_bad_image: o.OnBadImageOpt = BoxDataConfig.on_bad_image,
    on_bad_box: b.OnBadBoxOpt = BoxDataConfig.on_bad_box,
    model: b.DetectorOpt = None,
    backbone: b.BackboneOpt = DetectorConfig.backbone,
    weights: b.DetectorWeightsOpt = DetectorConfig.weights,
    offline: o.OfflineOpt = DetectorConfig.offline,
    mean: o.MeanOpt = DetectorConfig.mean,
    std: o.StdOpt = DetectorConfig.std,
    image_size: b.ImageSizeOpt = DetectorConfig.image_size,
    strides: b.StridesOpt = DetectorConfig.strides,
    fpn_channels: b.FpnChannelsOpt = DetectorConfig.fpn_channels,
    anchor_size: b.AnchorSizeOpt = DetectorConfig.anchor_size,
    unfreeze: o.BoxUnfreezeOpt = UnfreezeConfig.unfreeze,
    schedule: o.ScheduleOpt = UnfreezeConfig.schedule,
    epochs: o.EpochsOpt = BoxTrainConfig.epochs,
    batch_size: o.BatchSizeOpt = BoxTrainConfig.batch_size,
    lr: b.BoxLrOpt = BoxTrainConfig.lr,
    backbone_lr: b.BoxBackboneLrOpt = BoxTrainConfig.backbone_lr,
    layer_decay: o.LayerDecayOpt = BoxTrainConfig.layer_decay,
    opt: o.OptOpt = BoxTrainConfig.opt,
    lr_schedule: o.LrScheduleOpt = BoxTrainConfig.lr_schedule,
    warmup_epochs: o.WarmupEpochsOpt = BoxTrainConfig.warmup_epochs,
    weight_decay: o.WeightDecayOpt = BoxTrainConfig.weight_decay,
    augment: b.BoxAugmentOpt = BoxTrainConfig.augment,
    sampled_boxes: b.SampledBoxesOpt = DetectorConfig.sampled_boxes,
    ema: o.EmaOpt = BoxTrainConfig.ema,
    clip_grad: o.ClipGradOpt = BoxTrainConfig.clip_grad,
    grad_accum_steps: o.GradAccumOpt = BoxTrainConfig.grad_accum_steps,
    patience: o.PatienceOpt = BoxTrainConfig.patience,
    max_time: t.MaxTimeOpt = BoxTrainConfig.max_time,
    monitor: b.BoxMonitorOpt = BoxTrainConfig.monitor,
    seed: o.SeedOpt = BoxTrainConfig.seed,
    device: o.DeviceOpt = RuntimeConfig.device,
    num_workers: o.NumWorkersOpt = RuntimeConfig.num_workers,
    amp: o.AmpOpt = RuntimeConfig.amp,
    amp_dtype: o.AmpDtypeOpt = RuntimeConfig.amp_dtype,
    channels_last: o.ChannelsLastOpt = RuntimeConfig.channels_last,
    image_cache: u.PictureCacheOpt = ImageCacheConfig.image_cache,
    cache_limit: u.PictureLimitOpt = ImageCacheConfig.cache_limit,
    output: o.OutputOpt = OutputConfig.output,
    overwrite: o.OverwriteOpt = OutputConfig.overwrite,
    resume: o.ResumeOpt = OutputConfig.resume,
    dry_run: o.DryRunOpt = False,
    config: o.ConfigOpt = None,
    json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    verbose: o.VerboseOpt = False,
) -> None:
    """Fine-tune a detector on images with boxes.

    Example: tlcli detect-finetune --data cells/ --backbone timm/resnet18 --epochs 20
    """
    chosen = DetectFinetuneConfig.from_options(chosen_options(ctx))
    talk = TerminalTalk(quiet=quiet)
    if verbose:
        out.let_libraries_speak()
    if not is_given(ctx, "data") and not is_resumed(ctx.params):
        talk.note(f"No --data given: using {chosen.data.data}.")
    from tlcli.recipes import detect_finetune as recipe  # torch is loaded only now

    if dry_run:
        show_plan(recipe.dry_run(chosen, talk=talk).to_json(), as_json=json)
        return
    show_training(recipe.run(chosen, talk=talk), as_json=json)
