"""What to train, and on how many views of an image: options compared on real photos.

    python benchmarks/defaults.py regimes DATA WEIGHTS [--sets A,B] [--seeds 3] [--epochs 10]
    python benchmarks/defaults.py views DATA WEIGHTS

`regimes` trains the head, the last stages, one stage after the other, or everything; `views` shows
the last two stages 1, 2, 4, 8 random views of every image in turn, or a fresh one in each epoch.
DATA holds the folders of image sets, WEIGHTS is a file of `timm/tf_efficientnet_lite0`. Every arm
is trained with every seed by `tlcli finetune` with its defaults; the seed draws the split where a
set has none, the order and the head. A set without a test part gives up a fifth of its images for
one, as the part that chose the epoch flatters arms with more epochs to choose from. Runs go to
`runs/defaults/SET-ARM-EPOCHS-SEED-KEY`, where KEY stands for the options, the weights, tlcli's
version and its defaults, and those that are there are not made again. Printed are mean, lowest and
highest top-1 of the test part.
"""

import argparse
import functools
import hashlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

from tlcli import __version__
from tlcli.config import FinetuneConfig, options_of

Arms = dict[str, list[str]]
REGIMES: Arms = {
    "head": ["--unfreeze", "head"],
    "last:1": ["--unfreeze", "last:1"],
    "last:3": ["--unfreeze", "last:3"],
    "gradual": ["--schedule", "gradual:2"],
    "all": ["--unfreeze", "all"],
}
TAIL = ["--unfreeze", "last:2"]
MODEL = "timm/tf_efficientnet_lite0"
RUNS = Path("runs/defaults")


def arms_of(comparison: str, *, epochs: int) -> Arms:
    """Return the options of each arm by its name."""
    if comparison == "regimes":
        return REGIMES
    views = {"1": 1, "2": 2, "4": 4, "8": 8, "fresh": epochs}
    return {name: [*TAIL, "--views", str(count)] for name, count in views.items()}


def run(
    data: Path, weights: Path, *, arm: str, chosen: list[str], seed: int, epochs: int
) -> tuple[float, float]:
    """Train unless that was done; return top-1 and seconds."""
    options = ["--model", MODEL, *chosen, "--seed", str(seed), "--epochs", str(epochs)]
    if not (data / "test").is_dir():
        options += ["--test-split", "0.2"]
    defaults = options_of(FinetuneConfig())
    key = json.dumps([options, defaults, str(data.resolve()), sha256_of(weights), __version__])
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    output = RUNS / f"{data.name}-{arm.replace(':', '')}-{epochs}-{seed}-{digest}"
    record = output / "run.json"
    if not record.exists() or json.loads(record.read_text())["status"] != "finished":
        options += ["--data", str(data), "--weights", str(weights), "--output", str(output)]
        command = [sys.executable, "-m", "tlcli", "finetune", *options, "--quiet", "--resume"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = json.loads(record.read_text())
    return found["results"]["test"]["metrics"]["top1"], found["seconds"]["total"]


@functools.cache
def sha256_of(file: Path) -> str:
    """Return the digest of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main() -> None:
    """Print a Markdown table, row by row as it is made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", choices=["regimes", "views"])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--sets", default="hymenoptera,brain_mri,clothing10")
    parser.add_argument("--arms", help="some of them, with commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    arms = arms_of(args.comparison, epochs=args.epochs)
    wanted = args.arms.split(",") if args.arms else list(arms)
    print("| data | arm | mean top-1 | lowest | highest | seconds per run |")
    print("|---|---|---|---|---|---|")
    for name in args.sets.split(","):
        for arm in wanted:
            common = {"arm": arm, "chosen": arms[arm], "epochs": args.epochs}
            rows = [
                run(args.data / name, args.weights, seed=seed, **common)
                for seed in range(args.seeds)
            ]
            scores = [score for score, _ in rows]
            seconds = statistics.mean(spent for _, spent in rows)
            print(
                f"| {name} | {arm} | {statistics.mean(scores):.3f} | {min(scores):.3f} | "
                f"{max(scores):.3f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
