"""Every option, declared once. Defaults stand in `tlcli.config`."""

from typing import Annotated, Any

import typer

from tlcli import config
from tlcli.cli.option_files import use_config_file

_DATA = "Data"
_MODEL = "Model"
_FREEZING = "What is trained"
_FEATURES = "Features"
_PROBE = "Head on the features"
_OPTIM = "Optimisation"
_MACHINE = "Machine"
_OUTPUT = "Output"


def _option(*names: str, panel: str, text: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel)


DataOpt = Annotated[
    str | None,
    _option(
        "--data",
        "-d",
        panel=_DATA,
        text="Folder of class folders, train/val/test folders, CSV table, Kaggle ImageNet folder, "
        "or sample:digits (the default).",
    ),
]
ValSplitOpt = Annotated[
    float,
    _option("--val-split", panel=_DATA, text="Part held out for validation if the data has none."),
]
TestSplitOpt = Annotated[
    float,
    _option("--test-split", panel=_DATA, text="Part held out for the final test; 0 makes none."),
]
LimitOpt = Annotated[
    int, _option("--limit", panel=_DATA, text="Images used of each split; 0 uses all.")
]
OnBadImageOpt = Annotated[
    config.OnBadImage,
    _option(
        "--on-bad-image",
        panel=_DATA,
        text="Stop at an unreadable image, or check all first and leave the bad ones out.",
    ),
]
SplitOpt = Annotated[
    config.Split | None,
    _option(
        "--split",
        panel=_DATA,
        text="Which part to evaluate on; without it test, else val, else everything.",
    ),
]
ModelOpt = Annotated[
    str | None,
    _option(
        "--model",
        "-m",
        panel=_MODEL,
        text="timm/NAME, torchvision/NAME or a bare NAME; resnet50 where none is given.",
    ),
]
PretrainedModelOpt = Annotated[
    str | None,
    _option("--model", "-m", panel=_MODEL, text="Pretrained model to evaluate as it is."),
]
WeightsOpt = Annotated[
    str,
    _option(
        "--weights",
        panel=_MODEL,
        text="default, none (random), a published tag, or a .safetensors/.pth/.pt/.bin file.",
    ),
]
GivenWeightsOpt = Annotated[
    str | None,
    _option("--weights", panel=_MODEL, text="default, a published tag, or a weights file."),
]
OfflineOpt = Annotated[
    bool,
    _option("--offline", panel=_MODEL, text="Never open a socket; use what is on this machine."),
]
HeadOpt = Annotated[
    str,
    _option("--head", panel=_FREEZING, text="linear, or mlp:512,0.3 (hidden widths, dropout)."),
]
UnfreezeOpt = Annotated[
    str | None,
    _option(
        "--unfreeze",
        panel=_FREEZING,
        text="head, all, last:2, stage names or globs with commas; the head always trains. "
        "Without it and --schedule: all.",
    ),
]
ScheduleOpt = Annotated[
    str | None,
    _option(
        "--schedule",
        panel=_FREEZING,
        text='"0:head,3:layer4,6:all" (epochs done: what joins then), or gradual:3.',
    ),
]
InitHeadOpt = Annotated[
    str | None,
    _option(
        "--init-head",
        panel=_FREEZING,
        text="Start from the head of a run of extract-features or probe (LP-FT).",
    ),
]
ModelsOpt = Annotated[
    str | None,
    _option(
        "--model",
        "-m",
        panel=_MODEL,
        text="timm/NAME, torchvision/NAME or a bare NAME; several with commas make a leaderboard.",
    ),
]
ModelsWeightsOpt = Annotated[
    str,
    _option(
        "--weights",
        panel=_MODEL,
        text="default, none (random), a published tag, or a file; one for all models, or one each.",
    ),
]
LayerOpt = Annotated[
    str | None,
    _option(
        "--layer",
        panel=_FEATURES,
        text="Stages whose outputs are taken: names, globs, last:2. Without it what the head sees.",
    ),
]
PoolOpt = Annotated[
    config.Pool | None,
    _option(
        "--pool",
        panel=_FEATURES,
        text="How stage outputs become vectors: mean (without it), class token, maximum, or not.",
    ),
]
DtypeOpt = Annotated[
    config.FeatureDtype, _option("--dtype", panel=_FEATURES, text="How features are stored.")
]
ViewsOpt = Annotated[
    int,
    _option(
        "--views",
        panel=_FEATURES,
        text="Random views of every train image beside the plain one; see --augment.",
    ),
]
ExtractBatchOpt = Annotated[
    int | None,
    _option(
        "--batch-size",
        "-b",
        panel=_FEATURES,
        text="Images per forward pass; without it 8 on the CPU, 64 on a GPU.",
    ),
]
FoldOpt = Annotated[
    bool,
    _option(
        "--fold/--no-fold",
        panel=_FEATURES,
        text="Fold BatchNorm into convolutions: faster, the last digits differ.",
    ),
]
VerifyOpt = Annotated[
    float,
    _option("--verify", panel=_FEATURES, text="Share of rows to compute again and compare."),
]
ShardOpt = Annotated[
    str | None,
    _option("--shard", panel=_FEATURES, text="Part of a job array: 1/8, 2/8 up to 8/8."),
]
ProbeKindOpt = Annotated[
    config.HeadKind,
    _option("--head", panel=_PROBE, text="Logistic regression, least squares, or neighbours."),
]
NoHeadOpt = Annotated[bool, _option("--no-head", panel=_PROBE, text="Features only.")]
PenaltiesOpt = Annotated[
    str | None,
    _option(
        "--penalties",
        panel=_PROBE,
        text="Values to choose from on validation: 0.1,1,10 or LOW:HIGH:COUNT. scikit-learn's C "
        "for linear, alpha for ridge, neighbours for knn.",
    ),
]
ShotsOpt = Annotated[
    str | None,
    _option("--shots", panel=_PROBE, text="Few-shot curve: train images per class, 1,5,10."),
]
RepeatsOpt = Annotated[
    int, _option("--repeats", panel=_PROBE, text="Draws for each number of --shots.")
]
ProbeMonitorOpt = Annotated[
    config.Monitor,
    _option(
        "--monitor",
        panel=_PROBE,
        text="Validation metric that picks the penalty; ties go to the lower loss.",
    ),
]
ThreadsOpt = Annotated[
    int | None,
    _option(
        "--num-workers",
        "-j",
        panel=_MACHINE,
        text="Threads that read and embed images; without it one per core.",
    ),
]
FeaturesOutputOpt = Annotated[
    str | None,
    _option(
        "--output",
        "-o",
        panel=_OUTPUT,
        text="Folder of the features; without it one in the cache, found again by the same "
        "command.",
    ),
]
FeaturesOverwriteOpt = Annotated[
    bool, _option("--overwrite", panel=_OUTPUT, text="Compute everything in --output anew.")
]
ProbeOutputOpt = Annotated[
    str | None,
    _option("--output", "-o", panel=_OUTPUT, text="Run folder; without it a new one in STORE."),
]
FreezeNormOpt = Annotated[
    bool,
    _option(
        "--freeze-norm",
        panel=_FREEZING,
        text="Keep the pretrained statistics of every BatchNorm, in trained stages too.",
    ),
]
EpochsOpt = Annotated[
    int, _option("--epochs", panel=_OPTIM, text="Passes over the training images.")
]
BatchSizeOpt = Annotated[
    int,
    _option(
        "--batch-size",
        "-b",
        panel=_OPTIM,
        text="Images per batch; a single image left over joins the last batch.",
    ),
]
LrOpt = Annotated[
    float | None,
    _option(
        "--lr",
        panel=_OPTIM,
        text="Peak learning rate of the head; without it 1e-3 for adamw, 1e-2 for sgd.",
    ),
]
BackboneLrOpt = Annotated[
    float | None,
    _option(
        "--backbone-lr",
        panel=_OPTIM,
        text="Peak learning rate of the last stage before the head; without it a tenth of --lr.",
    ),
]
LayerDecayOpt = Annotated[
    float,
    _option(
        "--layer-decay",
        panel=_OPTIM,
        text="Factor on the learning rate per stage further from the head; 1 is none.",
    ),
]
OptOpt = Annotated[config.Optimizer, _option("--opt", panel=_OPTIM, text="Optimizer.")]
LrScheduleOpt = Annotated[
    config.LrSchedule,
    _option(
        "--lr-schedule",
        panel=_OPTIM,
        text="Learning rate after warm-up; step divides by ten after each third.",
    ),
]
WarmupEpochsOpt = Annotated[
    float, _option("--warmup-epochs", panel=_OPTIM, text="Epochs of linear rise; 0 is none.")
]
WeightDecayOpt = Annotated[
    float | None,
    _option(
        "--weight-decay",
        panel=_OPTIM,
        text="On weight matrices, never on norms and biases; without it 0.05 for adamw, 1e-4 for "
        "sgd.",
    ),
]
AugmentOpt = Annotated[
    config.Augment,
    _option("--augment", panel=_OPTIM, text="Random changes of training images, by strength."),
]
LabelSmoothingOpt = Annotated[
    float, _option("--label-smoothing", panel=_OPTIM, text="Share spread over other classes.")
]
EmaOpt = Annotated[
    float,
    _option("--ema", panel=_OPTIM, text="Decay of the weights' moving average; 0 keeps none."),
]
ClipGradOpt = Annotated[
    float, _option("--clip-grad", panel=_OPTIM, text="Largest gradient norm; 0 does not clip.")
]
GradAccumOpt = Annotated[
    int, _option("--grad-accum-steps", panel=_OPTIM, text="Batches per optimizer step.")
]
PatienceOpt = Annotated[
    int,
    _option(
        "--patience",
        panel=_OPTIM,
        text="Epochs of the last phase without improvement before stopping; 0 never stops.",
    ),
]
MonitorOpt = Annotated[
    config.Monitor,
    _option(
        "--monitor",
        panel=_OPTIM,
        text="Validation metric that picks the best epoch; ties go to the lower loss.",
    ),
]
EvaluationSeedOpt = Annotated[
    int | None,
    _option("--seed", panel=_OPTIM, text="Of the bootstrap; without it the run's own, or 0."),
]
SeedOpt = Annotated[int, _option("--seed", panel=_OPTIM, text="Of everything random.")]
DeviceOpt = Annotated[
    str, _option("--device", panel=_MACHINE, text="auto, cpu, cuda, cuda:1 or mps.")
]
NumWorkersOpt = Annotated[
    int | None,
    _option(
        "--num-workers",
        "-j",
        panel=_MACHINE,
        text="Processes that read images; without it 0 on the CPU, up to 8 on a GPU.",
    ),
]
AmpOpt = Annotated[
    bool | None,
    _option("--amp/--no-amp", panel=_MACHINE, text="Mixed precision; without it on CUDA only."),
]
AmpDtypeOpt = Annotated[
    config.AmpDtype, _option("--amp-dtype", panel=_MACHINE, text="Dtype of mixed precision.")
]
ChannelsLastOpt = Annotated[
    bool,
    _option("--channels-last/--no-channels-last", panel=_MACHINE, text="Memory format of images."),
]
OutputOpt = Annotated[
    str | None,
    _option("--output", "-o", panel=_OUTPUT, text="Run folder; without it a new one in runs/."),
]
OverwriteOpt = Annotated[
    bool, _option("--overwrite", panel=_OUTPUT, text="Replace the run that is in --output.")
]
ResumeOpt = Annotated[
    bool,
    _option(
        "--resume",
        panel=_OUTPUT,
        text="Go on with the run in --output, with its own options; start it if there is none.",
    ),
]
DryRunOpt = Annotated[
    bool, _option("--dry-run", panel=_OUTPUT, text="Print what would be trained and stop.")
]
JsonOpt = Annotated[
    bool, _option("--json", panel=_OUTPUT, text="Print one JSON document instead of tables.")
]
QuietOpt = Annotated[
    bool, _option("--quiet", "-q", panel=_OUTPUT, text="Only warnings and errors on stderr.")
]
VerboseOpt = Annotated[
    bool, _option("--verbose", panel=_OUTPUT, text="Show the libraries' own messages too.")
]
ConfigOpt = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        rich_help_panel=_OUTPUT,
        help="TOML file that sets any option; flags override it.",
        is_eager=True,
        callback=use_config_file,
    ),
]
