"""Options of `finetune` for the part of a network that is not trained."""

from typing import Annotated

from tlcli import config
from tlcli.cli.options import MACHINE, OPTIM, option

_PANEL = "Frozen part"

TrunkCacheOpt = Annotated[
    config.TrunkCache,
    option(
        "--trunk-cache",
        panel=_PANEL,
        text="Where to keep what the frozen part makes of every view, so that it is computed once: "
        "disk serves later runs too; auto decides by cost and says why.",
    ),
]
ImageCacheOpt = Annotated[
    config.ImageCache,
    option(
        "--image-cache",
        panel=_PANEL,
        text="Where to keep the pixels of every view where no frozen part is kept, as with "
        "--unfreeze all: pays where reading is slow beside computing, as on a GPU.",
    ),
]
PictureCacheOpt = Annotated[
    config.ImageCache,
    option(
        "--image-cache",
        panel=MACHINE,
        text="Where to keep train pictures, decoded; with --augment none or flip no larger than "
        "the detector looks at them. Pays where reading is slow beside computing, as on a GPU.",
    ),
]
_LIMIT = (
    "Room for all that is kept, such as 500MB or 1TiB; what was not used for longest goes first."
)
CacheLimitOpt = Annotated[str, option("--cache-limit", panel=_PANEL, text=_LIMIT)]
PictureLimitOpt = Annotated[str, option("--cache-limit", panel=MACHINE, text=_LIMIT)]
CacheDtypeOpt = Annotated[
    config.CacheDtype,
    option(
        "--cache-dtype",
        panel=_PANEL,
        text="How it is kept; auto is float16 where that has the range, float32 loses nothing.",
    ),
]
TrunkViewsOpt = Annotated[
    int | None,
    option(
        "--views",
        panel=_PANEL,
        text="Random views of every train image that take turns, epoch by epoch; 0 is a fresh one "
        "in each. Without it 4 where they are kept, else 0.",
    ),
]
TrainSeedOpt = Annotated[
    int,
    option("--seed", panel=OPTIM, text="Of all that is random but the views (--view-seed)."),
]
TrunkViewSeedOpt = Annotated[
    int,
    option(
        "--view-seed",
        panel=_PANEL,
        text="Of the random views. --seed leaves them alone, so that runs with other seeds find "
        "what is kept.",
    ),
]
TrunkFoldNormOpt = Annotated[
    bool,
    option(
        "--fold-norm/--no-fold",
        " /--no-fold-norm",
        panel=_PANEL,
        text="Fold BatchNorm of the frozen part into convolutions: faster, the last digits differ.",
    ),
]
