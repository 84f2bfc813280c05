"""Whole fine-tuning runs beside the script that tutorials teach, from start to end of a process.

    python benchmarks/whole_run.py DATA --model torchvision/resnet50 --unfreeze layer4
        --trained layer4,fc [--train 160 --val 40] [--epochs 10] [--rounds 3]

Three arms take turns on the same pictures, epochs, batch size and trained part: the script
(benchmarks/tutorial_script.py), `tlcli finetune` with an empty cache, and again with another
learning rate on what the first one kept. Printed are seconds (minimum, median, maximum), how many
times faster than the script, and the best top-1 on val.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ARMS = ("script", "tlcli", "tlcli again")
SCRIPT = Path(__file__).with_name("tutorial_script.py")


def some_images(data: Path, folder: Path, *, counts: dict[str, int]) -> Path:
    """Link the first images of every class, as many of each as make up the count of a part."""
    places = {name: data / name for name in counts}
    if (data / "validation").is_dir():
        places["val"] = data / "validation"
    for split, count in counts.items():
        classes = sorted(path for path in places[split].iterdir() if path.is_dir())
        for number, source in enumerate(classes):
            share = (count + number) // len(classes)
            target = folder / split / source.name
            target.mkdir(parents=True)
            for image in sorted(source.iterdir())[:share]:
                (target / image.name).symlink_to(image.resolve())
    return folder


def run(arm: str, args: argparse.Namespace, *, data: Path, folder: Path) -> tuple[float, float]:
    """Return seconds and the best val top-1."""
    common = ["--model", args.model, "--weights", args.weights, "--epochs", str(args.epochs)]
    common += ["--batch-size", str(args.batch_size)]
    output = folder / arm.replace(" ", "-")
    if arm == "script":
        command = [str(SCRIPT), str(data), *common, "--trained", args.trained, "--lr", str(args.lr)]
    else:
        lr = args.lr * (3 if arm == "tlcli again" else 1)
        command = ["-m", "tlcli", "finetune", "--data", str(data), *common, "--quiet", "--json"]
        command += ["--unfreeze", args.unfreeze, "--lr", str(lr), "--backbone-lr", str(lr)]
        command += ["--output", str(output), *args.option]
    environment = {**os.environ, "TLCLI_CACHE_DIR": str(folder / "cache")}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], check=True, capture_output=True, text=True, env=environment
    )
    seconds = time.perf_counter() - started
    document = json.loads(done.stdout)
    best = document["best_val"] if arm == "script" else document["best"]["value"]
    return seconds, best


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", default="none")
    parser.add_argument("--unfreeze", required=True, help="as tlcli names what is trained")
    parser.add_argument("--trained", required=True, help="the same for the script")
    parser.add_argument("--train", type=int, default=160, help="train images")
    parser.add_argument("--val", type=int, default=40, help="val images")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--option", nargs="*", default=[], help="more for tlcli, such as --views=1")
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    scores: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as root:
        counts = {"train": args.train, "val": args.val}
        data = some_images(args.data, Path(root) / "data", counts=counts)
        for number in range(args.rounds):
            folder = Path(root) / str(number)
            folder.mkdir()
            for arm in ARMS:
                spent, best = run(arm, args, data=data, folder=folder)
                seconds[arm].append(spent)
                scores[arm].append(best)
    for arm in ARMS:
        times = seconds[arm]
        faster = statistics.median(seconds["script"]) / statistics.median(times)
        print(
            f"{arm:12} {min(times):7.1f} {statistics.median(times):7.1f} {max(times):7.1f} s "
            f"(minimum, median, maximum)  {faster:5.2f} times as fast  best val top-1 "
            f"{statistics.mean(scores[arm]):.3f}"
        )


if __name__ == "__main__":
    main()
