"""The options that only the training of classifiers has, and its time budget, declared once."""

from typing import Annotated, Any, Literal

import typer

from tlcli import config
from tlcli.cli.options import OPTIM, option

AUGMENTATION = "Augmentation"


def read_rate(text: str | float) -> float | Literal["auto"]:
    """Read a learning rate, or the word for looking for one."""
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is neither a number nor 'auto'.") from error


LrOpt = Annotated[
    Any,  # Typer has no type for a number or a word
    typer.Option(
        "--lr",
        rich_help_panel=OPTIM,
        metavar="FLOAT|auto",
        parser=read_rate,
        help="Peak learning rate of the head, or auto: a range test finds it; without it 1e-3 for "
        "adamw, 1e-2 for sgd.",
    ),
]

TrainAugmentOpt = Annotated[
    config.Augment,
    option("--augment", panel=AUGMENTATION, text="Random changes of training images, by strength."),
]
CropScaleOpt = Annotated[
    float | None,
    option(
        "--crop-scale",
        panel=AUGMENTATION,
        text="Smallest part of the area that random crops keep, in place of --augment's.",
    ),
]
ColorJitterOpt = Annotated[
    float | None,
    option(
        "--color-jitter",
        panel=AUGMENTATION,
        text="Largest change of brightness, contrast and saturation, in place of --augment's.",
    ),
]
RandomErasingOpt = Annotated[
    float | None,
    option(
        "--random-erasing",
        panel=AUGMENTATION,
        text="Share of the views that lose a rectangle, in place of --augment's.",
    ),
]
MixupOpt = Annotated[
    float,
    option(
        "--mixup",
        panel=AUGMENTATION,
        text="Blend pairs of images and labels, shares from Beta(A, A) such as 0.2; 0 is off.",
    ),
]
CutmixOpt = Annotated[
    float,
    option(
        "--cutmix",
        panel=AUGMENTATION,
        text="Paste a part of one image into another, shares from Beta(A, A) such as 1; 0 is off. "
        "With --mixup one of them per step.",
    ),
]
DropPathOpt = Annotated[
    float | None,
    option(
        "--drop-path",
        panel=OPTIM,
        text="How often the last block is skipped in training, earlier ones less (those of timm as "
        "timm does it); without it as the network comes.",
    ),
]
HeadDropoutOpt = Annotated[
    float | None,
    option(
        "--head-dropout",
        panel=OPTIM,
        text="Share of the features that the head misses in training; without it as the network "
        "comes.",
    ),
]
ClassWeightsOpt = Annotated[
    config.ClassWeights,
    option(
        "--class-weights",
        panel=OPTIM,
        text="balanced lets every class count the same in the train loss, however rare; with "
        "--multi-label, having a class as much as not having it.",
    ),
]
SamplerOpt = Annotated[
    config.Sampler,
    option(
        "--sampler",
        panel=OPTIM,
        text="balanced shows every class equally often, with new views of rare ones.",
    ),
]
LossOpt = Annotated[
    config.Loss | None,
    option(
        "--loss",
        panel=OPTIM,
        text="Of training; without it cross-entropy, or bce (a yes or no per class) with "
        "--multi-label. focal looks away from easy images. val loss is never focal.",
    ),
]
TrainMonitorOpt = Annotated[
    config.TrainMonitor | None,
    option(
        "--monitor",
        panel=OPTIM,
        text="Validation metric that picks the best epoch; without it top1, or map with "
        "--multi-label. Ties go to the lower loss.",
    ),
]
FocalGammaOpt = Annotated[
    float, option("--focal-gamma", panel=OPTIM, text="How far --loss focal looks away.")
]
MaxTimeOpt = Annotated[
    str | None,
    option(
        "--max-time",
        panel=OPTIM,
        text="Stop training after 90s, 30m or 2h and judge the best epoch; --resume with more "
        "goes on. --lr-schedule is not squeezed.",
    ),
]
