"""How fast features come from JPEG files: against the bare network, and against a plain loop.

    python benchmarks/extraction.py --data photos/ --model timm/tf_efficientnet_lite0 --weights none

Three arms take turns in one process, on the same images:

- `bare`: the same folded network on tensors that lie in memory, same threads, same batches;
- `tlcli`: from the files to the shards on disk;
- `plain`: the library's model with ImageFolder and a DataLoader, batches of 32, for each of
  0, 1 and 2 worker processes (`--plain`).

Printed are images/s (minimum, median, maximum), the ratios of the medians, and the smallest cosine
between the embeddings of `tlcli` and `plain`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder

from tlcli.backbones.pretrained import create_backbone
from tlcli.config import DataConfig, ExtractConfig, FeaturesConfig, ModelConfig
from tlcli.data.store.tensor_store import TensorStore
from tlcli.data.transforms import eval_transform, normalize
from tlcli.engine.distributed import Workers
from tlcli.engine.extraction import in_order, single_threaded_operators
from tlcli.recipes.extraction_job import ExtractionJob, prepare_extraction
from tlcli.recipes.image_data import load_images
from tlcli.recipes.store_filling import compute_shards, plan_shards
from tlcli.results.records import EpochReport

B = TypeVar("B")


class Silent:
    """Talk to nobody."""

    def note(self, message: str) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""

    def track(self, batches: Iterable[B], *, label: str, num_images: int) -> Iterator[B]:
        """Pass on."""
        yield from batches

    def epoch(self, report: EpochReport, *, epochs: int, is_best: bool) -> None:
        """Say nothing."""


def no_stop() -> None:
    """Go on."""


def tlcli_arm(job: ExtractionJob) -> Callable[[], Tensor]:
    """Return the arm from files to shards."""

    def run() -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            store = TensorStore.open_or_create(Path(folder), key=job.key)
            plans = plan_shards(job, store)
            compute_shards(job, store, plans, talk=Silent(), check_stop=no_stop)
            store.seal(plans)
            return store.read(job.ids)["embedding"].float()

    return run


def bare_arm(job: ExtractionJob) -> Callable[[], Tensor]:
    """Return the arm on tensors in memory."""
    rows = list(range(len(job.ids)))
    batches = [rows[i : i + job.batch_size] for i in range(0, len(rows), job.batch_size)]
    read = job.embedder.read
    mean, std = job.backbone.preprocessing.mean, job.backbone.preprocessing.std
    resident = [
        job.runtime.images(normalize(read([job.request(row) for row in b]), mean=mean, std=std))
        for b in batches
    ]

    def forward(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return job.embedder.extractor(images)["embedding"]

    def run() -> Tensor:
        with single_threaded_operators():
            parts = in_order(forward, resident, threads=job.threads, check_stop=no_stop)
            return torch.cat(list(parts))

    return run


def plain_arm(job: ExtractionJob, model: ModelConfig, *, workers: int) -> Callable[[], Tensor]:
    """Return the arm that a user of the libraries would write."""
    backbone = create_backbone(model.model, weights=model.weights, offline=True)
    preprocessing, network = backbone.preprocessing, backbone.network.eval()
    head = backbone.head_names[0]
    network.set_submodule(head, nn.Identity())
    mean = torch.tensor(preprocessing.mean).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std).view(-1, 1, 1)
    view = eval_transform(preprocessing)
    folder = ImageFolder(
        str(job.images.table.root),
        transform=lambda image: (view(image).float() / 255 - mean) / std,
    )
    wanted = {str(job.images.table.root / path) for path in job.items["path"]}
    order = {path: i for i, (path, _) in enumerate(folder.samples) if path in wanted}
    chosen = [order[str(job.images.table.root / path)] for path in job.items["path"]]
    loader = DataLoader(Subset(folder, chosen), batch_size=32, num_workers=workers)

    @torch.inference_mode()
    def run() -> Tensor:
        return torch.cat([network(images) for images, _ in loader])

    return run


def main() -> None:
    """Run the arms in turn and print what they did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of class folders")
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", default="none")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plain", action="store_true", help="run the plain loops too")
    args = parser.parse_args()
    model = ModelConfig(model=args.model, weights=args.weights, offline=True)
    data = DataConfig(data=args.data, limit=args.images)
    config = ExtractConfig(data=data, model=model, features=FeaturesConfig(dtype="float32"))
    images = load_images(data, seed=0, find_copies=False, talk=Silent())
    job = prepare_extraction(
        config, model, images=images, workers=Workers(), folder=Path("unused"), talk=Silent()
    )
    arms = {"bare": bare_arm(job), "tlcli": tlcli_arm(job)}
    if args.plain:
        for workers in (0, 1, 2):
            arms[f"plain, {workers} workers"] = plain_arm(job, model, workers=workers)
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    found = {name: run() for name, run in arms.items()}  # also warms up
    for _ in range(args.repeats):
        for name, run in arms.items():
            started = time.perf_counter()
            run()
            speeds[name].append(len(job.ids) / (time.perf_counter() - started))
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"{args.model}, {len(job.ids)} images, {job.threads} threads, {args.repeats} repeats")
    for name, values in speeds.items():
        print(f"  {name:17} {min(values):7.1f} {middle[name]:7.1f} {max(values):7.1f} images/s")
    print(f"  tlcli / bare      {middle['tlcli'] / middle['bare']:.3f}")
    if args.plain:
        best = max((name for name in arms if name.startswith("plain")), key=lambda n: middle[n])
        cosine = torch.cosine_similarity(found["tlcli"], found[best]).min()
        print(f"  tlcli / best {best} {middle['tlcli'] / middle[best]:.3f}")
        print(f"  smallest cosine {cosine:.7f}")


if __name__ == "__main__":
    main()
