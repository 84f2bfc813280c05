"""The options of `extract-features` and `probe`; defaults stand in `tlcli.config`."""

from typing import Annotated

from tlcli import config
from tlcli.cli.options import MACHINE, MODEL, OUTPUT, option

_FEATURES = "Features"
_PROBE = "Head on the features"

ModelsOpt = Annotated[
    str | None,
    option(
        "--model",
        "-m",
        panel=MODEL,
        text="timm/NAME, torchvision/NAME or a bare NAME; several with commas make a leaderboard.",
    ),
]
ModelsWeightsOpt = Annotated[
    str,
    option(
        "--weights",
        panel=MODEL,
        text="default, none (random), a published tag, or a file; one for all models, or one each.",
    ),
]
LayerOpt = Annotated[
    str | None,
    option(
        "--layer",
        panel=_FEATURES,
        text="Stages whose outputs are taken: names, globs, last:2. Without it what the head sees.",
    ),
]
PoolOpt = Annotated[
    config.Pool | None,
    option(
        "--pool",
        panel=_FEATURES,
        text="How stage outputs become vectors: mean (without it), class token, maximum, or not.",
    ),
]
DtypeOpt = Annotated[
    config.FeatureDtype, option("--dtype", panel=_FEATURES, text="How features are stored.")
]
ViewsOpt = Annotated[
    int,
    option(
        "--views",
        panel=_FEATURES,
        text="Random views of every train image beside the plain one; see --augment.",
    ),
]
ExtractBatchOpt = Annotated[
    int | None,
    option(
        "--batch-size",
        "-b",
        panel=_FEATURES,
        text="Images per forward pass; without it 8 on the CPU, 64 on a GPU.",
    ),
]
FoldNormOpt = Annotated[
    bool,
    option(
        "--fold-norm/--no-fold",
        " /--no-fold-norm",
        panel=_FEATURES,
        text="Fold BatchNorm into convolutions: faster, the last digits differ.",
    ),
]
VerifyOpt = Annotated[
    float,
    option("--verify", panel=_FEATURES, text="Share of rows to compute again and compare."),
]
ShardOpt = Annotated[
    str | None,
    option(
        "--shard",
        panel=_FEATURES,
        text="Part of a job array: 1/8 up to 8/8; then tlcli probe.",
    ),
]
ProbeKindOpt = Annotated[
    config.HeadKind,
    option("--head", panel=_PROBE, text="Logistic regression, least squares, or neighbours."),
]
NoHeadOpt = Annotated[bool, option("--no-head", panel=_PROBE, text="Features only.")]
PenaltiesOpt = Annotated[
    str | None,
    option(
        "--penalties",
        panel=_PROBE,
        text="Values to choose from on validation: 0.1,1,10 or LOW:HIGH:COUNT. scikit-learn's C "
        "for linear, alpha for ridge, neighbours for knn.",
    ),
]
ShotsOpt = Annotated[
    str | None,
    option("--shots", panel=_PROBE, text="Few-shot curve: train images per class, 1,5,10."),
]
RepeatsOpt = Annotated[
    int, option("--repeats", panel=_PROBE, text="Draws for each number of --shots.")
]
ProbeMonitorOpt = Annotated[
    config.Monitor,
    option(
        "--monitor",
        panel=_PROBE,
        text="Validation metric that picks the penalty; ties go to the lower loss.",
    ),
]
ThreadsOpt = Annotated[
    int | None,
    option(
        "--num-workers",
        "-j",
        panel=MACHINE,
        text="Threads that read and embed images; without it one per core.",
    ),
]
FeaturesOutputOpt = Annotated[
    str | None,
    option(
        "--output",
        "-o",
        panel=OUTPUT,
        text="Folder of the features; without it one in the cache, found again by the same "
        "command.",
    ),
]
FeaturesOverwriteOpt = Annotated[
    bool, option("--overwrite", panel=OUTPUT, text="Compute everything in --output anew.")
]
ProbeOutputOpt = Annotated[
    str | None,
    option("--output", "-o", panel=OUTPUT, text="Run folder; without it a new one in STORE."),
]
