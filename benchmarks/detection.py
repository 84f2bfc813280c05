"""How fast detectors are trained and judged, beside a plain loop in the manner of torchvision.

    python benchmarks/detection.py --data cells/ [--backbone timm/tf_efficientnet_lite0]

Both arms work on the same network, images, boxes and optimizer and take turns in one process, after
one round that does not count:

- training: `tlcli`'s loop and batches against that of torchvision's references: random flip,
  a DataLoader of 0, 1 or 2 worker processes, `loss.item()` and a check of it in every step;
- evaluation of the validation part: `tlcli` (threads, COCO numbers by its engine) against the
  references' `evaluate`: one image at a time, one thread, a DataLoader of one worker process,
  pycocotools.

Printed are images/s of training and seconds of evaluation (minimum, median, maximum), the ratios
of the medians, and AP by both, which must agree.
"""

import argparse
import contextlib
import io
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.models.detection import FasterRCNN
from torchvision.ops import MultiScaleRoIAlign
from torchvision.transforms import v2

from tlcli.config import DetectFinetuneConfig
from tlcli.data.boxes.box_batches import BoxDataset
from tlcli.engine.detection import DetectionTask
from tlcli.engine.loop import train_one_epoch
from tlcli.recipes.detection_job import DetectionJob, detection_threads, prepare_detection
from tlcli.recipes.detection_judging import BoxJudge
from tlcli.recipes.finetune_job import first_state
from tlcli.results.records import EpochReport

POOLING = "roi_heads.box_roi_pool"


class Silent:
    """Talk to nobody."""

    def note(self, message: str) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""

    def track(self, batches: Iterable[Any], *, label: str, num_images: int) -> Iterator[Any]:
        """Pass on."""
        yield from batches

    def epoch(self, report: EpochReport, *, epochs: int, is_best: bool) -> None:
        """Say nothing."""


class PlainImages(Dataset[Any]):
    """Images with boxes as torchvision's references hand them out."""

    def __init__(self, dataset: BoxDataset, *, is_train: bool) -> None:
        self._dataset = dataset
        self._flip = v2.RandomHorizontalFlip() if is_train else None

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        """Return image (3, H, W) in 0..1 and its target."""
        item = self._dataset[(index, 0)]
        if isinstance(item, Exception):
            raise item
        image, target = item.image, {"boxes": item.boxes, "labels": item.labels}
        if self._flip is not None and torch.rand(1) < 0.5:
            image = image.flip(-1)
            target["boxes"] = target["boxes"].clone()
            target["boxes"][:, [0, 2]] = image.shape[-1] - target["boxes"][:, [2, 0]]
        return image.float() / 255, target, index


def collate(items: list[Any]) -> tuple[Any, ...]:
    """Keep images apart, as torchvision's references do."""
    return tuple(zip(*items, strict=True))


def tlcli_training(job: DetectionJob, *, images: int) -> Callable[[], float]:
    """Return the arm that trains with our loop; it returns images/s."""
    train = job.config.train
    steps_per_epoch, steps = job.reader.training(augment="flip", grad_accum_steps=1)
    state = first_state(
        job.model, job.plan, train=train, runtime=job.runtime, steps_per_epoch=steps_per_epoch
    )
    state.enter_phase()
    task = DetectionTask(state.model, runtime=job.runtime)

    def run() -> float:
        state.epoch, state.step, state.loss_sums = state.epoch + 1, 0, []
        limited = itertools.islice(steps(state.epoch, 0), images // train.batch_size)
        started = time.perf_counter()
        _, seen = train_one_epoch(
            task,
            state,
            steps=limited,
            runtime=job.runtime,
            clip_grad=train.clip_grad,
            check_stop=lambda: None,
        )
        return seen / (time.perf_counter() - started)

    return run


def plain_training(job: DetectionJob, *, images: int, workers: int) -> Callable[[], float]:
    """Return the arm that trains as torchvision's references do; it returns images/s."""
    network, size = job.model.network, job.config.train.batch_size
    dataset = PlainImages(BoxDataset(job.reader.samples("train")), is_train=True)
    chosen = Subset(dataset, range(images // size * size))
    loader = DataLoader(
        chosen, batch_size=size, shuffle=True, num_workers=workers, collate_fn=collate
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def run() -> float:
        job.model.train()  # BatchNorm as in the other arm
        own_pooling = torchvision_pooling(network)
        started = time.perf_counter()
        for batch_images, targets, _ in loader:
            losses = network(list(batch_images), list(targets))
            loss = sum(losses.values())
            if not math.isfinite(loss.item()):
                raise SystemExit(f"loss is {loss.item()}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        speed = len(chosen) / (time.perf_counter() - started)
        if own_pooling is not None:
            network.set_submodule(POOLING, own_pooling)
        return speed

    return run


def torchvision_pooling(network: nn.Module) -> nn.Module | None:
    """Cut boxes as torchvision does; return what did it before, None where no boxes are cut."""
    if not isinstance(network, FasterRCNN):
        return None
    ours = network.get_submodule(POOLING)
    plain = MultiScaleRoIAlign(ours.featmap_names, ours.output_size, ours.sampling_ratio)
    network.set_submodule(POOLING, plain)
    return ours


@torch.inference_mode()
def plain_evaluation(network: nn.Module, loader: DataLoader[Any], truth: COCO) -> float:
    """Evaluate as torchvision's references do: one thread, image by image; return AP."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network.eval()
    image_ids = [image["id"] for image in truth.dataset["images"]]
    category_ids = [0, *(category["id"] for category in truth.dataset["categories"])]
    results = []
    for images, _, indices in loader:
        outputs = network(list(images))
        for output, index in zip(outputs, indices, strict=True):
            boxes = output["boxes"]
            boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
            for box, label, score in zip(
                boxes, output["labels"].tolist(), output["scores"].tolist(), strict=True
            ):
                results.append(
                    {
                        "image_id": image_ids[index],
                        "category_id": category_ids[label],
                        "bbox": box,
                        "score": score,
                    }
                )
    torch.set_num_threads(threads)
    if not results:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(evaluator.stats[0])


def seconds_of(run: Callable[[], float]) -> tuple[float, float]:
    """Return seconds, and what came out."""
    started = time.perf_counter()
    value = run()
    return time.perf_counter() - started, value


def spread(values: list[float]) -> str:
    """Write minimum, median and maximum."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{low:8.2f} {middle:8.2f} {high:8.2f}"


def main() -> None:
    """Run the arms in turn and print what they did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="fasterrcnn")
    parser.add_argument("--backbone", default=None)
    parser.add_argument("--weights", default="none")
    parser.add_argument("--images", type=int, default=48, help="of one training measurement")
    parser.add_argument("--epochs", type=int, default=2, help="of our loop before evaluation")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    config = DetectFinetuneConfig.from_options(
        {
            "data": args.data,
            "model": args.model,
            "backbone": args.backbone,
            "weights": args.weights,
            "epochs": 100,
            "warmup_epochs": 0.0,
            "lr_schedule": "constant",
            "device": "cpu",
        }
    )
    job = prepare_detection(config, former=None, talk=Silent())
    train_arms: dict[str, Callable[[], float]] = {
        "tlcli": tlcli_training(job, images=args.images),
        **{
            f"plain, {n} workers": plain_training(job, images=args.images, workers=n)
            for n in (0, 1, 2)
        },
    }
    speeds: dict[str, list[float]] = {name: [] for name in train_arms}
    for run in train_arms.values():
        run()  # the first to run would pay for the memory of all
    for repeat in range(args.repeats):
        for name, run in list(train_arms.items())[:: 1 if repeat % 2 else -1]:
            speeds[name].append(run())
    print("training, images/s (min, median, max)")
    for name, values in speeds.items():
        print(f"  {name:18} {spread(values)}")
    best = max(statistics.median(v) for name, v in speeds.items() if name != "tlcli")
    print(f"  tlcli / best plain  {statistics.median(speeds['tlcli']) / best:.2f}")
    _compare_evaluations(job, repeats=args.repeats, epochs=args.epochs, images=args.images)


def _compare_evaluations(job: DetectionJob, *, repeats: int, epochs: int, images: int) -> None:
    for _ in range(epochs):
        tlcli_training(job, images=max(images, 200))()
    judge = BoxJudge(
        reader=job.reader,
        class_names=job.boxes.table.classes,
        threads=detection_threads(None, build=job.detector.build, runtime=job.runtime),
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = job.boxes.table.ground_truth("val")
        truth.createIndex()
    dataset = PlainImages(BoxDataset(job.reader.samples("val")), is_train=False)
    loader = DataLoader(dataset, batch_size=1, num_workers=1, collate_fn=collate)
    arms: dict[str, Callable[[], float]] = {
        "tlcli": lambda: judge.metrics(job.model, "val")["map"],
        "plain": lambda: plain_evaluation(job.model, loader, truth),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    aps: dict[str, float] = {}
    for _ in range(repeats):
        for name, run in arms.items():
            taken, aps[name] = seconds_of(run)
            seconds[name].append(taken)
    print(f"evaluation of {len(dataset)} images, s (min, median, max)")
    for name, values in seconds.items():
        print(f"  {name:18} {spread(values)}   AP {aps[name]:.6f}")
    ratio = statistics.median(seconds["plain"]) / statistics.median(seconds["tlcli"])
    print(f"  tlcli is faster by  {ratio:.2f}")


if __name__ == "__main__":
    main()
