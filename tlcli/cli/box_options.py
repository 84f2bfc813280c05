"""The options that only detection has, declared once. Defaults stand in `tlcli.config`."""

from typing import Annotated

from tlcli import config
from tlcli.cli.options import DATA, MODEL, OPTIM, option

BoxDataOpt = Annotated[
    str | None,
    option(
        "--data",
        "-d",
        panel=DATA,
        text="COCO folder or .json file, Pascal VOC folder, YOLO folder or .yaml file, or "
        "sample:digits (the default).",
    ),
]
OnBadBoxOpt = Annotated[
    config.OnBadBox,
    option(
        "--on-bad-box",
        panel=DATA,
        text="Boxes without area or outside of the image: cut to fit, leave out, or stop.",
    ),
]
DetectorOpt = Annotated[
    str | None,
    option(
        "--model",
        "-m",
        panel=MODEL,
        text="A torchvision detector such as fasterrcnn_resnet50_fpn; or fasterrcnn, retinanet or "
        "fcos with any --backbone. fasterrcnn where none is given.",
    ),
]
BackboneOpt = Annotated[
    str | None,
    option(
        "--backbone",
        panel=MODEL,
        text="timm/NAME or torchvision/NAME for fasterrcnn, retinanet and fcos; without it "
        "timm/tf_efficientnet_lite0.",
    ),
]
DetectorWeightsOpt = Annotated[
    str,
    option(
        "--weights",
        panel=MODEL,
        text="default, none (random), a published tag, a weights file of the backbone or of a "
        "detector, or a run folder of detect-finetune.",
    ),
]
ImageSizeOpt = Annotated[
    int | None,
    option(
        "--image-size",
        panel=MODEL,
        text="Short side of images in pixels; without it the model's own (320 on light backbones).",
    ),
]
StridesOpt = Annotated[
    str | None,
    option(
        "--strides",
        panel=MODEL,
        text="Maps of a --backbone that are looked at, by pixels per cell: 4,8,16,32 finds smaller "
        "objects and costs more; without it all from 8 on.",
    ),
]
FpnChannelsOpt = Annotated[
    int | None,
    option(
        "--fpn-channels",
        panel=MODEL,
        text="Channels of the pyramid on a --backbone; without it 128 on light ones, else 256.",
    ),
]
AnchorSizeOpt = Annotated[
    float | None,
    option(
        "--anchor-size",
        panel=MODEL,
        text="Side of the smallest boxes that are looked for on a --backbone, in pixels of the "
        "resized image; without it 32.",
    ),
]
SampledBoxesOpt = Annotated[
    int | None,
    option(
        "--sampled-boxes",
        panel=OPTIM,
        text="Boxes per image that the head of a Faster R-CNN learns from; without it 128, or 512 "
        "for torchvision's own detectors.",
    ),
]
BoxLrOpt = Annotated[
    float | None,
    option(
        "--lr",
        panel=OPTIM,
        text="Peak learning rate of the head; without it 5e-4 for adamw, 5e-3 for sgd.",
    ),
]
BoxBackboneLrOpt = Annotated[
    float | None,
    option(
        "--backbone-lr",
        panel=OPTIM,
        text="Peak learning rate of the last stage before the head; without it a fifth of --lr.",
    ),
]
BoxAugmentOpt = Annotated[
    config.BoxAugment,
    option("--augment", panel=OPTIM, text="Random changes of training images, by strength."),
]
BoxMonitorOpt = Annotated[
    config.BoxMonitor,
    option(
        "--monitor", panel=OPTIM, text="Validation metric that picks the best epoch (map is AP)."
    ),
]
