"""Whether it changes a training to keep what its frozen part makes of the images.

    python benchmarks/kept_digits.py DATA --model timm/tf_efficientnet_lite0 --weights FILE
        --unfreeze last:2 [--seeds 3] [--epochs 10] [--plot losses.png]

With every seed three runs of `tlcli finetune`, same views: nothing kept; kept in float32 without
folding, which has to give every loss to the last digit; kept in float16 with BatchNorm folded, as
is the default. Printed are the largest relative difference of an epoch's train loss, the accuracy
of val, and whether the weights of the best epoch are the same bytes, seed by seed. The plot shows
the losses of the first seed on each other.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

ARMS = {
    "not kept": ["--trunk-cache", "off", "--no-fold"],
    "float32": ["--trunk-cache", "disk", "--no-fold", "--cache-dtype", "float32"],
    "float16, folded": ["--trunk-cache", "disk"],
}
Rows = list[dict[str, str]]


def run(arm: str, args: argparse.Namespace, *, seed: int, folder: Path) -> tuple[Rows, bytes]:
    """Train; return the rows of `metrics.csv` and the weights."""
    options = ["--data", args.data, "--model", args.model, "--weights", args.weights]
    options += ["--unfreeze", args.unfreeze, "--epochs", str(args.epochs)]
    options += ["--views", str(args.views), "--limit", str(args.limit), "--seed", str(seed)]
    output = folder / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
    command = [sys.executable, "-m", "tlcli", "finetune", *options, *ARMS[arm], "--quiet"]
    command += ["--output", str(output)]
    environment = {**os.environ, "TLCLI_CACHE_DIR": str(folder / "cache")}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    with (output / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file)), (output / "model.safetensors").read_bytes()


def largest_difference(rows: Rows, others: Rows) -> float:
    """Return the largest relative difference of the train losses."""
    pairs = zip(rows, others, strict=True)
    return max(abs(float(b["train/loss"]) / float(a["train/loss"]) - 1) for a, b in pairs)


def plot(curves: dict[str, Rows], path: Path) -> None:
    """Draw the train losses of all arms, the first as a wide line under the others."""
    figure, axes = plt.subplots(figsize=(6, 4))
    widths = {"not kept": 8, "float32": 4, "float16, folded": 1.5}
    for arm, rows in curves.items():
        losses = [float(row["train/loss"]) for row in rows]
        axes.plot(range(1, len(losses) + 1), losses, label=arm, linewidth=widths[arm])
    axes.set(xlabel="epoch", ylabel="train loss")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    """Print differences, and draw the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", default="none")
    parser.add_argument("--unfreeze", default="last:2")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    print("seed  arm               loss, largest relative difference  last val top-1  weights")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            runs = {arm: run(arm, args, seed=seed, folder=Path(folder)) for arm in ARMS}
            curves = {arm: rows for arm, (rows, _) in runs.items()}
            for arm, (rows, weights) in runs.items():
                difference = largest_difference(curves["not kept"], rows)
                accuracy = float(rows[-1]["val/top1"])
                same = "same" if weights == runs["not kept"][1] else "differ"
                print(
                    f"{seed:4}  {arm:16}  {difference:33.1e}  {accuracy:14.4f}  {same}", flush=True
                )
            if args.plot and seed == 0:
                plot(curves, args.plot)


if __name__ == "__main__":
    main()
