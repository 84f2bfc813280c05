"""Time the two COCO engines, and the bootstrap, on drawn boxes; prints a Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/coco_engines.py [DETECTIONS ...] [--repeats N]

5,000 images, 80 classes and 36,000 ground-truth boxes as in COCO val2017, with 100,000, 250,000
and 500,000 detections unless told otherwise. Both engines run in turn in this process; their
arrays are compared byte by byte.
"""

import argparse
import statistics
import time

import numpy as np

from tlcli.engine.box_matches import match_boxes
from tlcli.engine.box_metrics import detection_report, evaluate_boxes
from tlcli.engine.coco_engines import CocoArrays, accumulate_coco
from tlcli.results.coco_documents import BoxPredictions, evaluable_ground_truth

NUM_IMAGES, NUM_CLASSES, NUM_TRUTHS, SIDE = 5000, 80, 36_000, 640
ENGINES = ("pycocotools", "fast")


def draw_truth(random: np.random.Generator) -> dict:
    """Boxes of COCO-like sizes, one in a hundred a crowd."""
    sizes = np.exp(random.normal(3.9, 1.0, size=(NUM_TRUTHS, 2))).clip(2, SIDE)
    boxes = np.concatenate((random.random((NUM_TRUTHS, 2)) * (SIDE - sizes), sizes), axis=1)
    images = random.integers(1, NUM_IMAGES + 1, size=NUM_TRUTHS).tolist()
    classes = random.integers(1, NUM_CLASSES + 1, size=NUM_TRUTHS).tolist()
    crowds = (random.random(NUM_TRUTHS) < 0.01).tolist()
    annotations = [
        {"id": i, "image_id": image, "category_id": k, "bbox": box, "iscrowd": int(is_crowd)}
        for i, (image, k, box, is_crowd) in enumerate(
            zip(images, classes, boxes.tolist(), crowds, strict=True), start=1
        )
    ]
    return evaluable_ground_truth(
        {
            "images": [{"id": i + 1, "width": SIDE, "height": SIDE} for i in range(NUM_IMAGES)],
            "annotations": annotations,
            "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(NUM_CLASSES)],
        }
    )


def draw_detections(truth: dict, number: int, random: np.random.Generator) -> BoxPredictions:
    """Two moved copies of each box with rather high scores, and boxes anywhere with low ones."""
    boxes = np.array([a["bbox"] for a in truth["annotations"]])
    images = np.array([a["image_id"] for a in truth["annotations"]])
    classes = np.array([a["category_id"] for a in truth["annotations"]])
    source = random.integers(NUM_TRUTHS, size=number)
    near = np.arange(number) < min(number, 2 * NUM_TRUTHS)
    moves = random.normal(0, 0.08, size=(number, 4)) * np.tile(boxes[source, 2:], 2)
    found = boxes[source] + np.where(near[:, None], moves, 5 * moves)
    found[:, 2:] = found[:, 2:].clip(1)
    anywhere = random.integers(1, NUM_IMAGES + 1, size=number)
    any_class = random.integers(1, NUM_CLASSES + 1, size=number)
    return BoxPredictions(
        image_ids=np.where(near, images[source], anywhere),
        category_ids=np.where(near, classes[source], any_class),
        boxes=found,
        scores=np.where(near, random.beta(4, 2, size=number), random.beta(1, 6, size=number)),
    )


def time_engines(truth: dict, found: BoxPredictions, *, repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, the matching that both share included."""
    seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    arrays: dict[str, CocoArrays] = {}
    for _ in range(repeats):
        for engine in ENGINES:
            start = time.perf_counter()
            matches = match_boxes(truth, found)
            arrays[engine] = accumulate_coco(truth, found, matches=matches, engine=engine)
            seconds[engine].append(time.perf_counter() - start)
    for name in ("precision", "recall", "scores"):
        first, second = (getattr(arrays[engine], name) for engine in ENGINES)
        if first.tobytes() != second.tobytes():
            raise SystemExit(f"{name} differs in {(first != second).sum()} entries")
    return seconds


def main() -> None:
    """Print a row per number of detections and engine, and the time of the intervals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("detections", nargs="*", type=int, default=[100_000, 250_000, 500_000])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    truth = draw_truth(random)
    print("| detections | engine | min s | median s | max s | ratio of medians |")
    print("|---|---|---|---|---|---|")
    for number in options.detections:
        found = draw_detections(truth, number, random)
        seconds = time_engines(truth, found, repeats=options.repeats)
        slow = statistics.median(seconds["pycocotools"])
        for engine, values in seconds.items():
            median = statistics.median(values)
            cells = f"{min(values):.2f} | {median:.2f} | {max(values):.2f} | {slow / median:.2f}"
            print(f"| {number} | {engine} | {cells} |", flush=True)
        evaluation = evaluate_boxes(truth, found, engine="fast")
        start = time.perf_counter()
        report = detection_report(evaluation, split="val", seed=0)
        took = time.perf_counter() - start
        print(f"| {number} | intervals | {took:.2f} | {took:.2f} | {took:.2f} | |", *report.remarks)


if __name__ == "__main__":
    main()
