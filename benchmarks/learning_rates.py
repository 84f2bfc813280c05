"""What it costs to try eight learning rates on what one frozen part made of the images.

    python benchmarks/learning_rates.py DATA --model timm/tf_efficientnet_lite0 --weights FILE
        --unfreeze last:2 [--limit 500] [--epochs 10] [--rounds 3]

Eight runs of `tlcli finetune` that share one cache, empty at first, against one run that keeps
nothing and shows the same views; each a process from start to end. Printed are seconds (minimum,
median, maximum) and how many uncached runs the eight cost.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RATES = (1e-4, 3e-4, 6e-4, 1e-3, 2e-3, 4e-3, 8e-3, 2e-2)


def run(args: argparse.Namespace, *, lr: float, kept: bool, folder: Path) -> float:
    """Return the seconds of a run."""
    options = ["--data", args.data, "--model", args.model, "--weights", args.weights]
    options += ["--unfreeze", args.unfreeze, "--epochs", str(args.epochs)]
    options += ["--limit", str(args.limit), "--lr", str(lr), "--quiet"]
    options += ["--trunk-cache", "disk"] if kept else ["--trunk-cache", "off", "--views", "4"]
    output = folder / f"{'kept' if kept else 'off'}-{lr:g}"
    command = [sys.executable, "-m", "tlcli", "finetune", *options, "--output", str(output)]
    environment = {**os.environ, "TLCLI_CACHE_DIR": str(folder / "cache")}
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - started


def main() -> None:
    """Print seconds and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", default="none")
    parser.add_argument("--unfreeze", required=True)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    eight: list[float] = []
    one: list[float] = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            one.append(run(args, lr=RATES[3], kept=False, folder=place))
            eight.append(sum(run(args, lr=lr, kept=True, folder=place) for lr in RATES))
    for what, times in (("one run, nothing kept", one), ("eight learning rates, kept", eight)):
        spread = f"{min(times):7.1f} {statistics.median(times):7.1f} {max(times):7.1f}"
        print(f"{what:27} {spread} s (minimum, median, maximum)")
    print(f"the eight cost {statistics.median(eight) / statistics.median(one):.2f} of the other")


if __name__ == "__main__":
    main()
