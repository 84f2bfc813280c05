"""`tlcli finetune`."""

import typer

from tlcli.cli import data_options as d
from tlcli.cli import options as o
from tlcli.cli import output as out
from tlcli.cli import training_options as t
from tlcli.cli import trunk_options as u
from tlcli.cli.option_files import chosen_options, is_given, is_resumed
from tlcli.cli.progress import TerminalTalk
from tlcli.cli.training_output import show_plan, show_training
from tlcli.config import (
    FinetuneConfig,
    FreezingConfig,
    LabelledDataConfig,
    ModelConfig,
    OutputConfig,
    RuntimeConfig,
    TrainConfig,
    TrunkConfig,
)


def finetune(
    ctx: typer.Context,
    data: o.DataOpt = None,
    val_split: o.ValSplitOpt = LabelledDataConfig.val_split,
    test_split: o.TestSplitOpt = LabelledDataConfig.test_split,
    limit: o.LimitOpt = LabelledDataConfig.limit,
    on_bad_image: o.OnBadImageOpt = LabelledDataConfig.on_bad_image,
    fold: d.KFoldOpt = LabelledDataConfig.fold,
    classes: d.ClassesOpt = LabelledDataConfig.classes,
    path_column: d.PathColumnOpt = LabelledDataConfig.path_column,
    label_column: d.LabelColumnOpt = LabelledDataConfig.label_column,
    multi_label: d.MultiLabelOpt = LabelledDataConfig.multi_label,
    label_separator: d.LabelSeparatorOpt = LabelledDataConfig.label_separator,
    split_column: d.SplitColumnOpt = LabelledDataConfig.split_column,
    group_column: d.GroupColumnOpt = LabelledDataConfig.group_column,
    model: o.ModelOpt = None,
    weights: o.WeightsOpt = ModelConfig.weights,
    offline: o.OfflineOpt = ModelConfig.offline,
    mean: o.MeanOpt = ModelConfig.mean,
    std: o.StdOpt = ModelConfig.std,
    input_size: o.InputSizeOpt = ModelConfig.input_size,
    in_channels: o.InChannelsOpt = ModelConfig.in_channels,
    head: o.HeadOpt = FreezingConfig.head,
    init_head: o.InitHeadOpt = FreezingConfig.init_head,
    unfreeze: o.UnfreezeOpt = FreezingConfig.unfreeze,
    schedule: o.ScheduleOpt = FreezingConfig.schedule,
    freeze_norm: o.FreezeNormOpt = FreezingConfig.freeze_norm,
    epochs: o.EpochsOpt = TrainConfig.epochs,
    batch_size: o.BatchSizeOpt = TrainConfig.batch_size,
    lr: t.LrOpt = TrainConfig.lr,
    backbone_lr: o.BackboneLrOpt = TrainConfig.backbone_lr,
    layer_decay: o.LayerDecayOpt = TrainConfig.layer_decay,
    opt: o.OptOpt = TrainConfig.opt,
    lr_schedule: o.LrScheduleOpt = TrainConfig.lr_schedule,
    warmup_epochs: o.WarmupEpochsOpt = TrainConfig.warmup_epochs,
    weight_decay: o.WeightDecayOpt = TrainConfig.weight_decay,
    augment: t.TrainAugmentOpt = TrainConfig.augment,
    crop_scale: t.CropScaleOpt = TrainConfig.crop_scale,
    color_jitter: t.ColorJitterOpt = TrainConfig.color_jitter,
    random_erasing: t.RandomErasingOpt = TrainConfig.random_erasing,
    mixup: t.MixupOpt = TrainConfig.mixup,
    cutmix: t.CutmixOpt = TrainConfig.cutmix,
    drop_path: t.DropPathOpt = TrainConfig.drop_path,
    head_dropout: t.HeadDropoutOpt = TrainConfig.head_dropout,
    class_weights: t.ClassWeightsOpt = TrainConfig.class_weights,
    sampler: t.SamplerOpt = TrainConfig.sampler,
    loss: t.LossOpt = TrainConfig.loss,
    focal_gamma: t.FocalGammaOpt = TrainConfig.focal_gamma,
    label_smoothing: o.LabelSmoothingOpt = TrainConfig.label_smoothing,
    ema: o.EmaOpt = TrainConfig.ema,
    clip_grad: o.ClipGradOpt = TrainConfig.clip_grad,
    grad_accum_steps: o.GradAccumOpt = TrainConfig.grad_accum_steps,
    patience: o.PatienceOpt = TrainConfig.patience,
    max_time: t.MaxTimeOpt = TrainConfig.max_time,
    monitor: t.TrainMonitorOpt = TrainConfig.monitor,
    seed: u.TrainSeedOpt = TrainConfig.seed,
    trunk_cache: u.TrunkCacheOpt = TrunkConfig.trunk_cache,
    cache_limit: u.CacheLimitOpt = TrunkConfig.cache_limit,
    cache_dtype: u.CacheDtypeOpt = TrunkConfig.cache_dtype,
    image_cache: u.ImageCacheOpt = TrunkConfig.image_cache,
    views: u.TrunkViewsOpt = TrunkConfig.views,
    view_seed: u.TrunkViewSeedOpt = TrunkConfig.view_seed,
    fold_norm: u.TrunkFoldNormOpt = TrunkConfig.fold_norm,
    device: o.DeviceOpt = RuntimeConfig.device,
    num_workers: o.NumWorkersOpt = RuntimeConfig.num_workers,
    amp: o.AmpOpt = RuntimeConfig.amp,
    amp_dtype: o.AmpDtypeOpt = RuntimeConfig.amp_dtype,
    channels_last: o.ChannelsLastOpt = RuntimeConfig.channels_last,
    output: o.OutputOpt = OutputConfig.output,
    overwrite: o.OverwriteOpt = OutputConfig.overwrite,
    resume: o.ResumeOpt = OutputConfig.resume,
    dry_run: o.DryRunOpt = False,
    config: o.ConfigOpt = None,
    json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    verbose: o.VerboseOpt = False,
) -> None:
    """Fine-tune a pretrained network on labelled images.

    Example: tlcli finetune --data photos/ --model timm/resnet18 --unfreeze layer4
    """
    # Option names are the config's field names, so what Typer read is passed on as it is.
    chosen = FinetuneConfig.from_options(chosen_options(ctx))
    talk = TerminalTalk(quiet=quiet)
    if verbose:
        out.let_libraries_speak()
    for option, value in (("data", chosen.data.data), ("model", chosen.model.model)):
        if not is_given(ctx, option) and not is_resumed(ctx.params):
            talk.note(f"No --{option} given: using {value}.")
    from tlcli.recipes import finetune as recipe  # torch is loaded only now

    if dry_run:
        show_plan(recipe.dry_run(chosen, talk=talk).to_json(), as_json=json)
        return
    show_training(recipe.run(chosen, talk=talk), as_json=json)
