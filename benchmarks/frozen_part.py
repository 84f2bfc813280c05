"""What it saves to keep what the frozen part of a network makes of the images.

    python benchmarks/frozen_part.py DATA --model torchvision/resnet18 --unfreeze layer4

Runs of `tlcli finetune` with `--trunk-cache off` and `disk` take turns, same seed, same views, each
in a process of its own and with an empty cache. Printed are the seconds of an epoch after the first
(minimum, median, maximum), the ratio of the medians, the largest memory of a process, and the
largest difference between the losses of the two: 0 with `--exact` (float32, no folding).
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ARMS = ("off", "disk")


def run(arm: str, args: argparse.Namespace, *, folder: Path) -> tuple[list[dict[str, str]], float]:
    """Train once; return the rows of `metrics.csv`, and the most MB that the process had."""
    options = ["--data", args.data, "--model", args.model, "--weights", args.weights]
    options += ["--unfreeze", args.unfreeze, "--epochs", str(args.epochs), "--views", "1"]
    options += ["--limit", str(args.limit), "--trunk-cache", arm, "--quiet"]
    if args.exact:
        options += ["--no-fold"] if arm == "off" else ["--no-fold", "--cache-dtype", "float32"]
    if args.nchw:
        options += ["--no-channels-last"]
    command = [sys.executable, "-m", "tlcli", "finetune", *options, "--output", str(folder / "run")]
    environment = {**os.environ, "TLCLI_CACHE_DIR": str(folder / "cache")}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}.")
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file)), usage.ru_maxrss / 1024


def main() -> None:
    """Print seconds, ratio and the difference of the losses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", default="none")
    parser.add_argument("--unfreeze", required=True)
    parser.add_argument("--limit", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exact", action="store_true", help="float32, no folding")
    parser.add_argument("--nchw", action="store_true", help="not channels-last")
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    losses: dict[str, list[float]] = {}
    memory = dict.fromkeys(ARMS, 0.0)
    for _ in range(args.rounds):
        for arm in ARMS:
            with tempfile.TemporaryDirectory() as folder:
                rows, peak = run(arm, args, folder=Path(folder))
            memory[arm] = max(memory[arm], peak)
            seconds[arm] += [float(row["seconds/train"]) for row in rows[1:]]
            losses[arm] = [float(row["train/loss"]) for row in rows]
    for arm in ARMS:
        times = seconds[arm]
        print(
            f"{arm:5} {min(times):7.2f} {statistics.median(times):7.2f} {max(times):7.2f} s per "
            f"epoch (minimum, median, maximum), at most {memory[arm]:,.0f} MB"
        )
    medians = {arm: statistics.median(seconds[arm]) for arm in ARMS}
    print(f"kept is {medians['off'] / medians['disk']:.2f} times as fast after the first epoch")
    pairs = zip(losses["off"], losses["disk"], strict=True)
    print(f"largest relative difference of the losses: {max(abs(b / a - 1) for a, b in pairs):.1e}")


if __name__ == "__main__":
    main()
