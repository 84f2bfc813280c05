"""Every option, declared once. Defaults stand in `tlcli.config`."""

from typing import Annotated, Any

import typer

from tlcli import config
from tlcli.cli.option_files import use_config_file

DATA = "Data"
MODEL = "Model"
FREEZING = "What is trained"
OPTIM = "Optimisation"
MACHINE = "Machine"
OUTPUT = "Output"


def option(*names: str, panel: str, text: str) -> Any:
    """Declare an option in one panel of the help."""
    return typer.Option(*names, help=text, rich_help_panel=panel)


DataOpt = Annotated[
    str | None,
    option(
        "--data",
        "-d",
        panel=DATA,
        text="Folder of class folders, train/val/test folders, CSV table, Kaggle ImageNet folder, "
        "torchvision:NAME, hf:NAME, or sample:digits (the default).",
    ),
]
EvaluationDataOpt = Annotated[
    str | None,
    option(
        "--data",
        "-d",
        panel=DATA,
        text="Other images than the run's own: whatever finetune takes, or for detectors a COCO, "
        "Pascal VOC or YOLO folder.",
    ),
]
ValSplitOpt = Annotated[
    float,
    option("--val-split", panel=DATA, text="Part held out for validation if the data has none."),
]
TestSplitOpt = Annotated[
    float,
    option("--test-split", panel=DATA, text="Part held out for the final test; 0 makes none."),
]
LimitOpt = Annotated[
    int, option("--limit", panel=DATA, text="Images used of each split; 0 uses all.")
]
EvaluationLimitOpt = Annotated[
    int | None,
    option("--limit", panel=DATA, text="Images used of each split of --data; all if not given."),
]
OnBadImageOpt = Annotated[
    config.OnBadImage,
    option(
        "--on-bad-image",
        panel=DATA,
        text="Stop at an unreadable image, or check all first and leave the bad ones out.",
    ),
]
SplitOpt = Annotated[
    config.Split | None,
    option(
        "--split",
        panel=DATA,
        text="Which part to evaluate on; without it test, else val, else everything.",
    ),
]
ModelOpt = Annotated[
    str | None,
    option(
        "--model",
        "-m",
        panel=MODEL,
        text="timm/NAME, torchvision/NAME or a bare NAME; resnet50 where none is given.",
    ),
]
PretrainedModelOpt = Annotated[
    str | None,
    option(
        "--model",
        "-m",
        panel=MODEL,
        text="Pretrained classifier, or torchvision detector, to evaluate as it is.",
    ),
]
WeightsOpt = Annotated[
    str,
    option(
        "--weights",
        panel=MODEL,
        text="default, none (random), a published tag, or a .safetensors/.pth/.pt/.bin file.",
    ),
]
GivenWeightsOpt = Annotated[
    str | None,
    option("--weights", panel=MODEL, text="default, a published tag, or a weights file."),
]
MeanOpt = Annotated[
    str | None,
    option(
        "--mean",
        panel=MODEL,
        text="Mean of the pixels (0..1) that the weights want: one number, or one for each channel "
        "with commas. Without it what is known of them.",
    ),
]
StdOpt = Annotated[
    str | None,
    option("--std", panel=MODEL, text="The same for their standard deviation."),
]
_in_channels = option(
    "--in-channels",
    panel=MODEL,
    text="Channels that pictures are read with: 1 (gray), 3 (RGB) or 4 (RGB and transparency); "
    "the weights of the first layer are adapted as timm does.",
)
InChannelsOpt = Annotated[int, _in_channels]
GivenInChannelsOpt = Annotated[int | None, _in_channels]
InputSizeOpt = Annotated[
    int | None,
    option(
        "--input-size",
        panel=MODEL,
        text="Side of the images in pixels, instead of that of the weights; position embeddings "
        "are resampled.",
    ),
]
OfflineOpt = Annotated[
    bool,
    option("--offline", panel=MODEL, text="Never open a socket; use what is on this machine."),
]
HeadOpt = Annotated[
    str,
    option("--head", panel=FREEZING, text="linear, or mlp:512,0.3 (hidden widths, dropout)."),
]
_STAGES = "head, all, last:2, stage names or globs with commas; the head always trains. "
UnfreezeOpt = Annotated[
    str | None,
    option(
        "--unfreeze",
        panel=FREEZING,
        text=f"{_STAGES}Without it and --schedule: last:3 where weights are pretrained, else all.",
    ),
]
BoxUnfreezeOpt = Annotated[
    str | None,
    option("--unfreeze", panel=FREEZING, text=f"{_STAGES}Without it and --schedule: all."),
]
ScheduleOpt = Annotated[
    str | None,
    option(
        "--schedule",
        panel=FREEZING,
        text='"0:head,3:layer4,6:all" (epochs done: what joins then), or gradual:3.',
    ),
]
InitHeadOpt = Annotated[
    str | None,
    option(
        "--init-head",
        panel=FREEZING,
        text="Start from the head of a run of extract-features or probe (LP-FT).",
    ),
]
FreezeNormOpt = Annotated[
    bool,
    option(
        "--freeze-norm",
        panel=FREEZING,
        text="Keep the pretrained statistics of every BatchNorm, in trained stages too.",
    ),
]
EpochsOpt = Annotated[int, option("--epochs", panel=OPTIM, text="Passes over the training images.")]
BatchSizeOpt = Annotated[
    int,
    option(
        "--batch-size",
        "-b",
        panel=OPTIM,
        text="Images per batch; a single image left over joins the last batch.",
    ),
]
EvaluationBatchOpt = Annotated[
    int | None,
    option(
        "--batch-size",
        "-b",
        panel=OPTIM,
        text="Images per forward pass, 64 if not given; detectors take one per thread.",
    ),
]
BackboneLrOpt = Annotated[
    float | None,
    option(
        "--backbone-lr",
        panel=OPTIM,
        text="Peak learning rate of the last stage before the head; without it a tenth of --lr.",
    ),
]
LayerDecayOpt = Annotated[
    float,
    option(
        "--layer-decay",
        panel=OPTIM,
        text="Factor on the learning rate per stage further from the head; 1 is none.",
    ),
]
OptOpt = Annotated[config.Optimizer, option("--opt", panel=OPTIM, text="Optimizer.")]
LrScheduleOpt = Annotated[
    config.LrSchedule,
    option(
        "--lr-schedule",
        panel=OPTIM,
        text="Learning rate after warm-up; step divides by ten after each third.",
    ),
]
WarmupEpochsOpt = Annotated[
    float, option("--warmup-epochs", panel=OPTIM, text="Epochs of linear rise; 0 is none.")
]
WeightDecayOpt = Annotated[
    float | None,
    option(
        "--weight-decay",
        panel=OPTIM,
        text="On weight matrices, never on norms and biases; without it 0.05 for adamw, 1e-4 for "
        "sgd.",
    ),
]
AugmentOpt = Annotated[
    config.Augment,
    option("--augment", panel=OPTIM, text="Random changes of training images, by strength."),
]
LabelSmoothingOpt = Annotated[
    float, option("--label-smoothing", panel=OPTIM, text="Share spread over other classes.")
]
EmaOpt = Annotated[
    float,
    option("--ema", panel=OPTIM, text="Decay of the weights' moving average; 0 keeps none."),
]
ClipGradOpt = Annotated[
    float, option("--clip-grad", panel=OPTIM, text="Largest gradient norm; 0 does not clip.")
]
GradAccumOpt = Annotated[
    int, option("--grad-accum-steps", panel=OPTIM, text="Batches per optimizer step.")
]
PatienceOpt = Annotated[
    int,
    option(
        "--patience",
        panel=OPTIM,
        text="Epochs of the last phase without improvement before stopping; 0 never stops.",
    ),
]
EvaluationSeedOpt = Annotated[
    int | None,
    option("--seed", panel=OPTIM, text="Of the bootstrap; without it the run's own, or 0."),
]
SeedOpt = Annotated[int, option("--seed", panel=OPTIM, text="Of everything random.")]
DeviceOpt = Annotated[
    str, option("--device", panel=MACHINE, text="auto, cpu, cuda, cuda:1 or mps.")
]
NumWorkersOpt = Annotated[
    int | None,
    option(
        "--num-workers",
        "-j",
        panel=MACHINE,
        text="Processes that read images; without it 0 on the CPU, up to 8 on a GPU.",
    ),
]
AmpOpt = Annotated[
    bool | None,
    option("--amp/--no-amp", panel=MACHINE, text="Mixed precision; without it on CUDA only."),
]
AmpDtypeOpt = Annotated[
    config.AmpDtype, option("--amp-dtype", panel=MACHINE, text="Dtype of mixed precision.")
]
ChannelsLastOpt = Annotated[
    bool,
    option("--channels-last/--no-channels-last", panel=MACHINE, text="Memory format of images."),
]
OutputOpt = Annotated[
    str | None,
    option("--output", "-o", panel=OUTPUT, text="Run folder; without it a new one in runs/."),
]
OverwriteOpt = Annotated[
    bool, option("--overwrite", panel=OUTPUT, text="Replace the run that is in --output.")
]
ResumeOpt = Annotated[
    bool,
    option(
        "--resume",
        panel=OUTPUT,
        text="Go on with the run in --output, with its own options; start it if there is none.",
    ),
]
DryRunOpt = Annotated[
    bool, option("--dry-run", panel=OUTPUT, text="Print what would be trained and stop.")
]
JsonOpt = Annotated[
    bool, option("--json", panel=OUTPUT, text="Print one JSON document instead of tables.")
]
QuietOpt = Annotated[
    bool, option("--quiet", "-q", panel=OUTPUT, text="Only warnings and errors on stderr.")
]
VerboseOpt = Annotated[
    bool, option("--verbose", panel=OUTPUT, text="Show the libraries' own messages too.")
]
ConfigOpt = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        rich_help_panel=OUTPUT,
        help="TOML file that sets any option; flags override it.",
        is_eager=True,
        callback=use_config_file,
    ),
]
