"""Small networks, and small image folders that a network can learn, made on the spot."""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tlcli.backbones.stages import HEAD, Stage
from tlcli.data.loaders import ImageBatch
from tlcli.models.staged import StagedModel
from tlcli.results.records import EpochReport

CLASSES = ("ant", "bee", "cat")
B = TypeVar("B", bound=ImageBatch)


class TinyNet(nn.Module):
    """Four stages with everything that weight decay and freezing treat apart."""

    def __init__(self, *, with_batch_norm: bool, num_classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4) if with_batch_norm else nn.Identity()
        self.blocks = nn.Sequential(
            nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 6, 1), nn.GroupNorm(2, 6)
        )
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.fc = nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.norm(self.stem(images)).relu()) * self.scale
        logits: Tensor = self.fc(features.relu().mean(dim=(2, 3)))
        return logits


TINY_STAGES = (
    Stage(name="stem", members=("stem", "norm")),
    Stage(name="blocks.0", members=("blocks.0",)),
    Stage(name="blocks.1", members=("blocks.1", "blocks.2", "blocks", "scale")),
    Stage(name=HEAD, members=("fc",)),
)


def tiny_model(*, with_batch_norm: bool = True, seed: int = 0) -> StagedModel:
    """Build a `TinyNet` whose weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = TinyNet(with_batch_norm=with_batch_norm)
    return StagedModel(network, stages=TINY_STAGES)


def image_batch(indices: Sequence[int], *, num_classes: int = 3, size: int = 12) -> ImageBatch:
    """Make a batch whose pictures and targets follow from the row numbers."""
    pictures = [
        np.random.default_rng(index).integers(0, 256, (3, size, size), dtype=np.uint8)
        for index in indices
    ]
    return ImageBatch(
        images=torch.from_numpy(np.stack(pictures)),
        targets=torch.tensor([index % num_classes for index in indices]),
        indices=torch.tensor(list(indices)),
    )


class CollectedTalk:
    """Keeps what a recipe says (see `tlcli.recipes.talk.Talk`)."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.epochs: list[EpochReport] = []
        self.best_epochs: list[int] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def track(self, batches: Iterable[B], *, label: str, num_images: int) -> Iterator[B]:
        yield from batches

    def epoch(self, report: EpochReport, *, epochs: int, is_best: bool) -> None:
        self.epochs.append(report)
        if is_best:
            self.best_epochs.append(report.epoch)


def make_image_folder(
    root: Path,
    *,
    classes: Sequence[str] = CLASSES,
    images_per_class: int = 6,
    size: int = 40,
    seed: int = 0,
) -> Path:
    """Write `root/CLASS/N.png`: every class has its own colour and stripe width.

    The picture depends on class name, number and seed only, not on the order of the classes.
    """
    for name in classes:
        for number in range(images_per_class):
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_picture(name, number=number, size=size, seed=seed)).save(path)
    return root


def make_split_folders(
    root: Path,
    *,
    counts: Mapping[str, int],
    classes: Sequence[str] = CLASSES,
    size: int = 40,
    seed: int = 0,
) -> Path:
    """Write `root/SPLIT/CLASS/N.png` with `counts[SPLIT]` different images of each class."""
    for number, (split, images_per_class) in enumerate(counts.items()):
        make_image_folder(
            root / split,
            classes=classes,
            images_per_class=images_per_class,
            size=size,
            seed=1000 * seed + number,
        )
    return root


def _picture(name: str, *, number: int, size: int, seed: int) -> NDArray[np.uint8]:
    key = zlib.crc32(name.encode())
    look = np.random.default_rng(key)
    rng = np.random.default_rng((key, number, seed))
    colour = look.uniform(60, 200, 3)
    width = look.integers(2, 8)
    stripes = (np.arange(size) // width % 2)[:, None, None] * 50.0
    noise = rng.normal(0, 20, (size, size, 3))
    return np.clip(colour + stripes + rng.uniform(-10, 10) + noise, 0, 255).astype(np.uint8)
