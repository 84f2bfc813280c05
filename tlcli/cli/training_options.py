"""The options that only the training of classifiers has, and its time budget, declared once."""

from typing import Annotated

from tlcli import config
from tlcli.cli.options import OPTIM, option

AUGMENTATION = "Augmentation"

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
        text="How often the last block is skipped in training, earlier ones less; without it as "
        "the network comes.",
    ),
]
HeadDropoutOpt = Annotated[
    float,
    option("--head-dropout", panel=OPTIM, text="Share of the features that the head misses."),
]
ClassWeightsOpt = Annotated[
    config.ClassWeights,
    option(
        "--class-weights",
        panel=OPTIM,
        text="balanced lets every class count the same in the train loss, however rare.",
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
    config.Loss,
    option(
        "--loss",
        panel=OPTIM,
        text="Of training; focal looks away from easy images. val loss is cross-entropy always.",
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
